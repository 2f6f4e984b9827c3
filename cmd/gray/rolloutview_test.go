package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
)

var seenAt = time.Date(2026, 11, 25, 7, 0, 0, 0, time.UTC)

// rolloutAt is a rollout of so many Networks of ten VMs, the first ones of which are
// done, and the next moving as it is said.
func rolloutAt(networks, done int, phase rollout.Phase, reason, message string, moving ...reconciler.NetworkProgress) *reconciler.RolloutStatus {
	r := &reconciler.RolloutStatus{
		Policy: "s1", Version: "v2", Targets: []string{"Gateway/gw", "Service/api"}, Run: 1, Phase: phase, Since: seenAt,
		RolloutProgress: reconciler.RolloutProgress{Batches: []string{"1", "50%", "100%"}, Total: 10 * networks},
		Conditions:      []reconciler.Condition{{Type: "Ready", Status: "False", Reason: reason, Message: message, ObservedRevision: "main@sha1:0123456789abcdef"}},
	}
	for i := range networks {
		n := reconciler.NetworkProgress{Name: fmt.Sprintf("vpc-%d", i+1), VNI: uint32(1000 + i), Total: 10}
		switch {
		case i < done:
			n.Stage, n.Batch, n.Moved = stageDone, 3, 10
		case i < done+len(moving):
			m := moving[i-done]
			n.Stage, n.Batch, n.Moved, n.Dead = m.Stage, m.Batch, m.Moved, m.Dead
		}
		r.Moved += n.Moved
		r.Networks = append(r.Networks, n)
	}
	return r
}

func stalled(r *reconciler.RolloutStatus) *reconciler.RolloutStatus {
	r.Conditions = append(r.Conditions, reconciler.Condition{Type: "Stalled", Status: "True", Reason: r.Conditions[0].Reason})
	return r
}

// shardAt is a shard of a thousand Networks in the middle.
func shardAt() *reconciler.RolloutStatus {
	r := rolloutAt(1000, 300, rollout.PhaseProgressing, "BatchVerifying", "Network vpc-301, batch 2 of 3, 5 VMs; p4rt/gw-a: no route to host",
		reconciler.NetworkProgress{Stage: rollout.StageVerifying, Batch: 2, Moved: 5}, reconciler.NetworkProgress{Stage: rollout.StageBaseline, Dead: 2})
	r.Waits = "p4rt/gw-a: no route to host"
	return r
}

func failedAt() *reconciler.RolloutStatus {
	r := stalled(rolloutAt(2, 0, rollout.PhaseRolledBack, "VerificationFailed", ""))
	r.Failure = &rollout.Failure{
		Reason: "VerificationFailed", Network: "vpc-1", Batch: 2, Generation: 7, Revision: "main@sha1:89ab", At: seenAt,
		Evidence: []string{"ping 10.0.0.5 web-1: 100% lost (3 of 3)", "exec \x1b[2J: exit code 1"},
	}
	r.Conditions[0].Message = r.Failure.String()
	r.Networks[0].Reached = &rollout.Reached{Network: "vpc-1", Batch: 2, VMs: 5}
	return r
}

func gatedAt() *reconciler.RolloutStatus {
	r := rolloutAt(1, 0, rollout.PhasePaused, "ApprovalRequired", "batch 2 of Network vpc-1 waits", reconciler.NetworkProgress{Stage: rollout.StagePassed, Batch: 1, Moved: 1})
	r.Gates = []rollout.Gate{{ID: "1/vpc-1/2", Network: "vpc-1", Batch: 2, Reason: "ApprovalRequired"}, {ID: "1/vpc-2/1", Network: "vpc-2", Batch: 1, Reason: "ThroughReached"}}
	r.Overrides, r.Split = []string{"suspend was set to false by ann: \x1b[1m; Git says true"}, []string{"account 7 is gray on its Services"}
	return r
}

func TestRolloutLines(t *testing.T) {
	for _, test := range []struct {
		r    *reconciler.RolloutStatus
		want string
	}{
		{shardAt(), `
rollout  s1, run 1: v2 of Gateway/gw, Service/api
phase    Progressing BatchVerifying since 2026-11-25T07:00:00Z
message  Network vpc-301, batch 2 of 3, 5 VMs
waits    p4rt/gw-a: no route to host
moved    3005 of 10000 VMs, 300 of 1000 Networks
batches  1, 50%, 100%
commit   main@sha1:0123456789abcdef

NETWORK  VNI   MOVED                        BATCH   STAGE
vpc-301  1300  [##########----------] 5/10  2 of 3  Verifying
vpc-302  1301  [--------------------] 0/10  -       Baseline, 2 checks failed before it moved
vpc-303  1302  [--------------------] 0/10  -       to come
vpc-304  1303  [--------------------] 0/10  -       to come
vpc-305  1304  [--------------------] 0/10  -       to come
and 995 more Networks: 300 done, 695 to come; add --all to see them`},
		{failedAt(), `
rollout  s1, run 1: v2 of Gateway/gw, Service/api
phase    RolledBack VerificationFailed since 2026-11-25T07:00:00Z
moved    0 of 20 VMs, 0 of 2 Networks
batches  1, 50%, 100%
commit   main@sha1:0123456789abcdef
failure  VerificationFailed, batch 2 of Network vpc-1, at main@sha1:89ab, 2026-11-25T07:00:00Z
           ping 10.0.0.5 web-1: 100% lost (3 of 3)
           exec ?[2J: exit code 1
next     a commit that changes what has failed, or: gray rollout retry s1

NETWORK  VNI   MOVED                        BATCH  STAGE
vpc-1    1000  [--------------------] 0/10  -      went back from batch 2 of 3, 5 VMs
vpc-2    1001  [--------------------] 0/10  -      not reached`},
		{gatedAt(), `
rollout   s1, run 1: v2 of Gateway/gw, Service/api
phase     Paused ApprovalRequired since 2026-11-25T07:00:00Z
message   batch 2 of Network vpc-1 waits
moved     1 of 10 VMs, 0 of 1 Networks
batches   1, 50%, 100%
commit    main@sha1:0123456789abcdef
override  suspend was set to false by ann: ?[1m; Git says true
split     account 7 is gray on its Services
gate      batch 2 of Network vpc-1 needs approval; open it with: gray rollout promote s1 --gate 1/vpc-1/2
gate      batch 1 of Network vpc-2 is beyond through; open it with: gray rollout promote s1 --gate 1/vpc-2/1

NETWORK  VNI   MOVED                        BATCH   STAGE
vpc-1    1000  [##------------------] 1/10  1 of 3  Passed`},
		{rolloutAt(1, 1, rollout.PhaseCompleted, "Completed", ""), `
rollout  s1, run 1: v2 of Gateway/gw, Service/api
phase    Completed since 2026-11-25T07:00:00Z
moved    10 of 10 VMs, 1 of 1 Networks
batches  1, 50%, 100%
commit   main@sha1:0123456789abcdef

NETWORK  VNI   MOVED                         BATCH   STAGE
vpc-1    1000  [####################] 10/10  3 of 3  Done`},
	} {
		got := "\n" + strings.Join(rolloutLines(test.r, false), "\n")
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	lines := rolloutLines(shardAt(), true)
	if rows := lines[len(lines)-1000:]; !strings.HasPrefix(rows[0], "vpc-1 ") || !strings.HasPrefix(rows[999], "vpc-1000 ") {
		t.Errorf("with --all the Networks are %q to %q", rows[0], rows[999])
	}
}

// Each Network is shown or counted, whatever moves at once.
func TestPickLosesNoNetwork(t *testing.T) {
	for _, parallel := range []int{0, 1, 19, 20, 21, 400} {
		r := rolloutAt(1000, 300, rollout.PhaseProgressing, "", "", make([]reconciler.NetworkProgress, parallel)...)
		for i := range parallel {
			r.Networks[300+i].Stage = rollout.StageApplying
		}
		shown, done, left, moving := pick(r.Networks, false)
		if got := len(shown) + done + left + moving; got != 1000 || done != 300 || moving != max(0, parallel-mostMoving) {
			t.Errorf("%d at once: %d shown, %d done, %d to come, %d moving", parallel, len(shown), done, left, moving)
		}
	}
}

func TestBar(t *testing.T) {
	for _, test := range []struct{ moved, total, want int }{
		{0, 0, 0}, {0, 10, 0}, {1, 1000, 1}, {500, 1000, 10}, {999, 1000, 19}, {1000, 1000, 20},
	} {
		if got := strings.Count(bar(reconciler.NetworkProgress{Moved: test.moved, Total: test.total}), "#"); got != test.want {
			t.Errorf("%d of %d are %d signs, want %d", test.moved, test.total, got, test.want)
		}
	}
	if got := bar(reconciler.NetworkProgress{Stage: stageDone}); strings.Contains(got, "-") {
		t.Errorf("a Network without VMs that is done is %s", got)
	}
}

func TestRolloutTables(t *testing.T) {
	var b strings.Builder
	other := *gatedAt()
	other.Policy = "other-policy"
	all := []reconciler.RolloutStatus{*shardAt(), *failedAt(), other}
	if err := statusRollouts(&b, all, nil); err != nil {
		t.Fatal(err)
	}
	want := `
ROLLOUT       PHASE        BATCH           MOVED       MESSAGE
s1            Progressing  vpc-301 2 of 3  3005/10000  BatchVerifying: Network vpc-301, batch 2 of 3, 5 VMs; p4rt/gw-a: no route to host
s1            RolledBack   -               0/20        VerificationFailed: batch 2 of Network vpc-1: ping 10.0.0.5 web-1: 100% lost (3 of 3); exec ?[2J: exit code 1, at main@sha1:89ab
other-policy  Paused       vpc-1 1 of 3    1/10        ApprovalRequired: batch 2 of Network vpc-1 waits
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	b.Reset()
	if err := statusRollouts(&b, all, []string{"vpc-500"}); err != nil {
		t.Fatal(err)
	}
	want = `
ROLLOUT  PHASE        BATCH  MOVED       MESSAGE
s1       Progressing  -      3005/10000  BatchVerifying: Network vpc-301, batch 2 of 3, 5 VMs; p4rt/gw-a: no route to host

NETWORK  VNI   MOVED                        BATCH  STAGE
vpc-500  1499  [--------------------] 0/10  -      to come
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("of a Network (-want +got):\n%s", diff)
	}
	b.Reset()
	records := []reconciler.AuditRecord{
		{Time: seenAt, Policy: "s1", Run: 2, Revision: "main@sha1:0123456789abcdef", Events: []rollout.Event{{Reason: "Promoted", Message: "by ann"}, {Reason: "BatchStarted", Message: "batch 1"}}},
		{Time: seenAt, Policy: "other", Run: 1, Revision: "dir", Verb: "resume", Who: "bob", Why: "day"},
		{Time: seenAt, Policy: "s1", Run: 2, Events: []rollout.Event{{Reason: "BatchFailed", Message: "batch 1"}}, Evidence: []string{"10.0.0.5: lost\n"}},
	}
	if err := printAudit(&b, records); err != nil {
		t.Fatal(err)
	}
	want = `TIME                  ROLLOUT  RUN  COMMIT    EVENT         MESSAGE
2026-11-25T07:00:00Z  s1       2    01234567  Promoted      by ann
2026-11-25T07:00:00Z  s1       2    01234567  BatchStarted  batch 1
2026-11-25T07:00:00Z  other    1    dir       resume        by bob: day
2026-11-25T07:00:00Z  s1       2              BatchFailed   batch 1
                                                              10.0.0.5: lost?
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("the audit log (-want +got):\n%s", diff)
	}
}

func TestWatchOnATerminal(t *testing.T) {
	var out, errs strings.Builder
	w := &watcher{out: &out, errs: &errs, size: func() (int, int) { return 40, 6 }, color: true}
	w.show(gatedAt(), seenAt)
	want := "\r" + `rollout   s1, run 1: v2 of Gateway/gw,
    Service/api
phase     ` + "\x1b[33mPaused\x1b[0m" + ` ApprovalRequired since
    2026-11-25T07:00:00Z
and 19 more lines
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the first picture (-want +got):\n%s", diff)
	}
	out.Reset()
	w.show(gatedAt(), seenAt)
	if out.Len() > 0 {
		t.Errorf("nothing has changed, and it draws %q", out.String())
	}
	w.size, w.color = func() (int, int) { return 400, 100 }, false
	w.show(gatedAt(), seenAt)
	if got := out.String(); !strings.HasPrefix(got, "\x1b[5A\r\x1b[Jrollout   s1, run 1: v2 of Gateway/gw, Service/api\nphase     Paused ApprovalRequired") || strings.Count(got, "\x1b") != 2 {
		t.Errorf("the next picture is %q", got)
	}
	// Nothing is lost on 80 columns, the command that it recommends least of all.
	w.size, w.drawn = func() (int, int) { return 80, 100 }, 0
	out.Reset()
	w.show(gatedAt(), seenAt)
	for _, l := range strings.Split(out.String(), "\n") {
		if len(strings.TrimPrefix(l, "\r")) > 80 {
			t.Errorf("%q is wider than 80 columns", l)
		}
	}
	if all := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(all, "open it with: gray rollout promote s1 --gate 1/vpc-1/2") {
		t.Errorf("the command is cut: %s", all)
	}
	if got := cut("网络 vpc", 6); got != "网络 v" {
		t.Errorf("six columns have %q", got)
	}
}

// Elsewhere every change is a line, without escape sequences, and what repeats is none.
func TestWatchWithoutATerminal(t *testing.T) {
	var out, errs strings.Builder
	w := &watcher{out: &out, errs: &errs, color: true}
	w.show(gatedAt(), seenAt)
	w.absent(fmt.Errorf("nobody there"))
	w.absent(fmt.Errorf("still nobody there"))
	w.show(gatedAt(), seenAt)
	w.show(failedAt(), seenAt)
	want := `2026-11-25T07:00:00Z 1/10 VMs, 0/1 Networks, Paused ApprovalRequired: batch 2 of Network vpc-1 waits
2026-11-25T07:00:00Z 0/20 VMs, 0/2 Networks, RolledBack VerificationFailed: batch 2 of Network vpc-1: ping 10.0.0.5 web-1: 100% lost (3 of 3); exec ?[2J: exit code 1, at main@sha1:89ab
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := errs.String(); got != "gray: nobody there; still trying\ngray: the daemon answers again\n" {
		t.Errorf("about the daemon it says %q", got)
	}
}

func TestWhichRolloutsHaveFailed(t *testing.T) {
	back := rolloutAt(1, 0, rollout.PhaseRollingBack, "", "")
	aborting := rolloutAt(1, 0, rollout.PhaseRollingBack, "", "")
	aborting.Failure = &rollout.Failure{}
	for i, test := range []struct {
		r            *reconciler.RolloutStatus
		failed, over bool
	}{
		{gatedAt(), false, false},
		{failedAt(), true, true},
		{shardAt(), false, false},
		{stalled(shardAt()), true, true},
		{back, false, false},
		{aborting, true, false},
		{rolloutAt(1, 1, rollout.PhaseCompleted, "", ""), false, false},
		{rolloutAt(1, 0, rollout.PhaseRolledBack, "", ""), true, true},
	} {
		if failed(test.r) != test.failed || over(test.r) != test.over {
			t.Errorf("%d: failed %v, over %v", i, failed(test.r), over(test.r))
		}
	}
}
