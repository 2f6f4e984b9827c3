package schema

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// model is what Files must behave like: a map.
type model map[string]*File

func (m model) with(put []*File, remove []string) model {
	next := maps.Clone(m)
	for _, p := range remove {
		delete(next, p)
	}
	for _, f := range put {
		next[f.Path] = f
	}
	return next
}

// changed lists the paths whose file is new, gone or of another ID.
func (m model) changed(old model) []string {
	var paths []string
	for p, f := range m {
		if o := old[p]; o == nil || o.ID != f.ID {
			paths = append(paths, p)
		}
	}
	for p := range old {
		if m[p] == nil {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	return paths
}

func (m model) check(t *testing.T, f Files) {
	t.Helper()
	if f.Len() != len(m) {
		t.Fatalf("%d files, want %d", f.Len(), len(m))
	}
	var got []*File
	for file := range f.All() {
		got = append(got, file)
	}
	if !slices.IsSortedFunc(got, func(a, b *File) int { return Position{Path: a.Path}.Compare(Position{Path: b.Path}) }) {
		t.Fatal("the files are not sorted by path")
	}
	for _, file := range got {
		if m[file.Path] != file || f.Get(file.Path) != file {
			t.Fatalf("another file at %s", file.Path)
		}
	}
	if f.Get("nowhere") != nil {
		t.Fatal("there is a file at nowhere")
	}
}

// TestFilesLikeMap holds that a set of files behaves like a map through random
// edits, that earlier sets stay as they were, and that Changed finds exactly
// what differs between any two of them.
func TestFilesLikeMap(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	sets, models := []Files{{}}, []model{{}}
	for range 25 {
		from := r.IntN(len(sets))
		var put []*File
		var remove []string
		for range r.IntN(200) {
			// Few paths, so that edits meet; more of them than there are shards.
			p := fmt.Sprintf("d%d/f%d.yaml", r.IntN(20), r.IntN(200))
			if r.IntN(3) == 0 {
				remove = append(remove, p)
				continue
			}
			put = append(put, &File{Path: p, ID: fmt.Sprint(r.IntN(3))})
		}
		if r.IntN(10) == 0 { // all goes
			for p := range models[from] {
				remove = append(remove, p)
			}
		}
		sets = append(sets, sets[from].With(put, remove))
		models = append(models, models[from].with(put, remove))
	}
	for i := range sets {
		models[i].check(t, sets[i])
		for j := range sets {
			if diff := cmp.Diff(models[i].changed(models[j]), sets[i].Changed(sets[j])); diff != "" {
				t.Fatalf("changed from %d to %d (-want +got):\n%s", j, i, diff)
			}
		}
	}
}

// TestNewFiles holds which file stays of two with one path, and that the empty
// set can be asked everything.
func TestNewFiles(t *testing.T) {
	a, b := file("a.yaml", "1"), file("a.yaml", "2")
	if got := NewFiles(a, b); got.Get("a.yaml") != b || got.Len() != 1 {
		t.Error("the later file does not stay")
	}
	if got := (Files{}).With([]*File{a}, []string{"a.yaml"}); got.Get("a.yaml") != a {
		t.Error("what is put does not stay")
	}
	var none Files
	model{}.check(t, none)
	if got := none.Changed(NewFiles(a)); !slices.Equal(got, []string{"a.yaml"}) {
		t.Errorf("changed to nothing: %v", got)
	}
	if got := none.Changed(NewFiles()); got != nil {
		t.Errorf("nothing changed: %v", got)
	}
}

// TestFilesShare holds that a copy costs what its change touches.
func TestFilesShare(t *testing.T) {
	files := NewFiles(manyPolicies(50_000)...)
	put := []*File{{Path: "policies/new.yaml", ID: "1"}}
	const runs = 100
	before := allocs()
	for range runs {
		if changed := files.With(put, nil).Changed(files); len(changed) != 1 {
			t.Fatal(changed)
		}
	}
	if each := (allocs() - before) / runs; each > 32<<10 {
		t.Errorf("one file among 50000 costs %d bytes", each)
	}
}

// TestPosition holds how places are written and ordered.
func TestPosition(t *testing.T) {
	for want, p := range map[string]Position{
		"a/b.yaml:5":     {"a/b.yaml", 5},
		"a/b.yaml":       {"a/b.yaml", 0},
		`a\tb\xff.yml:1`: {"a\tb\xff.yml", 1},
		`a"b.yml:1`:      {`a"b.yml`, 1},
		"é b.yaml:1":     {"é b.yaml", 1},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	list := []Position{{"b", 1}, {"a", 10}, {"a", 9}, {"a.yaml", 1}, {"a", 0}}
	slices.SortFunc(list, Position.Compare)
	if diff := cmp.Diff([]Position{{"a", 0}, {"a", 9}, {"a", 10}, {"a.yaml", 1}, {"b", 1}}, list); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
