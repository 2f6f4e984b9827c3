package main

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gray-release/gray/admin"
	"github.com/gray-release/gray/cmd/gray/daemon"
	"github.com/gray-release/gray/cmd/gray/demo"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/tools/testnet"
)

// lab is a demo's laboratory with the daemon as a process of its own, so that it
// can be killed.
type lab struct {
	*demo.Lab
	t      testing.TB
	sw     *softswitch.Switch
	daemon *exec.Cmd
	log    string
}

func newLab(t testing.TB, options ...grpc.ServerOption) *lab {
	t.Helper()
	l := &lab{Lab: &demo.Lab{Dir: t.TempDir(), Gray: gray}, t: t, sw: softswitch.New(1)}
	l.freePorts("18081", "18082", "15001", "15000", "9559", "18000", "18001")
	listener, err := daemon.Listen(l.Address("9559"), false)
	l.ok(err)
	server := grpc.NewServer(append(softswitch.ServerOptions(), options...)...)
	l.sw.Register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	l.ok(l.MakeRepository(t.Context()))
	return l
}

// freePorts is ChoosePorts for tests, which restart what listens.
func (l *lab) freePorts(names ...string) {
	l.Ports = map[string]int{}
	for _, n := range names {
		l.Ports[n] = int(testnet.FreePort())
	}
}

func (l *lab) ok(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// startDaemon starts a daemon process whose log is new.
func (l *lab) startDaemon(flags ...string) {
	l.t.Helper()
	l.log = filepath.Join(l.t.TempDir(), "daemon.log")
	log, err := os.Create(l.log)
	l.ok(err)
	args := append([]string{
		"daemon", "--repo", l.Repo, "--state", "file:" + filepath.Join(l.Dir, "state.db"), "--log-format", "json",
		"--xds-listen", l.Address("18000"), "--admin-listen", l.Address("18001"), "--drift-interval", "300ms",
	}, flags...)
	l.daemon = exec.Command(os.Args[0], args...)
	l.daemon.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	l.daemon.Stderr = log
	l.ok(l.daemon.Start())
	l.t.Cleanup(func() { l.kill(); _ = log.Close() })
}

// kill ends the daemon by SIGKILL.
func (l *lab) kill() {
	if l.daemon != nil {
		_ = l.daemon.Process.Kill()
		_ = l.daemon.Wait()
		l.daemon = nil
	}
}

// until waits for a condition on the daemon's status.
func (l *lab) until(what string, holds func(*admin.Status) bool) *admin.Status {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var last *admin.Status
	for {
		if s, _, err := (admin.Client{Address: l.Address("18001")}).Status(ctx); err == nil {
			if last = s; holds(s) {
				return s
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			log, _ := os.ReadFile(l.log)
			l.t.Fatalf("waited in vain until %s; status %+v, log:\n%s", what, last, log)
		}
	}
}

// head is the newest commit as a revision.
func (l *lab) head() string {
	l.t.Helper()
	cmd := exec.Command("git", "rev-parse", "HEAD")
	cmd.Dir = l.Repo
	out, err := cmd.Output()
	l.ok(err)
	return "main@sha1:" + strings.TrimSpace(string(out))
}

// live waits until the newest commit is applied everywhere.
func (l *lab) live() {
	l.t.Helper()
	head := l.head()
	l.until("the newest commit is live", func(s *admin.Status) bool {
		return s.Revision == head && settled(s) && len(s.Targets) == 2 && s.Targets[0].Observed != nil
	})
}

// settled tells whether everything at the targets is as the commit in force says, except
// that no Envoy has to be connected: most laboratories have none.
func settled(s *admin.Status) bool {
	return len(s.Errors) == 0 && len(s.Targets) > 0 && !slices.ContainsFunc(s.Targets, func(t reconciler.TargetStatus) bool {
		c := t.Conditions[0]
		return t.Pending > 0 || c.Status != "True" && c.Reason != reconciler.ReasonNotConnected
	})
}

// applied is the plans in the log since it began, in the order of targets.
func (l *lab) applied(after int) (text string, records int) {
	l.t.Helper()
	file, err := os.Open(l.log)
	l.ok(err)
	defer file.Close()
	plans := map[string]string{}
	scanner := bufio.NewScanner(file)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var rec struct{ Msg, Target, Plan string }
		if json.Unmarshal(scanner.Bytes(), &rec) == nil && rec.Msg == "applied" {
			if records++; records > after {
				plans[rec.Target] += rec.Plan
			}
		}
	}
	return plans["p4rt/gw-a"] + plans["xds"], records
}

// logged tells whether the log has a record with a message and a text in it.
func (l *lab) logged(msg, text string) bool {
	b, err := os.ReadFile(l.log)
	l.ok(err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, `"msg":"`+msg+`"`) && strings.Contains(line, text) {
			return true
		}
	}
	return false
}

func TestDiffPrintsWhatIsApplied(t *testing.T) {
	l := newLab(t)
	l.startDaemon()
	l.live()
	_, before := l.applied(0)
	for _, p := range []string{"policies/early-adopter.yaml", "policies/one-flow.yaml"} {
		l.ok(l.CopyFile(p))
	}
	d, err := (&diffFlags{admin: l.Address("18001")}).compare(t.Context(), l.Repo)
	l.ok(err)
	if d.Counts.Create != 3 {
		t.Fatalf("the dry run shows %+v, want 3 creates:\n%s", d.Counts, d.Text)
	}
	l.ok(l.Commit(t.Context(), "policies"))
	l.live()
	if got, _ := l.applied(before); got != d.Text {
		t.Errorf("gray diff printed\n%s\nand the daemon applied\n%s", d.Text, got)
	}
}

func TestNothingChangesNothingIsWritten(t *testing.T) {
	l := newLab(t)
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	l.startDaemon()
	l.live()
	want := l.sw.Stats()
	if want.Writes == 0 || want.Pushes != 1 {
		t.Fatalf("the switch was programmed with %d writes and %d pipelines", want.Writes, want.Pushes)
	}
	l.ok(os.WriteFile(filepath.Join(l.Repo, "README.txt"), []byte("no document"), 0o644))
	l.ok(l.Commit(t.Context(), "no-op"))
	l.live()
	if got := l.sw.Stats(); got.Writes != want.Writes || got.Pushes != want.Pushes {
		t.Errorf("a no-op commit wrote %d entries", got.Writes-want.Writes)
	}
	l.kill()
	l.startDaemon()
	l.live()
	if got := l.sw.Stats(); got.Writes != want.Writes || got.Pushes != want.Pushes {
		t.Errorf("a restarted daemon wrote %d entries and loaded %d pipelines", got.Writes-want.Writes, got.Pushes-want.Pushes)
	}
	if text, _ := l.applied(0); text != "" {
		t.Errorf("a restarted daemon applied\n%s", text)
	}
}

func TestBadCommitsLeaveTheLastGoodOne(t *testing.T) {
	l := newLab(t)
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	l.startDaemon()
	l.live()
	good, want := l.head(), l.sw.Stats().Writes
	l.ok(os.WriteFile(filepath.Join(l.Repo, "policies", "bad.yaml"), []byte("kind: nonsense\n"), 0o644))
	l.ok(l.Commit(t.Context(), "bad"))
	bad := l.head()
	s := l.until("the bad commit is refused", func(s *admin.Status) bool { return s.Fetched == bad })
	if s.Revision != good || len(s.Errors) == 0 || !strings.HasPrefix(s.Errors[0], "policies/bad.yaml:1") {
		t.Errorf("after a bad commit %s is in force with errors %q, want %s and the place", s.Revision, s.Errors, good)
	}
	l.ok(l.Git(t.Context(), "rm", "-rq", "."))
	l.ok(l.Git(t.Context(), "commit", "-q", "-m", "empty"))
	empty := l.head()
	s = l.until("the empty commit is refused", func(s *admin.Status) bool { return s.Fetched == empty })
	if s.Revision != good || l.sw.Stats().Writes != want {
		t.Errorf("an empty repository put %s in force with %d writes", s.Revision, l.sw.Stats().Writes-want)
	}
	l.ok(l.Git(t.Context(), "revert", "--no-edit", "HEAD", "HEAD~1"))
	l.live()

	// The branch is rewritten while no daemon runs.
	l.kill()
	l.ok(l.Git(t.Context(), "reset", "-q", "--hard", "HEAD~4"))
	l.ok(l.CopyFile("policies/one-flow.yaml"))
	l.ok(l.Commit(t.Context(), "rewritten"))
	l.startDaemon()
	l.until("the rewritten branch is refused", func(s *admin.Status) bool {
		return strings.Contains(s.Conditions[0].Message, "branch main was rewritten")
	})
	if n := l.entries(0x02000009); n != 1 {
		t.Errorf("after a rewrite beside a restart the switch has %d entries of VPCs, want 1", n)
	}
	l.kill()
	l.startDaemon("--follow-rewrites")
	l.live()
}

func TestDriftIsPutRight(t *testing.T) {
	l := newLab(t)
	l.ok(l.CopyFile("policies/early-adopter.yaml"))
	l.ok(l.Commit(t.Context(), "policy"))
	l.startDaemon()
	l.live()
	l.deleteVPC()
	l.until("the deleted entry is back", func(*admin.Status) bool { return l.entries(0x02000009) == 1 && l.logged("drift", "gray_vpc") })
}

// client is another P4Runtime client, with a higher election id than any of the
// daemon's. It lets go when the test calls the function.
func (l *lab) client() (p4v1.P4RuntimeClient, func()) {
	l.t.Helper()
	conn, err := grpc.NewClient(l.Address("9559"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	l.ok(err)
	return p4v1.NewP4RuntimeClient(conn), func() { _ = conn.Close() }
}

// entries counts what is in a table.
func (l *lab) entries(table uint32) int {
	l.t.Helper()
	c, closeConn := l.client()
	defer closeConn()
	return len(l.read(c, table))
}

func (l *lab) read(c p4v1.P4RuntimeClient, table uint32) []*p4v1.Entity {
	l.t.Helper()
	return entriesOf(l.t, c, table)
}

// entriesOf is what is in a table of device 1.
func entriesOf(t testing.TB, c p4v1.P4RuntimeClient, table uint32) []*p4v1.Entity {
	t.Helper()
	stream, err := c.Read(t.Context(), &p4v1.ReadRequest{DeviceId: 1, Entities: []*p4v1.Entity{{
		Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{TableId: table}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	return res.GetEntities()
}

// deleteVPC deletes the one VPC rule as the daemon itself would: with its
// election id, which the switch tells everyone who asks.
func (l *lab) deleteVPC() {
	l.t.Helper()
	c, closeConn := l.client()
	defer closeConn()
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	stream, err := c.StreamChannel(ctx)
	l.ok(err)
	l.ok(stream.Send(&p4v1.StreamMessageRequest{Update: &p4v1.StreamMessageRequest_Arbitration{
		Arbitration: &p4v1.MasterArbitrationUpdate{DeviceId: 1},
	}}))
	m, err := stream.Recv()
	l.ok(err)
	found := l.read(c, 0x02000009)
	if len(found) != 1 {
		l.t.Fatalf("%d VPC rules are on the switch, want 1", len(found))
	}
	_, err = c.Write(ctx, &p4v1.WriteRequest{
		DeviceId: 1, ElectionId: m.GetArbitration().GetElectionId(),
		Updates: []*p4v1.Update{{Type: p4v1.Update_DELETE, Entity: found[0]}},
	})
	l.ok(err)
}
