package sources

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestResolveAsTheSystem makes random links in a folder, and holds that Resolve
// leads where the system does, unless it refuses.
func TestResolveAsTheSystem(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", "..d", "e"}
	name := func() string {
		p := names[rng.IntN(len(names))]
		for range rng.IntN(4) {
			p += "/" + append(names, "..", ".", "")[rng.IntN(len(names)+3)]
		}
		return p
	}
	readlink := func(p string) (string, bool, error) {
		target, err := os.Readlink(filepath.Join(root, p))
		return target, err == nil, nil
	}
	var met, left, refused int
	for range 200 {
		if err := errors.Join(os.RemoveAll(root), os.Mkdir(root, 0o755)); err != nil {
			t.Fatal(err)
		}
		for range 12 {
			p := filepath.Join(root, name())
			_ = os.MkdirAll(filepath.Dir(p), 0o755)
			switch rng.IntN(3) {
			case 0:
				_ = os.WriteFile(p, nil, 0o644)
			case 1:
				_ = os.Symlink(strings.Repeat("../", rng.IntN(3))+name(), p)
			case 2:
				_ = os.Mkdir(p, 0o755)
			}
		}
		for range 20 {
			p := name()
			got, err := Resolve(p, readlink)
			want, sysErr := filepath.EvalSymlinks(root + "/" + p) // Join would take .. away
			inside := want == root || strings.HasPrefix(want, root+"/")
			switch {
			case errors.Is(err, ErrLeaves) && (sysErr != nil || !inside):
				left++
			case errors.Is(err, errTooMany):
				refused++
			case err != nil:
				t.Fatalf("%s: %v, the system has %s", p, err, want)
			case sysErr == nil && filepath.Join(root, got) != want:
				t.Fatalf("%s: %s, the system has %s", p, got, want)
			case sysErr == nil:
				met++
			}
		}
	}
	if met < 500 || left < 100 || refused == 0 {
		t.Errorf("%d met, %d left, %d refused: the test holds little", met, left, refused)
	}
}

func TestWanted(t *testing.T) {
	for p, want := range map[string]bool{
		"a.yaml": true, "a/b.yml": true, "a/b/c.csv": true, ".grayignore": true, "a.b.yaml": true, "..": false,
		"a": false, "a.json": false, "a.yaml.bak": false, "yaml": false, ".a.yaml": false, ".a/b.yaml": false,
		"a/.b/c.yaml": false, "a/.grayignore": false, "a.YAML": false, "..data/a.yaml": false,
		"p4info.txtpb": true, "a/b/p4info.txtpb": true, "a/device_config.bin": true, "device_config.json": true,
		"a.p4info.txtpb": false, "a/device_config": false, "device_config.bin.bak": false, ".a/p4info.txtpb": false, "p4info.txtpb/x": false,
	} {
		if got := Wanted(p); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}

func TestRefuse(t *testing.T) {
	for p, most := range map[string]int64{"a.yaml": 1 << 20, "a.yml": 1 << 20, ".grayignore": 1 << 20, "a.csv": 16 << 20} {
		if err := Refuse(p, most); err != nil {
			t.Errorf("%s: %v", p, err)
		}
		if err := Refuse(p, most+1); err == nil {
			t.Errorf("%s: %d bytes are not refused", p, most+1)
		}
	}
}
