package rollout

import (
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/schema"
)

func TestBatchesByCountAndPercent(t *testing.T) {
	for _, test := range []struct {
		batches string
		vms     []int
		want    string
	}{
		{"1 5 25% 100%", []int{100}, "n1/1:1 n1/2:5 n1/3:25 n1/4:100"},
		{"1 5 25% 100%", []int{9}, "n1/1:1 n1/2:5 n1/4:9"},
		{"1 5 25% 100%", []int{3}, "n1/1:1 n1/2:3"},
		{"25% 100%", []int{5}, "n1/1:2 n1/2:5"},
		{"100%", []int{2, 0, 1}, "n1/1:2 n2/1:0 n3/1:1"},
		{"1 100%", []int{2, 2}, "n1/1:1 n1/2:2 n2/1:1 n2/2:2"},
		{"50% 3 100%", []int{4}, "n1/1:2 n1/2:3 n1/3:4"},
	} {
		d := newDrill(t, movesOf(test.batches), test.vms...)
		if got := strings.Join(d.batches(), " "); got != test.want {
			t.Errorf("%s of %v VMs: %s, want %s", test.batches, test.vms, got, test.want)
		}
		if d.r.Phase != PhaseCompleted || len(d.r.Done) != len(test.vms) {
			d.at("all done")
		}
	}
}

// A batch is tested only when every sink has it, and the next one waits for it.
func TestVerificationFollowsConfirmation(t *testing.T) {
	d := newDrill(t, movesOf("1 2 100%"), 3)
	d.confirmed = false
	d.step()
	d.at("n1 Baseline 0 [], Progressing/BaselineRunning")
	if len(d.last.Probes) != 0 {
		t.Error("a baseline is taken while something is being changed")
	}
	d.confirmed = true
	d.step(d.probe().verdict(false, "ping 10.0.0.3"))
	d.at("n1 Applying 1 [1], Progressing/BatchApplying")
	d.confirmed = false
	for range 3 {
		d.step()
	}
	d.at("n1 Applying 1 [1], Progressing/BatchApplying")
	if len(d.last.Probes) != 0 {
		t.Error("what is not live is tested")
	}
	d.confirmed = true
	d.step()
	d.at("n1 Verifying 1 [1], Progressing/BatchVerifying")
	p := d.last.Probes[0]
	if !slices.Equal(p.Ignore, []string{"ping 10.0.0.3"}) || len(p.VMs) != 1 {
		t.Errorf("the probe is %+v", p)
	}
	// A switch that loses the batch makes the verdict void.
	d.confirmed, d.live = false, 0
	d.step(p.verdict(true))
	d.at("n1 Applying 1 [1], Progressing/BatchApplying")
	d.confirmed = true
	d.step(p.verdict(true))
	d.at("n1 Verifying 1 [1], Progressing/BatchVerifying")
	again := d.last.Probes[0]
	if again.Generation == p.Generation {
		t.Error("the probe has the name of the one before")
	}
	d.step(again.verdict(true))
	d.at("n1 Applying 2 [1 2], Progressing/BatchApplying")
	d.step(again.verdict(false)) // late
	d.at("n1 Verifying 2 [1 2], Progressing/BatchVerifying")
}

func TestFailureRollsBack(t *testing.T) {
	d := newDrill(t, movesOf("1 100%", func(r *schema.Rollout) { r.Verify.Retries = 2 }), 3, 2)
	d.run("n2/1")
	d.at("RolledBack/VerificationFailed")
	f := d.r.Failure
	if f.Network != "n2" || f.Batch != 1 || f.Revision != "main@1" || !slices.Equal(f.Evidence, []string{"ping 10.0.0.1: 3 of 3 lost"}) {
		t.Errorf("the failure is %+v", f)
	}
	failures := 0
	for _, v := range d.told {
		if !v.Passed && !v.Baseline {
			failures++
		}
	}
	if failures != 3 {
		t.Errorf("it was tried %d times, want 3", failures)
	}
	if p := d.r.Progress(); len(p.Whole)+len(p.VMs) != 0 {
		t.Errorf("there is left %v", p)
	}
	// The same content is not tried again, at whatever pace.
	d.commit(func(s *Spec) { s.Rollout.Parallel, s.Fingerprint = 2, "f2" })
	d.run()
	d.at("RolledBack/VerificationFailed")
	// Another one is.
	d.commit(func(s *Spec) { s.Content, s.Fingerprint = "c2", "f3" })
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")
	// And when a commit goes back to what had failed, so do the units.
	d.commit(func(s *Spec) { s.Content, s.Fingerprint = "c1", "f1" })
	d.run()
	d.at("RolledBack/FailedBefore")
	d.do(VerbRetry, "", "")
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")
}

func TestRollbackWaitsForTheSinks(t *testing.T) {
	d := newDrill(t, movesOf("1 100%"), 3)
	d.pass()
	d.step(d.probe().verdict(false, "lost"))
	d.at("RollingBack/VerificationFailed")
	if !d.r.Empty() {
		t.Error("units are left")
	}
	d.confirmed = false
	d.step()
	d.at("RollingBack/VerificationFailed")
	d.do(VerbRetry, "", "the rollback is not finished yet; retry when it is")
	d.commit(func(s *Spec) { s.Content, s.Fingerprint = "c2", "f2" })
	d.step()
	d.at("RollingBack/RollingBack")
	d.confirmed = true
	d.step()
	d.at("n1 Baseline 0 [], Progressing/BaselineRunning")
}

func TestFailurePauses(t *testing.T) {
	d := newDrill(t, movesOf("1 2 100%", func(r *schema.Rollout) { r.OnFailure, r.Parallel = "pause", 2 }), 3, 3)
	d.run("n1/2")
	d.at("n1 Failed 2 [1 2], n2 Passed 2 [1 2], Paused/VerificationFailed")
	d.run()
	d.at("n1 Failed 2 [1 2], n2 Passed 2 [1 2], Paused/VerificationFailed")
	generation := d.r.Generation
	d.do(VerbResume, "", "")
	d.step()
	d.at("n1 Verifying 2 [1 2], n2 Applying 3 [1 2 3] all, Progressing/BatchVerifying")
	if d.r.Generation <= generation {
		t.Error("the test that is made again has the name of the one before")
	}
	d.run("n2/3")
	d.at("n1 Passed 2 [1 2], n2 Failed 3 [1 2 3] all, Paused/VerificationFailed")
	d.do(VerbAbort, "", "")
	d.run()
	d.at("RolledBack/AbortedByUser")
}

func TestApprovalAndThrough(t *testing.T) {
	approval := func(a string) func(*schema.Rollout) { return func(r *schema.Rollout) { r.Approval = a } }
	through := func(n string, b int) func(*schema.Rollout) {
		return func(r *schema.Rollout) { r.Through = &schema.Through{Network: n, Batch: b} }
	}
	d := newDrill(t, movesOf("1 2 100%", approval("batch")), 3, 1)
	for _, step := range []struct{ gate, want string }{
		{"1/n1/1", "n1 Passed 1 [1], Paused/ApprovalRequired"},
		{"1/n1/2", "n1 Passed 2 [1 2], Paused/ApprovalRequired"},
		{"1/n1/3", "n1 done, Paused/ApprovalRequired"},
		{"1/n2/1", "n1 done, n2 done, Completed/Completed"},
	} {
		d.run()
		if len(d.r.Waiting) != 1 || d.r.Waiting[0].ID != step.gate {
			t.Fatalf("gates %v, want %s", d.r.Waiting, step.gate)
		}
		d.do(VerbPromote, step.gate, "")
		d.do(VerbPromote, step.gate, "") // by somebody else, at the same time
		d.run()
		d.at(step.want)
	}
	d.do(VerbPromote, "1/n2/1", "gate 1/n2/1 is not waiting, or was passed before; see gray rollout status")

	d = newDrill(t, movesOf("1 100%", approval("network")), 2, 2)
	d.run()
	d.at("Paused/ApprovalRequired")
	d.do(VerbPromote, "", "")
	d.run()
	d.at("n1 done, Paused/ApprovalRequired")
	d.do(VerbPromote, "9/n2", "gate 9/n2 is not waiting, or was passed before; see gray rollout status")

	d = newDrill(t, movesOf("1 2 100%", through("n1", 2)), 3, 3)
	d.run()
	d.at("n1 Passed 2 [1 2], Paused/ThroughReached")
	d.commit(func(s *Spec) { through("n2", 1)(s.Rollout) }) // the pull request that raises it
	d.run()
	d.at("n1 done, n2 Passed 1 [1], Paused/ThroughReached")
	d.do(VerbPromote, "", "")
	d.run()
	d.at("n1 done, n2 Passed 2 [1 2], Paused/ThroughReached")
	if o := d.r.Overrides(d.spec); len(o) != 1 || o[0] != "batch 2 of Network n2 is beyond through, promoted by ann: because" {
		t.Errorf("overrides %q", o)
	}
	d.commit(func(s *Spec) { through("n2", 3)(s.Rollout) })
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")
	if o := d.r.Overrides(d.spec); len(o) != 0 {
		t.Errorf("overrides %q", o)
	}
	d.commit(func(s *Spec) { through("n1", 1)(s.Rollout) }) // which takes nothing back
	d.run()
	d.at("n1 done, n2 done, Completed/Completed")

	d = newDrill(t, movesOf("1 100%", approval("batch"), through("n1", 2)), 2, 2)
	d.run()
	d.at("n1 done, Paused/ThroughReached")
}

// A verdict that comes twice counts once.
func TestVerdictCountsOnce(t *testing.T) {
	d := newDrill(t, movesOf("1 100%", func(r *schema.Rollout) { r.Verify.Retries = 1 }), 3)
	d.pass()
	p := d.probe()
	d.step(p.verdict(false, "x"), p.verdict(false, "x"))
	d.step(p.verdict(false, "x"), p.verdict(true))
	d.at("n1 Verifying 1 [1], Progressing/BatchVerifying")
	d.step(d.probe().verdict(true), p.verdict(false, "x"))
	d.at("n1 Applying 2 [1 2 3] all, Progressing/BatchApplying")
}
