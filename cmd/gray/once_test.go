package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/admin"
)

// once runs a daemon to its end and returns its exit code and what it printed
// beside its log.
func (l *lab) once(flags ...string) (code int, said string) {
	l.t.Helper()
	args := append([]string{
		"daemon", "--once", "--repo", l.Repo, "--state", "file:" + filepath.Join(l.t.TempDir(), "state.db"), "--log-format", "json",
		"--xds-listen", l.Address("18000"), "--admin-listen", l.Address("18001"),
	}, flags...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	var out strings.Builder
	cmd.Stderr = &out
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = exit.ExitCode(), nil
	}
	l.ok(err)
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "{") {
			said += line
		}
	}
	return code, said
}

func TestOnce(t *testing.T) {
	l := newLab(t)
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	if code, said := l.once(); code != exitFine || said != "" {
		t.Fatalf("it ends with %d and says\n%s", code, said)
	}
	if l.entries(0x02000009) != 1 {
		t.Error("it ended well, and the VPC is not on the switch")
	}

	// A document that is wrong needs no second try.
	bad := filepath.Join(l.Repo, "policies", "bad.yaml")
	l.ok(os.WriteFile(bad, []byte("kind: nonsense\n"), 0o644))
	l.ok(l.Commit(t.Context(), "bad"))
	begin := time.Now()
	code, said := l.once("--once-timeout", "1h")
	if code != exitNo || !strings.Contains(said, "policies/bad.yaml:1: ") || !strings.Contains(said, "CommitRefused") {
		t.Errorf("with a bad document it ends with %d and says\n%s", code, said)
	}
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("it took %v to refuse a bad document", took)
	}

	// A switch that is away is tried for so long.
	l.ok(os.Remove(bad))
	file := filepath.Join(l.Repo, "gateways", "vpc-gw.yaml")
	b, err := os.ReadFile(file)
	l.ok(err)
	l.ok(os.WriteFile(file, []byte(strings.Replace(string(b), l.Address("9559"), "127.0.0.1:1", 1)), 0o644))
	l.ok(l.Commit(t.Context(), "a switch that is away"))
	code, said = l.once("--once-timeout", "2s")
	if code != exitNo || !strings.Contains(said, "p4rt/gw-a: False Unreachable") || strings.Contains(said, "xds: ") {
		t.Errorf("with a switch that is away it ends with %d and says\n%s", code, said)
	}
}

// A commit that takes a switch out of the repository is refused until somebody
// confirms it, which takes a restart; then the switch is emptied.
func TestARemovedSwitchIsEmptied(t *testing.T) {
	l := newLab(t)
	l.startDaemon()
	l.live()
	full := l.entries(0)
	l.ok(os.Remove(filepath.Join(l.Repo, "gateways", "vpc-gw.yaml")))
	l.ok(l.Commit(t.Context(), "no switch"))
	held := func(s *admin.Status) bool {
		return s.Fetched == l.head() && s.Revision != l.head() && s.Targets[0].Name == "p4rt/gw-a" && s.Conditions[0].Reason == "DeleteRefused"
	}
	l.until("the commit is refused", held)
	l.kill()
	l.startDaemon()
	l.until("the commit is refused after a restart", held)
	if n := l.entries(0); n != full || n == 0 {
		t.Errorf("a switch that is to stay has %d entries, want %d", n, full)
	}
	l.kill()
	l.startDaemon("--confirm-delete", l.head())
	l.until("the switch is forgotten", func(s *admin.Status) bool {
		return s.Revision == l.head() && len(s.Targets) == 1 && settled(s)
	})
	if n := l.entries(0); n != 0 {
		t.Errorf("a switch that was cleaned has %d entries", n)
	}
}

// TestTraceLive asks the daemon: it answers by the commit in force, also while a
// newer one is refused.
func TestTraceLive(t *testing.T) {
	l := newLab(t)
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	l.startDaemon()
	l.live()
	good := l.head()
	l.ok(os.WriteFile(filepath.Join(l.Repo, "bad.yaml"), []byte("kind: Nothing\n"), 0o600))
	l.ok(l.Commit(t.Context(), "bad"))
	l.until("the bad commit was seen", func(s *admin.Status) bool { return len(s.Errors) > 0 })
	ask := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(os.Args[0], append([]string{"trace"}, append(args, "--live", "--admin-listen", l.Address("18001"))...)...)
		cmd.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
		out, err := cmd.Output()
		l.ok(err)
		return string(out)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"request", "--host", "vpc-api.internal", "--header", "x-ucloud-routeby: account_id=50002001"}, "answered by v2 of Service vpc-api"},
		{[]string{"packet", "--vip", "203.0.113.10", "--vni", "1001", "--src", "10.0.0.5", "--dst", "10.0.0.6"}, "> gray_vpc        VNI 1001 -> pool v2"},
	} {
		if got := ask(c.args...); !strings.Contains(got, "live at "+good) || !strings.Contains(got, c.want) {
			t.Errorf("%v: got\n%s", c.args, got)
		}
	}
}
