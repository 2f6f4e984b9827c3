package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/demo"
)

// TestRenderedBootstrapIsValid has the real Envoy read the bootstrap: the file that
// a systemd unit names, and the command of a compose file.
func TestRenderedBootstrapIsValid(t *testing.T) {
	envoy := testEnvoy(t)
	d := &demo.Lab{Dir: t.TempDir()}
	if err := d.MakeRepository(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	for _, kind := range []string{"bootstrap", "compose"} {
		root := newRoot()
		root.SetArgs([]string{"render", kind, "--all", "--out", out, d.Repo})
		root.SetErr(new(strings.Builder))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(out, "host-1.compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct{ Command []string }
	}
	if err := yaml.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"bootstrap": {"-c", filepath.Join(out, "host-1.envoy.yaml")}, "compose": file.Services["gray_envoy"].Command,
	} {
		text, err := exec.CommandContext(t.Context(), envoy, append([]string{"--mode", "validate"}, args...)...).CombinedOutput()
		if err != nil || !strings.Contains(string(text), "OK") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
	}
	// It would have told: the same with a word that Envoy does not know.
	text, err := exec.CommandContext(t.Context(), envoy, "--mode", "validate", "--config-yaml", "colour: gray").CombinedOutput()
	if err == nil {
		t.Errorf("nonsense is valid:\n%s", text)
	}
}

// TestComposeFolderIsKept has the daemon keep a folder of compose files: written,
// put right after somebody changed it, and cleared of a node that is gone, also
// where the node went while the daemon was away.
func TestComposeFolderIsKept(t *testing.T) {
	l := newLab(t)
	folder := filepath.Join(l.Dir, "files")
	file := func(node string) string { return filepath.Join(folder, node+".compose.yaml") }
	holds := func(node, text string) func(*admin.Status) bool {
		return func(*admin.Status) bool {
			b, err := os.ReadFile(file(node))
			return err == nil && strings.Contains(string(b), text)
		}
	}
	gone := func(node string) func(*admin.Status) bool {
		return func(*admin.Status) bool {
			_, err := os.Stat(file(node))
			return os.IsNotExist(err)
		}
	}
	node := func(name string) {
		text := "apiVersion: gray.dev/v1alpha1\nkind: Node\nmetadata: {name: " + name + "}\nspec: {address: 192.0.2.9}\n"
		l.ok(os.WriteFile(filepath.Join(l.Repo, "nodes", name+".yaml"), []byte(text), 0o600))
	}
	for _, n := range []string{"host-2", "host-3", "host-4"} {
		node(n)
	}
	l.ok(l.Commit(t.Context(), "nodes"))
	l.startDaemon("--compose-dir", folder, "--xds-address", "gray.internal:18000")
	l.until("the files are there", func(s *admin.Status) bool {
		return holds("host-1", "vpc-api:1.8.2")(s) && holds("host-2", "gray.internal")(s) &&
			holds("host-3", "gray.internal")(s) && holds("host-4", "gray.internal")(s)
	})
	// Put there whole, by a rename: no one sees it half written.
	l.ok(os.WriteFile(file("other"), []byte("# Made by somebody\n"), 0o600))
	l.ok(os.Rename(file("other"), file("host-2")))
	l.ok(os.Remove(file("host-3")))
	l.until("the file is back, and what somebody else put there shows", func(s *admin.Status) bool {
		for _, target := range s.Targets {
			if target.Name == "compose" && strings.Contains(target.Conditions[0].Message, "was not made by gray") {
				return holds("host-3", "gray.internal")(s)
			}
		}
		return false
	})
	l.ok(os.Remove(file("host-2")))
	l.until("the file is written once nobody's is in the way", holds("host-2", "gray.internal"))
	l.ok(os.Remove(filepath.Join(l.Repo, "nodes", "host-2.yaml")))
	l.ok(l.Commit(t.Context(), "without host-2"))
	l.until("the node's file is gone", gone("host-2"))
	l.kill()
	l.ok(os.Remove(filepath.Join(l.Repo, "nodes", "host-3.yaml")))
	l.ok(l.Commit(t.Context(), "without host-3"))
	l.startDaemon("--compose-dir", folder, "--xds-address", "gray.internal:18000", "--max-delete", "50")
	l.until("the file of the node that went meanwhile is gone", gone("host-3"))
}
