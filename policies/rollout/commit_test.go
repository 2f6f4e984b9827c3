package rollout

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

func TestBake(t *testing.T) {
	bake := func(r *schema.Rollout) { r.Bake = schema.Duration(time.Minute) }
	d := newDrill(t, movesOf("1 100%", bake), 2)
	d.pass()
	d.at("n1 Applying 1 [1], Progressing/BatchApplying") // a baseline does not bake
	d.pass()
	d.at("n1 Passed 1 [1], Progressing/Baking")
	if want := d.now.Add(time.Minute); !d.last.Wake.Equal(want) {
		t.Errorf("it is to wake at %s, want %s", d.last.Wake, want)
	}
	d.now = d.now.Add(59 * time.Second)
	d.step()
	d.at("n1 Passed 1 [1], Progressing/Baking")
	// A clock that goes back makes it wait a bake from then at the most.
	d.now = d.now.Add(-time.Hour)
	d.step()
	if want := d.now.Add(time.Minute); !d.last.Wake.Equal(want) {
		t.Errorf("it is to wake at %s, want %s", d.last.Wake, want)
	}
	d.now = d.now.Add(time.Minute)
	d.pass()
	d.at("n1 Passed 2 [1 2] all, Progressing/Baking")
	d.now = d.now.Add(100 * 365 * 24 * time.Hour)
	d.step()
	d.at("n1 done, Completed/Completed")
}

func TestDeadline(t *testing.T) {
	d := newDrill(t, movesOf("1 100%", func(r *schema.Rollout) { r.Deadline = schema.Duration(time.Hour) }), 2)
	d.pass()
	d.confirmed = false
	d.step()
	if want := d.now.Add(time.Hour); !d.last.Wake.Equal(want) || d.r.Stalled {
		t.Errorf("it is to wake at %s, want %s", d.last.Wake, want)
	}
	d.now = d.last.Wake
	d.step()
	if !d.r.Stalled || !slices.Contains(d.events, "DeadlineExceeded") {
		t.Error("it is not stalled")
	}
	d.at("n1 Applying 1 [1], Progressing/BatchApplying")
	d.do(VerbPause, "", "")
	d.step()
	if d.r.Stalled {
		t.Error("it is stalled while people hold it")
	}
	d.now = d.now.Add(24 * time.Hour)
	d.do(VerbResume, "", "")
	d.step()
	if d.r.Stalled {
		t.Error("it is stalled for the time that people held it")
	}
	d.commit(func(s *Spec) { s.Suspend = true })
	d.step()
	d.now = d.now.Add(24 * time.Hour)
	d.commit(func(s *Spec) { s.Suspend = false })
	d.step()
	if d.r.Stalled {
		t.Error("it is stalled for the time that Git held it")
	}
	d.confirmed = true
	d.now = d.now.Add(2 * time.Hour)
	d.run()
	d.at("n1 done, Completed/Completed")
	if d.r.Stalled {
		t.Error("it is done and stalled")
	}
}

func TestSuspendPauseAndResume(t *testing.T) {
	d := newDrill(t, movesOf("1 100%"), 2)
	d.commit(func(s *Spec) { s.Suspend = true })
	d.run()
	d.at("Paused/Suspended")
	d.do(VerbResume, "", "")
	d.step()
	d.at("n1 Baseline 0 [], Progressing/BaselineRunning")
	if o := d.r.Overrides(d.spec); len(o) != 1 || o[0] != "suspend was set to false by ann: because; Git says true" {
		t.Errorf("overrides %q", o)
	}
	d.commit(func(s *Spec) { s.Suspend = false })
	d.step(d.last.Probes[0].verdict(true))
	if len(d.r.Overrides(d.spec)) != 0 {
		t.Error("Git agrees, and the override stands")
	}
	d.do(VerbPause, "", "")
	d.do(VerbPause, "", "")
	d.run()
	d.at("n1 Passed 1 [1], Paused/PausedByUser") // what was under way is tested, and nothing begins
	d.commit(func(s *Spec) { s.Suspend = true })
	d.step()
	d.at("n1 Passed 1 [1], Paused/Suspended")
	d.commit(func(s *Spec) { s.Suspend = false })
	d.run()
	d.at("n1 done, Completed/Completed")

	// A batch that fails while all is held stays, and goes back afterwards.
	d = newDrill(t, movesOf("1 100%"), 2)
	d.pass()
	d.do(VerbPause, "", "")
	d.run("n1/1")
	d.at("n1 Failed 1 [1], Paused/PausedByUser")
	d.do(VerbResume, "", "")
	d.run()
	d.at("RolledBack/VerificationFailed")
}

func TestAbortAndRetry(t *testing.T) {
	d := newDrill(t, movesOf("1 100%"), 2, 2)
	d.do(VerbRetry, "", "nothing has failed; see gray rollout status")
	d.do("undo", "", `unknown verb "undo"; want promote, pause, resume, abort or retry`)
	d.do(VerbPromote, "", "no gate is waiting; see gray rollout status")
	d.commit(func(s *Spec) { s.Suspend = true })
	d.step()
	d.do(VerbAbort, "", "")
	d.run()
	d.at("RolledBack/AbortedByUser")
	if o := d.r.Overrides(d.spec); len(o) != 1 || o[0] != "aborted by ann: because; Git still has the rollout" {
		t.Errorf("overrides %q", o)
	}
	d.commit(func(s *Spec) { s.Suspend = false })
	d.do(VerbRetry, "", "")
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")
	d.do(VerbAbort, "", "")
	before := d.r
	d.do(VerbAbort, "", "")
	if d.r.Generation != before.Generation {
		t.Error("abort counted twice")
	}
	d.run()
	d.at("RolledBack/AbortedByUser")
}

func TestCommitsInMidRollout(t *testing.T) {
	begin := func() *drill {
		d := newDrill(t, movesOf("1 2 100%"), 4, 4)
		d.pass() // the baseline
		d.pass()
		d.step()
		d.at("n1 Verifying 2 [1 2], Progressing/BatchVerifying")
		return d
	}
	d := begin()
	probe := d.last.Probes[0]
	d.commit(func(s *Spec) { s.Rollout.Batches = movesOf("3 100%").Batches })
	d.step(probe.verdict(true))
	d.at("n1 Applying 1 [1 2 3], Progressing/BatchApplying") // the pace alone: progress and the verdict stand

	d = begin()
	probe = d.last.Probes[0]
	d.commit(func(s *Spec) { s.Fingerprint = "f2" })
	d.step(probe.verdict(true))
	d.at("n1 Applying 2 [1 2], Progressing/BatchApplying") // the verdict is of another commit
	d.step(probe.verdict(true))
	d.at("n1 Verifying 2 [1 2], Progressing/BatchVerifying")
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")

	d = begin()
	probe = d.last.Probes[0]
	d.commit(func(s *Spec) { s.Identity, s.Content, s.Fingerprint = "v3 of Gateway/gw", "c3", "f3" })
	d.step(probe.verdict(true))
	d.at("n1 Baseline 0 [], Progressing/BaselineRunning") // a new version starts afresh
	if d.r.Run != 2 {
		t.Errorf("it is run %d", d.r.Run)
	}

	d = begin()
	d.commit(func(s *Spec) { s.Networks = s.Networks[1:] })
	d.step()
	d.at("n2 Baseline 0 [], Progressing/BaselineRunning") // n1 left the scope

	d = begin()
	d.run()
	d.commit(func(s *Spec) {
		s.Networks = append(s.Networks, Network{Name: "n3", VMs: vmAddresses(1)})
	})
	d.step()
	d.at("n1 done, n2 done, n3 Baseline 0 [], Progressing/BaselineRunning")
	d.run()
	d.at("n1 done, n2 done, n3 done, Completed/Completed")

	d = begin()
	d.commit(func(s *Spec) { s.Rollout.Verify = nil; s.Fingerprint = "f4" })
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")

	d = begin()
	d.spec = nil
	d.step()
	if !d.last.Ended || !d.r.Empty() {
		t.Error("the policy is gone, and something is left")
	}
}

func TestVMsComeAndGoInMidRollout(t *testing.T) {
	d := newDrill(t, movesOf("1 50% 100%"), 4)
	d.pass()
	d.pass()
	d.step()
	d.at("n1 Verifying 2 [1 2], Progressing/BatchVerifying")
	probe := d.last.Probes[0]
	d.commit(func(s *Spec) { s.Networks[0].VMs = vmAddresses(1, 2, 3, 4, 5, 6, 7) })
	d.step()
	d.at("n1 Verifying 2 [1 2], Progressing/BatchVerifying") // who is born joins with a later batch
	d.step(probe.verdict(true))
	d.at("n1 Applying 2 [1 2 3 4], Progressing/BatchApplying") // half of seven are not there yet
	d.step()
	probe = d.last.Probes[0]
	d.commit(func(s *Spec) { s.Networks[0].VMs = vmAddresses(2, 4, 5, 6, 7) })
	d.step(probe.verdict(true))
	d.at("n1 Applying 2 [2 4], Progressing/BatchApplying") // what is left is another progress
	d.run()
	d.at("n1 done, Completed/Completed")
}

func TestPlanRefused(t *testing.T) {
	refuse := func(onFailure string) *drill {
		d := newDrill(t, movesOf("1 2 100%", func(r *schema.Rollout) { r.OnFailure = onFailure }), 4)
		d.pass()
		d.pass()
		d.at("n1 Applying 2 [1 2], Progressing/BatchApplying")
		d.confirmed = false
		d.refused = &Refusal{d.r.Generation - 1, "an older one"}
		d.step()
		d.at("n1 Applying 2 [1 2], Progressing/BatchApplying")
		d.refused = &Refusal{d.r.Generation, "table gray_vm_src_v4 would hold too many entries"}
		d.step()
		return d
	}
	d := refuse("rollback")
	d.at("RollingBack/PlanRefused")
	d = refuse("pause")
	d.at("n1 Failed 1 [1], Paused/PlanRefused")
	d.confirmed = true
	d.do(VerbRetry, "", "")
	d.run()
	d.at("n1 done, Completed/Completed")
}

func TestParallelAndOrder(t *testing.T) {
	d := newDrill(t, movesOf("1 100%", func(r *schema.Rollout) { r.Parallel = 2 }), 2, 2, 2)
	d.probe()
	d.at("n1 Baseline 0 [], n2 Baseline 0 [], Progressing/BaselineRunning")
	d.step(d.last.Probes[1].verdict(true))
	d.at("n1 Baseline 0 [], n2 Applying 1 [1], Progressing/BaselineRunning")
	// One at a time from now on: the first by order goes on, the other stays.
	d.commit(func(s *Spec) {
		s.Rollout.Parallel = 1
		s.Networks[0], s.Networks[2] = s.Networks[2], s.Networks[0]
	})
	d.pass()
	d.at("n2 Applying 2 [1 2] all, n1 Baseline 0 [], Progressing/BatchApplying")
	if got, want := strings.Join(d.batches(), " "), "n2/2:2 n1/1:1 n1/2:2 n3/1:1 n3/2:2"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestStoredLayout holds that records of earlier versions are read whole, and that the
// names in them stay.
func TestStoredLayout(t *testing.T) {
	const stored = `{"version":1,"policy":"p","run":2,"identity":"v2 of Gateway/gw","content":"c","fingerprint":"f",` +
		`"generation":9,"moving":[{"network":"n1","stage":"Failed","batch":2,"whole":true,"vms":["10.0.0.1","10.0.0.2"],"fresh":["10.0.0.2"],` +
		`"generation":8,"attempt":1,"since":"2026-01-02T03:04:05Z","dead":["ping 10.0.0.9"]}],"done":["n0"],"back":7,"aborted":"b",` +
		`"failure":{"reason":"PlanRefused","network":"n1","batch":2,"generation":8,"revision":"main@sha1:1","evidence":["full"],"who":"ann","why":"w","at":"2026-01-02T03:04:06Z"},` +
		`"hold":{"suspend":true,"who":"bob","why":"x","at":"2026-01-02T03:04:07Z"},` +
		`"approved":[{"id":"2/n0","network":"n0","batch":1,"reason":"ApprovalRequired","who":"eve","why":"y","at":"2026-01-02T03:04:08Z"}],` +
		`"waiting":[{"id":"2/n1","network":"n1","batch":3,"reason":"ThroughReached"}],"progressed":"2026-01-02T03:04:09Z","stalled":true,` +
		`"phase":"Paused","reason":"PlanRefused","message":"m","since":"2026-01-02T03:04:10Z"}`
	state, err := Read([]byte(stored))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := json.Marshal(state); err != nil || string(b) != stored {
		t.Errorf("%v, stored as\n%s\nwant\n%s", err, b, stored)
	}
	if _, err := Read([]byte(`{"version": 2, "policy": "p"}`)); textOf(err) != `rollout "p" has layout 2, this gray reads 1; use the gray that wrote it` {
		t.Error(err)
	}
}
