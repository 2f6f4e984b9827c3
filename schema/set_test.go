package schema

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func nodeText(name, address string) string {
	return fmt.Sprintf("kind: Node\nmetadata: {name: %s}\nspec: {address: %s}\n", name, address)
}

func networkText(name string, vni int, routesFrom string) string {
	return fmt.Sprintf("kind: Network\nmetadata: {name: %s}\nspec: {vni: %d, routesFrom: %s}\n", name, vni, routesFrom)
}

func csvText(address string) string {
	return "vm,prefix,mac,vtep\na," + address + ",02:00:00:00:00:01,192.0.2.1\n"
}

// names makes names from kinds and names in turn.
func names(kindsAndNames ...string) []Name {
	var list []Name
	for i := 0; i < len(kindsAndNames); i += 2 {
		list = append(list, Name{kindsAndNames[i], kindsAndNames[i+1]})
	}
	return list
}

// TestUpdate walks a set through edits and holds which names each one touches
// and what is wrong after it.
func TestUpdate(t *testing.T) {
	set := NewSet()
	var files Files
	for i, step := range []struct {
		what   string
		put    []*File
		remove []string
		want   []Name
		errs   string
	}{
		{"first", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("b", "10.0.0.2")), file("r.csv", csvText("10.0.0.1"))}, nil, names("Node", "a", "Node", "b"), ""},
		{"nothing", nil, nil, nil, ""},
		{"same text anew", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("b", "10.0.0.2"))}, nil, nil, ""},
		{"the second of two", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("b", "10.0.0.3"))}, nil, names("Node", "b"), ""},
		{"a line above the second", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"\n---\n"+nodeText("b", "10.0.0.3"))}, nil, names("Node", "a", "Node", "b"), ""},
		{"moved to another file", []*File{file("b.yaml", nodeText("b", "10.0.0.3")), file("a.yaml", nodeText("a", "10.0.0.1"))}, nil, names("Node", "a", "Node", "b"), ""},
		{"three", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("c", "10.0.0.1")+"\n\n---\n"+nodeText("d", "x10"))}, nil, names("Node", "c", "Node", "d"), `a.yaml:13: spec.address: "x10" is not an IP address`},
		{"the third is right", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("c", "10.0.0.1")+"\n\n---\n"+nodeText("d", "10.0.0.1"))}, nil, names("Node", "d"), ""},
		{"the third moves up", []*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("c", "10.0.0.1")+"---\n"+nodeText("d", "10.0.0.1"))}, nil, names("Node", "c", "Node", "d"), ""},
		{"two go", []*File{file("a.yaml", nodeText("a", "10.0.0.1"))}, nil, names("Node", "c", "Node", "d"), ""},
		{"routes", []*File{file("n1.yaml", networkText("n1", 1, "r.csv")), file("n2.yaml", networkText("n2", 2, "r.csv"))}, nil, names("Network", "n1", "Network", "n2"), ""},
		{"other routes", []*File{file("r.csv", csvText("10.0.0.2"))}, nil, names("Network", "n1", "Network", "n2"), ""},
		{"wrong routes", []*File{file("r.csv", csvText("x"))}, nil, names("Network", "n1", "Network", "n2"), `r.csv:2: prefix: "x" is not an IP prefix; want address/length`},
		{"no routes", nil, []string{"r.csv"}, names("Network", "n1", "Network", "n2"), "n1.yaml:3: spec.routesFrom: there is no file \"r.csv\" in the repository\nn2.yaml:3: spec.routesFrom: there is no file \"r.csv\" in the repository"},
		{"one user fewer, the other a line down", []*File{file("n2.yaml", "\n"+networkText("n2", 2, "r.csv"))}, []string{"n1.yaml"}, names("Network", "n1", "Network", "n2"), `n2.yaml:4: spec.routesFrom: there is no file "r.csv" in the repository`},
		{"routes again", []*File{file("r.csv", csvText("10.0.0.2"))}, nil, names("Network", "n2"), ""},
		{"a double before", []*File{file("m.yaml", networkText("n2", 3, "other.csv")), file("other.csv", csvText("x"))}, nil, names("Network", "n2"), "n2.yaml:3: metadata.name: there is a Network \"n2\" already, at m.yaml:1; give each its own name\nother.csv:2: prefix: \"x\" is not an IP prefix; want address/length"},
		{"the double goes", nil, []string{"m.yaml", "other.csv"}, names("Network", "n2"), ""},
		{"routes after a double", []*File{file("r.csv", csvText("10.0.0.9"))}, nil, names("Network", "n2"), ""},
		{"broken", []*File{file("b.yaml", nodeText("b", "x"))}, nil, names("Node", "b"), `b.yaml:3: spec.address: "x" is not an IP address`},
		{"ignored", []*File{file(IgnoreFile, "b.*\nn2.yaml\n")}, nil, names("Network", "n2", "Node", "b"), ""},
		{"no longer ignored", []*File{file(IgnoreFile, "b.*\n")}, nil, names("Network", "n2"), ""},
		{"all gone", nil, []string{"a.yaml", "b.yaml", "n2.yaml", "r.csv", IgnoreFile}, names("Network", "n2", "Node", "a"), ".: holds no gray document; is this the right folder and branch?"},
	} {
		files = files.With(step.put, step.remove)
		if diff := cmp.Diff(step.want, set.Update(&Snapshot{Files: files})); diff != "" {
			t.Errorf("step %d, %s: names (-want +got):\n%s", i, step.what, diff)
		}
		if diff := cmp.Diff(step.errs, problems(set)); diff != "" {
			t.Errorf("step %d, %s: errors (-want +got):\n%s", i, step.what, diff)
		}
	}
}

// TestSetLooks holds what can be asked of a set.
func TestSetLooks(t *testing.T) {
	snap := snapshot(
		"a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("bad", "x")+"---\n"+"kind: Network\nmetadata: {name: inline, labels: {shard: s1}}\nspec: {vni: 1, routes: [{vm: a, prefix: 10.0.0.1, mac: '02:00:00:00:00:02', vtep: 192.0.2.1}]}\n",
		"b.yaml", networkText("csv", 2, "r/r.csv")+"---\n"+networkText("gone", 3, "r/gone.csv")+"---\n"+nodeText("a", "10.0.0.9"),
		"r/r.csv", csvText("10.0.0.7"))
	set, _ := Parse(snap)
	if diff := cmp.Diff(names("Network", "csv", "Network", "gone", "Network", "inline", "Node", "a"), set.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	if set.Len() != 4 {
		t.Errorf("%d documents, want 4", set.Len())
	}
	a := set.Get(Name{KindNode, "a"})
	if got := a.Spec.(*NodeSpec).Address; got != addr("10.0.0.1") || a.Position != (Position{"a.yaml", 1}) || a.Name.String() != "Node/a" {
		t.Errorf("got %v at %v, want the first of its name", got, a.Position)
	}
	if diff := cmp.Diff(Metadata{Name: "inline", Labels: map[string]string{"shard": "s1"}}, set.Get(Name{KindNetwork, "inline"}).Metadata); diff != "" {
		t.Errorf("metadata (-want +got):\n%s", diff)
	}
	if set.Get(Name{KindNode, "bad"}) != nil || !set.Broken(Name{KindNode, "bad"}) || set.Broken(Name{KindNode, "a"}) || set.Broken(Name{KindNode, "nowhere"}) {
		t.Error("which documents are broken is wrong")
	}
	route := func(p string, mac byte) []Route {
		return []Route{{"a", prefix(p), MAC{2, 0, 0, 0, 0, mac}, addr("192.0.2.1")}}
	}
	for name, want := range map[string][]Route{"inline": route("10.0.0.1/32", 2), "csv": route("10.0.0.7/32", 1), "gone": nil, "nowhere": nil} {
		if diff := cmp.Diff(want, set.Routes(name), byValue); diff != "" {
			t.Errorf("routes of %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestUnchangedStays holds that a document that did not change keeps its
// identity, by which others tell that it did not.
func TestUnchangedStays(t *testing.T) {
	files := NewFiles(file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("b", "10.0.0.2")))
	set, err := Parse(&Snapshot{Files: files})
	if err != nil {
		t.Fatal(err)
	}
	a, b := set.Get(Name{KindNode, "a"}), set.Get(Name{KindNode, "b"})
	set.Update(&Snapshot{Files: files.With([]*File{file("a.yaml", nodeText("a", "10.0.0.1")+"---\n"+nodeText("b", "10.0.0.3"))}, nil)})
	if set.Get(a.Name) != a || set.Get(b.Name) == b {
		t.Error("the wrong document was read anew")
	}
}

// TestManyDoubles holds that many documents of one name are told of within
// bounds, and that they can go.
func TestManyDoubles(t *testing.T) {
	var list []*File
	for i := range 10_000 {
		list = append(list, file(fmt.Sprintf("%05d.yaml", i), node))
	}
	set, _ := Parse(&Snapshot{Files: NewFiles(list...)})
	errs := set.Err().(Errors)
	if got := errs[len(errs)-1].Error(); len(errs) != maxErrors+1 || got != "and 8999 more errors" {
		t.Errorf("%d errors, the last: %s", len(errs), got)
	}
	if got := errs[0].Error(); got != `00001.yaml:2: metadata.name: there is a Node "n" already, at 00000.yaml:1; give each its own name` {
		t.Errorf("the first: %s", got)
	}
	var paths []string
	for _, f := range list[1:] {
		paths = append(paths, f.Path)
	}
	slices.Reverse(paths)
	set.Update(&Snapshot{Files: set.files.With(nil, paths)})
	if err := set.Err(); err != nil || set.Len() != 1 {
		t.Errorf("without the doubles: %v, %v", set, err)
	}
}
