package compose

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestFolder keeps files of its own beside files of others.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f := Folder{Dir: dir, Suffix: ComposeSuffix}
	sync := func(texts map[string]string, written, removed, wrong string) {
		t.Helper()
		w, r, err := f.Sync(texts)
		if strings.Join(w, " ") != written || strings.Join(r, " ") != removed {
			t.Errorf("wrote %q and removed %q, want %q and %q", w, r, written, removed)
		}
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("got error %v, want %q", err, wrong)
		}
	}
	one, two := Mark("one", "1\n"), Mark("two", "2\n")
	sync(map[string]string{"one": one, "two": two}, "one.compose.yaml two.compose.yaml", "", "")
	sync(map[string]string{"one": one, "two": two}, "", "", "")
	sync(map[string]string{"one": Mark("one", "x\n"), "two": two}, "one.compose.yaml", "", "")
	sync(map[string]string{"one": one}, "one.compose.yaml", "two.compose.yaml", "")

	others := map[string]string{
		"three.compose.yaml": "services: {}\n",        // no mark
		"four.compose.yaml":  one,                     // the mark of another
		"one.envoy.yaml":     one,                     // another suffix
		"README":             "nothing\n",             //
		"five.compose.yaml":  one[:20],                // half a mark
		".six.compose.yaml":  Mark("six", "hidden\n"), // of no node, as that is no label
	}
	for name, text := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(Mark("link", "x\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.compose.yaml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.compose.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	foreign := Mark("link", "y\n")
	sync(map[string]string{"three": Mark("three", "3\n"), "link": foreign, "folder": foreign}, "", "one.compose.yaml", "three.compose.yaml is there already and was not made by gray")
	for name, text := range others {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
			t.Errorf("%s of somebody else is %q, %v", name, b, err)
		}
	}
	sync(map[string]string{"huge": Mark("huge", strings.Repeat("#", maxFile))}, "", "", "huge.compose.yaml would have 4194")
	if b, _ := os.ReadFile(outside); string(b) != Mark("link", "x\n") {
		t.Errorf("the file outside is %q", b)
	}
	if err := f.Remove("three"); err != nil {
		t.Errorf("removing a file of somebody else: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := []string{".six.compose.yaml", "README", "five.compose.yaml", "folder.compose.yaml", "four.compose.yaml", "link.compose.yaml", "one.envoy.yaml", "three.compose.yaml"}
	if !slices.Equal(names, want) {
		t.Errorf("in the folder are %v, want %v", names, want)
	}
}
