package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// transition is what the daemon's log says of a rollout. It is there before what it
// says is acted on.
type transition struct {
	Time              time.Time
	Msg, Event        string
	Network, Revision string
	Batch             int
	Message           string
}

// transitions is the log of the rollouts.
func (l *netlab) transitions() []transition {
	l.t.Helper()
	b, err := os.ReadFile(l.logs)
	if err != nil {
		l.t.Fatal(err)
	}
	var all []transition
	for line := range bytes.Lines(b) {
		var tr transition
		if json.Unmarshal(line, &tr) == nil && tr.Msg == "rollout" {
			all = append(all, tr)
		}
	}
	return all
}

// runsOf takes the log of the rollouts apart: each run begins at nothing.
func runsOf(log []transition) (runs [][]transition) {
	for _, tr := range log {
		if len(runs) == 0 || tr.Event == "Restarted" {
			runs = append(runs, nil)
		}
		runs[len(runs)-1] = append(runs[len(runs)-1], tr)
	}
	return runs
}

// labBatch is a batch as the log tells it. What is of it may be gray from begun to
// back, and must be from passed to giving.
type labBatch struct {
	vni, number   int
	vms           int // how many of the VPC have moved with it: the first ones
	begun, passed time.Time
	giving, back  time.Time // when the rollout began to go back, and when it had; zero: never
}

// has tells whether a packet is of what has moved with a batch.
func (b *labBatch) has(s sight) bool {
	if s.vni != strconv.Itoa(b.vni) {
		return false
	}
	of := func(address string) bool {
		last, err := strconv.Atoi(strings.TrimPrefix(address, "10.0.0."))
		return err == nil && last >= 5 && last < 5+b.vms
	}
	return b.vms == shardSize || of(s.src) || of(s.dst)
}

// inFlight is how long a packet may be in the software switch after its rule has
// gone, on a busy machine.
const inFlight = 100 * time.Millisecond

// gray says of what was decided at some time between two whether it may be gray, if it
// is of the batch, and whether it must be.
func (b *labBatch) gray(from, to time.Time) (may, must bool) {
	may = to.After(b.begun) && (b.back.IsZero() || from.Before(b.back))
	must = !b.passed.IsZero() && from.After(b.passed) && (b.giving.IsZero() || to.Before(b.giving))
	return may, must
}

// batches reads the batches of one run of a rollout from its log.
func batches(t *testing.T, log []transition) []*labBatch {
	t.Helper()
	var all []*labBatch
	for _, tr := range log {
		var last *labBatch
		if len(all) > 0 {
			last = all[len(all)-1]
		}
		vni, _ := strconv.Atoi(strings.TrimPrefix(tr.Network, "vpc-"))
		switch tr.Event {
		case "BatchStarted":
			if last != nil && last.passed.IsZero() {
				t.Errorf("batch %d of %s began before the one before it had passed", tr.Batch, tr.Network)
			}
			b := &labBatch{vni: vni, number: tr.Batch, begun: tr.Time}
			if _, err := fmt.Sscanf(tr.Message[strings.LastIndex(tr.Message, ": ")+2:], "%d of 8 VMs", &b.vms); err != nil {
				t.Fatalf("%q: %v", tr.Message, err)
			}
			all = append(all, b)
		case "BatchPassed":
			if last == nil || last.vni != vni || last.number != tr.Batch {
				t.Fatalf("batch %d of %s passed without having begun", tr.Batch, tr.Network)
			}
			last.passed = tr.Time
		case "RollingBack", "RolledBack":
			for _, b := range all {
				if tr.Event == "RolledBack" {
					b.back = tr.Time
				} else {
					b.giving = tr.Time
				}
			}
		}
	}
	return all
}

// judge holds the packets on the servers against the batches: nothing arrives at the
// gray server that is of no batch, or before its batch began or after it went back,
// and all that is of a batch that passed arrives there.
func judge(t *testing.T, seen []sight, run []*labBatch) {
	t.Helper()
	wrong := 0
	gray := map[*labBatch]int{}
	for _, s := range seen {
		may, must := false, false
		i := slices.IndexFunc(run, func(b *labBatch) bool { return b.has(s) })
		if i >= 0 {
			may, must = run[i].gray(s.at.Add(-inFlight), s.at)
		}
		if is := s.server == "gw9"; is && may {
			gray[run[i]]++
		} else if is || must {
			if wrong++; wrong < 6 {
				t.Errorf("a packet arrived at the wrong server: %+v", s)
			}
		}
	}
	for _, b := range run {
		if gray[b] == 0 && !b.passed.IsZero() {
			t.Errorf("no packet of batch %d of VPC %d arrived at the gray server", b.number, b.vni)
		}
	}
	t.Logf("%d packets were seen, %d at the wrong server", len(seen), wrong)
}

// tested holds that every batch that passed was pinged through the gray server from
// the VPC's monitor: each VM that had moved, so often.
func tested(t *testing.T, seen []sight, run []*labBatch, count int) {
	t.Helper()
	for _, b := range run {
		pings := map[string]int{}
		for _, s := range seen {
			if s.src == labMonitor && s.server == "gw9" && s.vni == strconv.Itoa(b.vni) && s.at.After(b.begun) && s.at.Before(b.passed) {
				pings[s.dst]++
			}
		}
		for i := range b.vms {
			if a := fmt.Sprintf("10.0.0.%d", 5+i); !b.passed.IsZero() && pings[a] < count {
				t.Errorf("batch %d of VPC %d passed after %d pings of %s, want %d", b.number, b.vni, pings[a], a, count)
			}
		}
	}
}

// judge holds the answers against the batches: an account is gray from the first
// batch of its VPC on until all of the rollout is back, and no request fails.
func (c *callers) judge(t *testing.T, l *netlab, run []*labBatch, within func(time.Time) bool) {
	t.Helper()
	for _, vni := range l.vnis() {
		wrong, n := 0, map[string]int{}
		for _, a := range c.answers[labAccount(vni)] {
			if !within(a.sent) {
				continue
			}
			may, must := false, false
			i := slices.IndexFunc(run, func(b *labBatch) bool { return b.vni == vni })
			if i >= 0 {
				may, must = run[i].gray(a.sent, a.at)
			}
			n[a.version]++
			if a.version == "v2" && may || a.version == "v1" && !must {
				continue
			}
			if wrong++; wrong < 4 {
				t.Errorf("account %s was answered by %q at %s", labAccount(vni), a.version, a.at)
			}
		}
		if n["v1"] == 0 || slices.ContainsFunc(run, func(b *labBatch) bool { return b.vni == vni && !b.passed.IsZero() }) != (n["v2"] > 0) {
			t.Errorf("account %s was answered %v", labAccount(vni), n)
		}
		t.Logf("account %s was answered %v", labAccount(vni), n)
	}
}

// judgeRuns holds all that was seen against the runs of the rollout in the log, whose
// batches are to be those given, by VNI, number and VMs.
func (l *netlab) judgeRuns(seen []sight, c *callers, want [][][3]int) {
	l.t.Helper()
	runs := runsOf(l.transitions())
	if len(runs) != len(want) {
		l.t.Fatalf("there were %d runs, want %d", len(runs), len(want))
	}
	for i, log := range runs {
		run := batches(l.t, log)
		var got [][3]int
		for _, b := range run {
			got = append(got, [3]int{b.vni, b.number, b.vms})
		}
		if !slices.Equal(got, want[i]) {
			l.t.Errorf("the batches of run %d were %v, want %v", i+1, got, want[i])
		}
		within := func(at time.Time) bool {
			return (i == 0 || !at.Before(log[0].Time)) && (i == len(runs)-1 || at.Before(runs[i+1][0].Time))
		}
		own := slices.DeleteFunc(slices.Clone(seen), func(s sight) bool { return !within(s.at) })
		judge(l.t, own, run)
		tested(l.t, own, run, 3)
		c.judge(l.t, l, run, within)
	}
}

// caught holds what is said of a rollout that failed for one VM, which lost all, at a
// commit: by the status, by gray rollout status and to the webhook.
func (l *shard) caught(r *reconciler.RolloutStatus, sick labVM, revision string) {
	l.t.Helper()
	network := fmt.Sprintf("vpc-%d", sick.vni)
	lost := fmt.Sprintf("%s (%s), moved, answered 0 of 3, lost 100%%, 0%% before", sick.address, sick.name)
	f := r.Failure
	if f == nil || f.Reason != "VerificationFailed" || f.Network != network || f.Batch != 2 || f.Revision != revision || r.Moved != 0 {
		l.t.Fatalf("it failed as %+v: %+v", r, f)
	}
	cmd := exec.Command("ip", "netns", "exec", l.ns("sw"), l.gray, "rollout", "status", "gw-v2")
	cmd.Env = append(os.Environ(), "GRAY_TEST_RUN_MAIN=1")
	shown, err := cmd.Output()
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		l.t.Errorf("gray rollout status exits with %d: %v", code, err)
	}
	l.t.Logf("gray rollout status gw-v2\n%s", shown)
	e := l.told.event(l.t, "VerificationFailed")
	if e.Policy != "gw-v2" || e.Network != network || e.Batch != "2 of 3" || e.Commit != revision || !e.Warning {
		l.t.Errorf("the webhook was told %+v", e)
	}
	for what, text := range map[string]string{
		"the failure": strings.Join(f.Evidence, "\n"), "the condition": r.Conditions[0].Message, "gray rollout status": string(shown), "the webhook": e.Message,
	} {
		if !strings.Contains(text, lost) {
			l.t.Errorf("%s does not say %q: %q", what, lost, text)
		}
	}
	for _, want := range []string{"batch 2 of", network, revision} {
		if !strings.Contains(string(shown), want) {
			l.t.Errorf("gray rollout status does not say %q", want)
		}
	}
	for _, a := range e.Evidence.Tests[0].Answers {
		if is := a.Address.String() == sick.address; is != a.Failed || is && (a.Loss != 100 || a.VM != sick.name || !a.Moved) {
			l.t.Errorf("the webhook was told of %+v", a)
		}
	}
	l.told.event(l.t, "RolledBack")
}

// isGray holds what there is on the switch of rules: of whole VPCs and of VMs.
func (l *netlab) isGray(vpcs, vms int) {
	l.t.Helper()
	conn, err := grpc.NewClient("passthrough:127.0.0.1:9559", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { return l.dial(ctx, "tcp", address) }))
	if err != nil {
		l.t.Fatal(err)
	}
	defer conn.Close()
	for table, want := range map[uint32]int{pipeline.TableVPC: vpcs, pipeline.TableVMSrcV4: vms, pipeline.TableVMDstV4: vms} {
		if n := len(entriesOf(l.t, p4v1.NewP4RuntimeClient(conn), table)); n != want {
			l.t.Errorf("the switch has %d entries in table %#x, want %d", n, table, want)
		}
	}
}
