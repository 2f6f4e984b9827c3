package main

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gray-release/gray/tools/testnet"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/demo"
)

// testEnvoy is the real Envoy that make tools installs. Without one the test is
// skipped, but on CI it fails.
func testEnvoy(t testing.TB) string {
	t.Helper()
	path, err := demo.FindEnvoy(t.Context())
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	if err != nil {
		t.Skip(err)
	}
	return path
}

// TestNACKShowsAtItsLine gives an Envoy a listener on a port that is taken: what
// it says about that must stand in status at the Node's line.
func TestNACKShowsAtItsLine(t *testing.T) {
	envoy := testEnvoy(t)
	l := newLab(t)
	taken, err := net.Listen("tcp", l.Address("15001"))
	l.ok(err)
	defer taken.Close()
	l.startDaemon()
	stop, err := l.StartEnvoy(t.Context(), envoy)
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
	l.ok(l.Commit(t.Context(), "another port"))
	l.live()
}

// moveProxy gives the node another proxy port.
func (l *lab) moveProxy() error {
	file := filepath.Join(l.Repo, "nodes", "host-1.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	_, old, _ := net.SplitHostPort(l.Address("15001"))
	return os.WriteFile(file, []byte(strings.ReplaceAll(string(b), old, strconv.Itoa(int(testnet.FreePort())))), 0o644)
}

// TestEnvoyIsLeftAlone holds that neither a commit that changes nothing nor a
// restart of the daemon sends anything to an Envoy that is up to date. A commit
// that does change something shows that the count would have told.
func TestEnvoyIsLeftAlone(t *testing.T) {
	envoy := testEnvoy(t)
	l := newLab(t)
	l.startDaemon()
	stop, err := l.StartEnvoy(t.Context(), envoy)
	l.ok(err)
	t.Cleanup(func() { _ = stop() })
	l.live()
	synced := func() {
		t.Helper()
		l.until("the Envoy is in step", func(s *admin.Status) bool {
			return synced(s.Proxies)
		})
	}
	synced()
	before := l.updates()
	if before == 0 {
		t.Fatal("the Envoy counts no updates")
	}
	l.ok(os.WriteFile(filepath.Join(l.Repo, "README.txt"), []byte("no document"), 0o644))
	l.ok(l.Commit(t.Context(), "no-op"))
	l.live()
	l.kill()
	l.startDaemon()
	l.live()
	synced()
	if now := l.updates(); now != before {
		t.Errorf("a no-op commit and a restart made %d updates", now-before)
	}
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	l.live()
	synced()
	if now := l.updates(); now != before+1 {
		t.Errorf("one account made %d updates, want 1", now-before)
	}
}

// updates counts what the Envoy has ever taken, of any type.
func (l *lab) updates() int {
	l.t.Helper()
	res, err := http.Get("http://" + l.Address("15000") + "/stats?filter=update_success")
	l.ok(err)
	defer res.Body.Close()
	sum := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		_, number, _ := strings.Cut(lines.Text(), ": ")
		n, err := strconv.Atoi(number)
		l.ok(err)
		sum += n
	}
	return sum
}

// renderBootstrap is the bootstrap of a node whose daemon serves xDS at an address.
func renderBootstrap(t testing.TB, repo, node, address string) string {
	t.Helper()
	var out strings.Builder
	if err := gray(t.Context(), &out, "render", "bootstrap", node, repo, "--xds-listen", address); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
