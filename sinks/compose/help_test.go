package compose

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// bootstrap stands for what package xds makes, with dollar signs, which that has not.
func bootstrap(n *policies.Node) ([]byte, error) {
	return fmt.Appendf(nil, "node: {id: %s, cluster: $HOME ${HOME}}\n# it's \"so\"\n", n.Name), nil
}

func newSink(t *testing.T, dir string) *Sink {
	t.Helper()
	s, err := New(Config{Dir: dir, Bootstrap: bootstrap})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// compile makes the IR of documents.
func compile(t *testing.T, documents string) *policies.IR {
	t.Helper()
	set := schema.NewSet()
	snapshot := &schema.Snapshot{Files: schema.NewFiles(&schema.File{Path: "all.yaml", ID: documents, Data: []byte(documents)})}
	ir, _, err := policies.NewCompiler(policies.NewIDs(), nil).Compile(set, set.Update(snapshot), policies.Facts{})
	if err != nil {
		t.Fatal(err)
	}
	return ir
}

func nodeOf(t *testing.T, ir *policies.IR, name string) *policies.Node {
	t.Helper()
	n, ok := ir.Get(policies.Name{Kind: schema.KindNode, Name: name}).(*policies.Node)
	if !ok {
		t.Fatalf("there is no Node %s", name)
	}
	return n
}

// rendered is the file of host-1 of documents.
func rendered(t *testing.T, documents string) string {
	t.Helper()
	ir := compile(t, documents)
	text, err := newSink(t, "").Render(ir, nodeOf(t, ir, "host-1"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// loaded is a file as compose-go loads it by itself, with an environment in which
// HOME and PRICE mean something.
func loaded(t *testing.T, text string) *types.Project {
	t.Helper()
	p, err := loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir: t.TempDir(), Environment: types.Mapping{"HOME": "/root", "PRICE": "9"},
		ConfigFiles: []types.ConfigFile{{Filename: "compose.yaml", Content: []byte(text)}},
	}, func(o *loader.Options) {
		o.SkipResolveEnvironment, o.SkipResolveLabels = true, true // they are files of the host
		o.SetProjectName("gray", true)
	})
	if err != nil {
		t.Fatalf("compose-go does not load\n%s\n%v", text, err)
	}
	return p
}

// tool finds a program of Debian. Without it the test is skipped, but on CI it
// fails.
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatalf("no %s: apt install %s", name, debian)
	}
	if err != nil {
		t.Skipf("no %s: apt install %s to run this test", name, debian)
	}
	return path
}

// run runs a program and returns what it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func runQuietly(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}
