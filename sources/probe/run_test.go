package probe

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// shard is a Gateway at the VIP of the tests, a VPC of so many VMs and a policy with
// a rollout.
type shard struct {
	vips   string // further ones
	vms    int
	vtep   string // of the monitor
	routes string // further ones
	verify string
	more   string // of the policy's spec
}

// snapshot makes the documents.
func (s shard) snapshot() *schema.Snapshot {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: sw}
spec: {address: "127.0.0.1:9559"}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10%s]
  switches: [sw]
  default: v1
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}]}
  - {name: v2, backends: [{name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}]}
---
apiVersion: gray.dev/v1alpha1
kind: GrayPolicy
metadata: {name: gw-v2}
spec:
  targets: [{kind: Gateway, name: gw}]
  version: v2
  %s
  rollout: {networks: [vpc-1001], batches: [1, 100%%], verify: {%s}}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: vpc-1001}
spec:
  vni: 1001
  monitor: {address: 10.0.255.254, mac: "02:aa:00:00:00:fe", vtep: %q}
  routes:
%s`, s.vips, s.more, s.verify, s.vtep, s.routes)
	for i := range s.vms {
		fmt.Fprintf(&b, "  - {vm: vm-%d, prefix: 10.0.0.%d/32, mac: \"02:aa:00:00:00:%02x\", vtep: 192.0.2.%d}\n", i, i+1, i, 100+i%3)
	}
	data := []byte(strings.TrimSuffix(b.String(), "  routes:\n"))
	return &schema.Snapshot{Revision: "main@sha1:abc", Files: schema.NewFiles(&schema.File{Path: "shard.yaml", ID: fmt.Sprintf("%x", data), Data: data})}
}

// Fetch makes a shard the source of a reconciler.
func (s shard) Fetch(context.Context) (*schema.Snapshot, error) { return s.snapshot(), nil }

// Changed never has news.
func (s shard) Changed() <-chan struct{} { return nil }

// spec is what the documents say about the rollout.
func (s shard) spec(t *testing.T) *rollout.Spec {
	t.Helper()
	set, err := schema.Parse(s.snapshot())
	if err != nil {
		t.Fatal(err)
	}
	c := policies.NewCompiler(policies.NewIDs(), nil)
	if _, _, err := c.Compile(set, set.Names(), policies.Facts{}); err != nil {
		t.Fatal(err)
	}
	return c.Rollout("gw-v2")
}

// shardVIP is the VIP of the documents, in which one of loopback is refused.
var shardVIP = netip.MustParseAddr("203.0.113.10")

// underlay leads there.
var underlay = Options{Underlay: func(outer netip.AddrPort) netip.AddrPort {
	if outer.Addr() == shardVIP {
		return netip.AddrPortFrom(testVIP, outer.Port())
	}
	return outer
}}

// overlayPing is a verify of the tests.
const overlayPing = "ping: {count: 3, timeout: 200ms, peers: 8}"

// course is a rollout by the real loop, without sinks: what is to be live is.
type course struct {
	t      *testing.T
	loop   *reconciler.Reconciler
	mu     sync.Mutex
	events []reconciler.Event
	on     func(reconciler.Event)
	log    logLines
}

// logLines is a log that may be read while it is written.
type logLines struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logLines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

func (l *logLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.String()
}

// follow runs a rollout with its probes; on is told of its events in the loop.
func follow(t *testing.T, s shard, p *Prober, on func(reconciler.Event)) *course {
	t.Helper()
	c := &course{t: t, on: on}
	log := slog.New(slog.NewTextHandler(&c.log, nil))
	jobs := board.NewProbes()
	var err error
	c.loop, err = reconciler.New(reconciler.Config{Source: s, Hints: board.NewHints(), Probes: jobs, Events: c.tell, MaxDelete: 100, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _ = c.loop.Run(ctx) })
	all.Go(func() { Run(ctx, jobs, p, log) })
	t.Cleanup(func() { cancel(); all.Wait() })
	return c
}

func (c *course) tell(e reconciler.Event) {
	c.mu.Lock()
	c.events = append(c.events, e)
	c.mu.Unlock()
	if c.on != nil {
		c.on(e)
	}
}

// event is the first of a reason.
func (c *course) event(reason string) reconciler.Event {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if e.Reason == reason {
			return e
		}
	}
	c.t.Fatalf("there is no %s in %+v; log:\n%s", reason, c.events, c.log.String())
	return reconciler.Event{}
}

// until waits for how the rollout stands.
func (c *course) until(what string, holds func(reconciler.RolloutStatus) bool) reconciler.RolloutStatus {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var last reconciler.RolloutStatus
	for {
		if s, err := c.loop.Status(ctx); err == nil && len(s.Rollouts) == 1 {
			if last = s.Rollouts[0]; holds(last) {
				return last
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			c.t.Fatalf("waited in vain until %s; it stands at %+v; log:\n%s", what, last, c.log.String())
		}
	}
}

func phase(p rollout.Phase) (string, func(reconciler.RolloutStatus) bool) {
	return string(p), func(s reconciler.RolloutStatus) bool { return s.Phase == p }
}

// dead is a VM that answers nothing, before and after.
var dead = netip.MustParseAddr("10.0.0.3")

// TestRunPasses has a rollout go through, with a VM that was dead before.
func TestRunPasses(t *testing.T) {
	peer := newPeer(t, testVIP, func(p *peer, q packet) {
		if q.dst != dead {
			echoes(p, q)
		}
	})
	c := follow(t, shard{vms: 5, vtep: testVTEP.String(), verify: overlayPing}, quick(underlay), nil)
	c.until(phase(rollout.PhaseCompleted))
	e := c.event("BaselineFailures")
	if want := "ping overlay 203.0.113.10: 10.0.0.3 lost 100%"; !strings.Contains(e.Message, want) {
		t.Errorf("%q does not say %q", e.Message, want)
	}
	passed := c.event("BatchPassed").Result.(*Result)
	if k := passed.Tests[0]; passed.Verdict != Passed || k.Addresses != 5 || k.Dead != 1 || k.Answers[0].Address != dead || k.Answers[0].Before != 100 {
		t.Errorf("%+v", passed)
	}
	// The baseline and both batches asked each of the five three times.
	if n := len(peer.requests()); n != 3*5*3 {
		t.Errorf("%d requests; log:\n%s", n, c.log.String())
	}
	for _, want := range []string{"msg=probed", "batch=\"1 of 2\"", "revision=main@sha1:abc", "verdict=passed"} {
		if !strings.Contains(c.log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, c.log.String())
		}
	}
}

// TestRunFails has a gray server lose the packets of a VM as soon as it has moved:
// everything goes back, and who lost how much of which batch is said.
func TestRunFails(t *testing.T) {
	var broken atomic.Bool
	newPeer(t, testVIP, func(p *peer, q packet) {
		if q.dst != sick || !broken.Load() {
			echoes(p, q)
		}
	})
	c := follow(t, shard{vms: 5, vtep: testVTEP.String(), verify: overlayPing + ", retries: 1"}, quick(underlay), func(e reconciler.Event) {
		if e.Reason == "BatchStarted" {
			broken.Store(true)
		}
	})
	s := c.until(phase(rollout.PhaseRolledBack))
	want := "ping overlay 203.0.113.10: 10.0.0.1 (vm-0), moved, answered 0 of 3, lost 100%, 0% before"
	if f := s.Failure; f.Batch != 1 || f.Revision != "main@sha1:abc" || f.Evidence[0] != want || !strings.HasPrefix(f.Evidence[1], "ping overlay 203.0.113.10: failed, 1 of 5 addresses are worse than before; 12 of 15 answered, avg ") {
		t.Errorf("the failure is %+v", f)
	}
	if s.Moved != 0 {
		t.Errorf("%d VMs are left", s.Moved)
	}
	e := c.event("VerificationFailed")
	if !strings.Contains(e.Message, want) || e.Batch != 1 || e.Batches != 2 || e.Revision != "main@sha1:abc" {
		t.Errorf("%+v", e)
	}
	if r := e.Result.(*Result); r.Verdict != Failed || r.Tests[0].Answers[0].VM != "vm-0" || r.Tests[0].Answers[0].Loss != 100 {
		t.Errorf("%+v", r)
	}
	if c.event("VerificationRetried").Result == nil {
		t.Error("the first attempt has no evidence")
	}
}

// TestRunBlind has a VPC of which nothing answers: that is a baseline, and no test.
// It goes on when there is something to see.
func TestRunBlind(t *testing.T) {
	var awake atomic.Bool
	newPeer(t, testVIP, func(p *peer, q packet) {
		if awake.Load() {
			echoes(p, q)
		}
	})
	c := follow(t, shard{vms: 3, vtep: testVTEP.String(), verify: overlayPing}, quick(underlay), nil)
	s := c.until("it says that nothing is tested", func(s reconciler.RolloutStatus) bool { return s.Waits != "" })
	want := "batch 1 of 2 of Network vpc-1001 cannot be tested: ping overlay 203.0.113.10: none of 3 addresses answers, and none did before the rollout, so this tests nothing; repair its monitor, or exclude the Network from the rollout"
	if s.Waits != want || s.Moved != 1 || s.Networks[0].Dead != 3 {
		t.Errorf("%+v", s)
	}
	awake.Store(true)
	c.until(phase(rollout.PhaseCompleted))
}

// TestRunCannot has verifications that cannot be made: nothing moves, and why is said.
func TestRunCannot(t *testing.T) {
	newPeer(t, testVIP, echoes)
	here := testVTEP.String()
	for _, test := range []struct {
		name  string
		shard shard
		want  string
	}{
		{"VTEP elsewhere", shard{vms: 3, vtep: "192.0.2.77", verify: overlayPing}, "ping overlay 203.0.113.10: cannot receive VXLAN at the monitor's VTEP 192.0.2.77: cannot assign requested address; it must be an address of the daemon's host"},
		{"no VIP", shard{vms: 3, vtep: "2001:db8::5", verify: overlayPing}, "no VIP of the policy's Gateways has the IP version of its monitor's VTEP 2001:db8::5; give the monitor another VTEP"},
		{"ranges", shard{vtep: here, verify: overlayPing, routes: "  - {vm: r, prefix: 10.1.0.0/24, mac: \"02:aa:00:00:00:99\", vtep: 192.0.2.1}\n"}, "ping overlay 203.0.113.10: there is nothing to test, because its route table has no route to a single address; add one, or exclude the Network"},
		{"other family", shard{vips: ", \"2001:db8:f::1\"", vtep: here, verify: overlayPing, routes: "  - {vm: r, prefix: \"fd00::1/128\", mac: \"02:aa:00:00:00:99\", vtep: 192.0.2.1}\n"}, "1 of another IP version than the monitor, or its own; repair its monitor, or exclude the Network"},
		{"no program", shard{vms: 3, vtep: here, verify: overlayPing + ", exec: {command: [vpc]}"}, "exec vpc: the daemon runs programs only with --exec-dir"},
		{"URL", shard{vms: 3, vtep: here, verify: "http: {url: \"http://127.0.0.9/\"}"}, "http http://127.0.0.9/: 127.0.0.9 is neither an address in a document nor in a --probe-allow network"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := follow(t, test.shard, quick(underlay), nil)
			s := c.until("it says why not", func(s reconciler.RolloutStatus) bool { return s.Waits != "" })
			if !strings.HasPrefix(s.Waits, "the baseline of Network vpc-1001 cannot be taken: ") || !strings.Contains(s.Waits, test.want) || s.Moved != 0 {
				t.Errorf("it waits as %q, moved %d", s.Waits, s.Moved)
			}
		})
	}
}

// TestRunNobody has a VPC without routes, of which nothing can be lost.
func TestRunNobody(t *testing.T) {
	c := follow(t, shard{vtep: testVTEP.String(), verify: overlayPing}, quick(underlay), nil)
	c.until(phase(rollout.PhaseCompleted))
	if want := "Network vpc-1001 has no routes, so there is nothing to test"; !strings.Contains(c.log.String(), want) {
		t.Errorf("%q is not in the log:\n%s", want, c.log.String())
	}
}

// TestRunTriesAgain has a program that is missing for a while: the time between
// attempts grows up to a minute, and a Job that is not wanted any more ends.
func TestRunTriesAgain(t *testing.T) {
	spec := shard{vms: 3, vtep: testVTEP.String(), verify: "exec: {command: [vpc]}"}.spec(t)
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		jobs := board.NewProbes()
		var log logLines
		var done sync.WaitGroup
		done.Go(func() {
			Run(ctx, jobs, quick(Options{ExecDir: dir, Pause: time.Second}), slog.New(slog.NewTextHandler(&log, nil)))
		})
		defer done.Wait()
		defer cancel()
		job := &board.Job{Policy: "gw-v2", Spec: spec, Probe: rollout.Probe{Network: "vpc-1001", Batch: 1, Generation: 7, VMs: spec.Networks[0].VMs[:1]}}
		begin := time.Now()
		jobs.Want("gw-v2", []*board.Job{job})
		<-jobs.Woken()
		time.Sleep(200 * time.Second)
		write(t, dir, "vpc", "#!/bin/sh\nexit 0\n")
		<-jobs.Woken()
		// After 1, 2, 4, 8, 16, 32 s and then each minute.
		if took := time.Since(begin); took != (63+3*60)*time.Second {
			t.Errorf("it was found after %s; log:\n%s", took, log.String())
		}
		if n := strings.Count(log.String(), "cannot probe"); n != 1 {
			t.Errorf("one reason is told %d times:\n%s", n, log.String())
		}
		if err := os.Remove(filepath.Join(dir, "vpc")); err != nil {
			t.Fatal(err)
		}
		again := *job
		again.Attempt = 1
		jobs.Want("gw-v2", []*board.Job{&again})
		begin = time.Now()
		<-jobs.Woken()
		if took := time.Since(begin); took != time.Millisecond { // quick's pause
			t.Errorf("another attempt came after %s", took)
		}
		jobs.Want("gw-v2", nil)
		write(t, dir, "vpc", "#!/bin/sh\ntouch \"$0.ran\"\n")
		time.Sleep(time.Hour)
		if _, err := os.Stat(filepath.Join(dir, "vpc.ran")); err == nil {
			t.Error("a Job runs that is not wanted")
		}
	})
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestRequestOf looks at whom a Job probes and what it says of itself.
func TestRequestOf(t *testing.T) {
	s := shard{vms: 20, vtep: testVTEP.String(), verify: "ping: {count: 2, timeout: 50ms, peers: 4}, tcp: {port: 22}, retries: 5"}
	s.routes = "  - {vm: r, prefix: 10.1.0.0/24, mac: \"02:aa:00:00:00:99\", vtep: 192.0.2.1}\n"
	spec := s.spec(t)
	vms := spec.Networks[0].VMs
	job := func(p rollout.Probe) *board.Job {
		p.Network = "vpc-1001"
		return &board.Job{Policy: "gw-v2", Spec: spec, Revision: "main@sha1:abc", Probe: p}
	}
	ask := func(j *board.Job) (Request, selection, map[netip.Addr]bool) {
		r, sel, err := requestOf(j)
		if err != nil {
			t.Fatal(err)
		}
		moved := map[netip.Addr]bool{}
		for _, target := range r.Targets {
			if target.Moved {
				moved[target.Address] = true
			}
		}
		return r, sel, moved
	}
	r, _, moved := ask(job(rollout.Probe{Baseline: true, Generation: 1}))
	if len(r.Targets) != 20 || len(moved) != 0 || !r.Survey || r.Retries != 1 || r.Batch != "0 of 2" {
		t.Errorf("the baseline asks %+v", r)
	}
	r, sel, moved := ask(job(rollout.Probe{Batch: 1, Generation: 2, VMs: vms[:3], Fresh: vms[:3], Ignore: []string{"tcp 22: 10.0.0.1 lost 100%", "?"}}))
	if len(r.Targets) != 7 || len(moved) != 3 || !moved[vms[2]] || r.Retries != 0 || r.Survey || r.Batch != "1 of 2" || r.Commit != "main@sha1:abc" || sel.Ranges != 0 {
		t.Errorf("the batch asks %+v", r)
	}
	if len(r.Tests) != 2 || r.Tests[0].VIP != shardVIP || r.Tests[1].Port != 22 || len(r.Baseline) != 1 || r.Baseline["tcp 22"][vms[0]] != 100 {
		t.Errorf("the checks are %+v, the baseline %v", r.Tests, r.Baseline)
	}
	if fmt.Sprint(r.Named) != "[203.0.113.10 192.0.2.1 192.0.2.2]" {
		t.Errorf("named are %v", r.Named)
	}
	if other, _, _ := ask(job(rollout.Probe{Batch: 1, Generation: 3, VMs: vms[:3]})); fmt.Sprint(other.Targets) == fmt.Sprint(r.Targets) {
		t.Error("another generation asks the same peers")
	}
	if _, sel, moved = ask(job(rollout.Probe{Batch: 2, Generation: 4, VMs: vms})); len(moved) != 20 || sel.Ranges != 1 || len(sel.lines()) != 1 {
		t.Errorf("the last batch asks %d, %+v", len(moved), sel)
	}
	if _, _, err := requestOf(job(rollout.Probe{Batch: 1, VMs: []netip.Addr{testVIP}})); err == nil {
		t.Error("peers alone stand for what has moved")
	}
}
