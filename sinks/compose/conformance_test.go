package compose

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/sinktest"
)

// TestConformance runs the suite that every sink passes on a real folder.
func TestConformance(t *testing.T) { sinktest.Run(t, sinktest.Config{Start: startConformance}) }

func startConformance(t *testing.T) *sinktest.Rig {
	dir := filepath.Join(t.TempDir(), "files")
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		ok(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	base, changed := sinktest.Documents(t, "127.0.0.1:9559")
	base["nodes/all.yaml"] = node("host-2", "") + node("host-3", "{name: vpc-api, version: v2}")
	changed["nodes/all.yaml"] = node("host-3", "") + node("host-4", "{name: vpc-api, version: v2}")
	rig := &sinktest.Rig{Sink: newSink(t, dir), Target: Target, Base: base, Changed: changed, Sent: inodes(t, dir)}
	rig.Restart = func() reconciler.Sink { return newSink(t, dir) }
	rig.Kill = func() { ok(os.RemoveAll(dir)) }
	rig.Foreign = func() { write("gone.compose.yaml", Mark("gone", "services: {a: {image: \"x\\ny\"}}\n")) }
	rig.Damage = func() {
		write("host-1.compose.yaml", Mark("host-1", "nonsense: [\n"))
		ok(os.Remove(filepath.Join(dir, "host-2.compose.yaml")))
	}
	rig.Refused = func(ir *policies.IR) (policies.Name, reconciler.Key) {
		n := policies.Name{Kind: schema.KindNode, Name: "taken"}
		ir.Put(n, &policies.Node{Name: "taken", Image: "envoy:1"})
		write("taken.compose.yaml", "services: {}\n")
		return n, resource("taken", "", schema.Position{}).Key
	}
	return rig
}

func node(name, services string) string {
	return "---\napiVersion: gray.dev/v1alpha1\nkind: Node\nmetadata: {name: " + name + "}\nspec: {address: 192.0.2.7, services: [" + services + "]}\n"
}

// inodes counts what has changed in a folder: every file that is written is a new
// one.
func inodes(t *testing.T, dir string) func() int {
	last, changes := map[string]uint64{}, 0
	return func() int {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return changes
		}
		now := map[string]uint64{}
		for _, e := range entries {
			info, err := e.Info()
			if err != nil {
				t.Fatal(err)
			}
			now[e.Name()] = info.Sys().(*syscall.Stat_t).Ino
			if last[e.Name()] != now[e.Name()] {
				changes++
			}
			delete(last, e.Name())
		}
		changes += len(last)
		last = now
		return changes
	}
}

// TestEqualIsTheWholeText holds that files with the same images and another text are
// not equal.
func TestEqualIsTheWholeText(t *testing.T) {
	one := newBody("services: {a: {image: b}}\n")
	other := newBody("services: {a: {image: b, user: root}}\n")
	if one.Equal(other) || other.Equal(one) || !maps.Equal(one.images, other.images) {
		t.Errorf("%s equals %s", one, other)
	}
}

// TestPlan holds what plans say about files: images, and nothing of an environment.
func TestPlan(t *testing.T) {
	one := newBody(rendered(t, plain))
	for _, c := range []struct {
		got  string
		want []string
	}{
		{one.String(), []string{"api registry.internal/api:1, gray_envoy envoy:test, web web:1 (sha256 "}},
		{newBody(rendered(t, strings.Replace(plain, "api:1", "api:9", 1))).Delta(one), []string{"api registry.internal/api:1 -> registry.internal/api:9 (sha256 "}},
		{newBody(rendered(t, strings.Replace(plain, "{name: web, version: v1}, ", "", 1))).Delta(one), []string{"without web web:1 (sha256 "}},
		{one.Delta(newBody(rendered(t, strings.Replace(plain, "{name: web, version: v1}, ", "", 1)))), []string{"with web web:1 (sha256 "}},
		{newBody(rendered(t, strings.Replace(plain, "5s", "6s", 1))).Delta(one), []string{"same images, other settings (sha256 "}},
		{newBody("nonsense: [").String(), []string{"not a compose file (sha256 "}},
		{newBody("services: {a: {image: \"b\\nc\"}}").String(), []string{`a "b\nc" (sha256 `}},
	} {
		for _, w := range c.want {
			if !strings.HasPrefix(c.got, w) {
				t.Errorf("got %q, want %q", c.got, w)
			}
		}
	}
}
