package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/gray-release/gray/admin"
)

// testEnvoy is the real Envoy that make tools installs. Without one the test is
// skipped, but on CI it fails.
func testEnvoy(t *testing.T) string {
	t.Helper()
	if tools, err := filepath.Abs("../../.tools"); err == nil {
		t.Setenv("PATH", tools+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
	path, err := findEnvoy(t.Context())
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	return path
}

// TestDemo runs the whole demo against the real Envoy.
func TestDemo(t *testing.T) {
	testEnvoy(t)
	var out strings.Builder
	if err := (&demo{out: &out}).run(t.Context()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, want := range []string{
		"account 50002001 is answered by v2", "account 50009999 is answered by v1",
		"VNI 1001 leaves on port 6, a v2 port", "All expectations held",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the demo did not say %q:\n%s", want, &out)
		}
	}
}

// TestNACKShowsAtItsLine gives an Envoy a listener on a port that is taken: what
// it says about that must stand in status at the Node's line.
func TestNACKShowsAtItsLine(t *testing.T) {
	envoy := testEnvoy(t)
	l := newLab(t)
	taken, err := net.Listen("tcp", l.address("15001"))
	l.ok(err)
	defer taken.Close()
	l.startDaemon()
	stop, err := l.startEnvoy(t.Context(), envoy)
	l.ok(err)
	t.Cleanup(func() { _ = stop() })
	s := l.until("the refusal shows and all else is ready", func(s *admin.Status) bool {
		ready := 0
		for _, d := range s.Documents {
			if c := d.Conditions[0]; c.Status == "True" && d.Kind != "Node" || c.Reason == "Refused" && d.Kind == "Node" {
				ready++
			}
		}
		return len(s.Documents) > 0 && ready == len(s.Documents)
	})
	for _, d := range s.Documents {
		if d.Kind != "Node" {
			continue
		}
		if d.Conditions[0].Status != "False" {
			t.Fatalf("the node is %+v, want it refused", d.Conditions[0])
		}
		if m := d.Conditions[0].Message; !strings.HasPrefix(m, "nodes/host-1.yaml:1: ") || !strings.Contains(m, "host-1") {
			t.Errorf("the refusal is shown as %q", m)
		}
	}
	// It is put right by freeing the port and another commit.
	l.ok(taken.Close())
	l.ok(l.moveProxy())
	l.ok(l.commit(t.Context(), "another port"))
	l.live()
}

// moveProxy gives the node another proxy port.
func (l *lab) moveProxy() error {
	file := filepath.Join(l.repo, "nodes", "host-1.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	_, old, _ := net.SplitHostPort(l.address("15001"))
	if err := free.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(strings.ReplaceAll(string(b), old, port)), 0o644)
}
