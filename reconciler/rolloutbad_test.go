package reconciler

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// TestRolloutDiskFull fills the disk in the middle: nothing moves on and nothing
// goes back until there is room, and no verdict is lost.
func TestRolloutDiskFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		g := startRoll(t, newWorld(t), store)
		g.commit("c1", shard("batches: [1, 100%], bake: 10s, "+verified)...)
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
		store.fails(errDisk)
		g.after(30 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
		if s := g.rollout(); !strings.Contains(s.Waits, errDisk.Error()) {
			t.Errorf("it waits for %q", s.Waits)
		}
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann"}); !errors.Is(err, errDisk) {
			t.Errorf("abort: %v", err)
		}
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		store.fails(nil)
		g.after(2 * time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
		if n := len(g.tested()); n != 6 {
			t.Errorf("%d jobs, want each once", n)
		}
	})
}

// TestRolloutDiskFullAtVerdict has the disk fill while a batch is tested that fails.
func TestRolloutDiskFullAtVerdict(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		g := startRoll(t, newWorld(t), store)
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) {
			if !j.Baseline {
				store.fails(errDisk)
			}
			return rollout.Verdict{Passed: j.Baseline, Evidence: []string{"lost"}}, true
		})
		g.commit("c1", shard("batches: [1, 100%], "+verified)...)
		g.after(time.Minute)
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		store.fails(nil)
		g.after(2 * time.Minute)
		g.stands(rollout.PhaseRolledBack, "VerificationFailed", 0, 0)
		g.rules()
	})
}

// TestRolloutWaitsForSwitch has a switch that confirms late, and one that never
// does: nothing is tested before, the deadline makes it Stalled, and it goes on when
// the switch is back.
func TestRolloutWaitsForSwitch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.commit("c0", shard("batches: [1, 100%], deadline: 5m, approval: batch, "+verified)...)
		g.w.at("mem/sw", func(p *place) { p.down = errors.New("the switch is away") })
		g.promote()
		g.after(time.Minute)
		g.stands(rollout.PhaseProgressing, "BatchApplying", 1, 0)
		if s := g.rollout(); !strings.Contains(s.Waits, "the switch is away") {
			t.Errorf("it waits for %q", s.Waits)
		}
		jobs := len(g.tested())
		g.after(5 * time.Minute)
		g.stands(rollout.PhaseProgressing, "DeadlineExceeded", 1, 0)
		if len(g.tested()) != jobs {
			t.Error("it was tested before it was live")
		}
		g.w.at("mem/sw", func(p *place) { p.down = nil })
		g.after(2 * time.Minute)
		g.stands(rollout.PhasePaused, "ApprovalRequired", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
	})
}

// TestRolloutReadsBack has a switch that says it takes an entry and does not have
// it: its batch is not tested.
func TestRolloutReadsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		lost := Key{"mem/sw", "rule", "1/10.0.1.1"}
		g.w.at("mem/sw", func(p *place) { p.loses[lost] = true })
		g.commit("c1", shard("batches: [1, 100%], "+verified)...)
		g.after(time.Minute)
		g.stands(rollout.PhaseProgressing, "BatchApplying", 1, 0)
		for _, j := range g.tested() {
			if !j.Baseline {
				t.Errorf("%+v was tested", j.Probe)
			}
		}
		g.w.at("mem/sw", func(p *place) { delete(p.loses, lost) })
		g.after(5 * time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
	})
}

// TestRolloutProbeHangs has a probe that does not end: the deadline shows it.
func TestRolloutProbeHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) { return rollout.Verdict{Passed: true}, j.Baseline })
		g.commit("c1", shard("batches: [1, 100%], deadline: 5m, "+verified)...)
		g.after(time.Minute)
		g.probes.Fail(g.tested()[1], "no answer from the program")
		g.quiet()
		if s := g.rollout(); s.Waits != "no answer from the program" {
			t.Errorf("it waits for %q", s.Waits)
		}
		g.after(5 * time.Minute)
		g.stands(rollout.PhaseProgressing, "DeadlineExceeded", 1, 0)
	})
}

// TestRolloutMendedMonitor mends a monitor while its probe cannot be made: the next
// one is made with it.
func TestRolloutMendedMonitor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) {
			n, _ := j.Spec.Network(j.Network)
			return rollout.Verdict{Passed: true}, n.Monitor != nil
		})
		docs := shard("batches: [1, 100%], " + verified)
		g.commit("c1", docs...)
		g.probes.Fail(g.tested()[0], "no monitor")
		g.quiet()
		g.stands(rollout.PhaseProgressing, "BaselineRunning", 0, 0)
		for i := 3; i <= 4; i++ {
			docs[i] = strings.Replace(docs[i], "  routes:", "  monitor: {address: 10.9.9.9, mac: \"02:00:00:00:99:99\", vtep: 192.0.2.99}\n  routes:", 1)
		}
		g.commit("c2", docs...)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
	})
}

// TestRolloutVoidsVerdicts changes what is tested while it is tested: the verdict
// does not count, and the batch is tested anew when it is live again.
func TestRolloutVoidsVerdicts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) { return rollout.Verdict{Passed: true}, j.Baseline })
		g.commit("c1", shard("batches: [1, 100%], "+verified)...)
		first := g.tested()[1]
		k := Key{"mem/sw", "rule", "1/10.0.1.1"}
		g.w.at("mem/sw", func(p *place) { delete(p.live, k); p.foreign = true })
		if err := g.ObserveAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.quiet()
		g.probes.Report(board.Ended{Job: first, Verdict: rollout.Verdict{Passed: true}})
		g.quiet()
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 1, 0)
		if n := len(g.tested()); n != 3 || g.tested()[2].Generation <= first.Generation {
			t.Errorf("%d jobs", n)
		}
		g.verdicts(func(*board.Job) (rollout.Verdict, bool) { return rollout.Verdict{Passed: true}, true })
		g.probes.Report(board.Ended{Job: g.tested()[2], Verdict: rollout.Verdict{Passed: true}})
		g.quiet()
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
	})
}

// TestRolloutPolicyDeleted takes the policy away in the middle, and brings it back.
func TestRolloutPolicyDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		g := startRoll(t, newWorld(t), store)
		docs := shard("batches: [1, 50%, 100%], bake: 10s, " + verified)
		g.commit("c1", docs...)
		g.after(10 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 2, 0)
		g.commit("c2", docs[:len(docs)-1]...)
		g.rules()
		if n := len(g.status().Rollouts); n != 0 || store.record("p") != nil {
			t.Errorf("%d rollouts, stored %s", n, store.record("p"))
		}
		g.commit("c3", docs...)
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
	})
}

// TestRolloutPolicyDeletedOnFullDisk does so where it cannot be stored: it is gone
// all the same, and begins afresh.
func TestRolloutPolicyDeletedOnFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		g := startRoll(t, newWorld(t), store)
		docs := shard("batches: [1, 50%, 100%], bake: 10s, " + verified)
		g.commit("c1", docs...)
		g.after(10 * time.Second)
		store.fails(errDisk)
		g.commit("c2", docs[:len(docs)-1]...)
		g.rules()
		g.commit("c3", docs...)
		g.rules()
		store.fails(nil)
		jobs := len(g.tested())
		g.after(2 * time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
		if n := len(g.tested()) - jobs; n != 8 {
			t.Errorf("%d jobs since then, want all of a rollout's", n)
		}
	})
}

// TestRolloutCommitMidBatch commits while a batch is tested: a change of pace keeps
// it, another version begins afresh.
func TestRolloutCommitMidBatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) { return rollout.Verdict{Passed: true}, j.Baseline })
		g.commit("c1", shard("batches: [1, 50%, 100%], "+verified)...)
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 1, 0)
		jobs := len(g.tested())
		g.commit("c2", shard("batches: [1, 75%, 100%], "+verified)...)
		if len(g.tested()) != jobs {
			t.Error("another pace began a test")
		}
		g.probes.Report(board.Ended{Job: g.tested()[1], Verdict: rollout.Verdict{Passed: true}})
		g.quiet()
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 3, 0)
		docs := shard("batches: [1, 75%, 100%], " + verified)
		docs[1] = gatewayDoc("gw", "203.0.113.1", "sw", 2, 3) // other servers
		g.commit("c3", docs...)
		if j := g.tested()[len(g.tested())-1]; j.Revision != "c3" || j.Batch != 2 {
			t.Errorf("%+v", j)
		}
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 3, 0)
		docs[5] = strings.Replace(docs[5], "version: v2", "version: v1", 1)
		g.commit("c4", docs...)
		g.stands(rollout.PhaseProgressing, "BatchVerifying", 1, 0)
	})
}

// TestRolloutScopeChanges adds and removes VMs and a Network in the middle.
func TestRolloutScopeChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper(), func(c *Config) { c.MaxDelete = 100 })
		docs := shard("batches: [1, 50%, 100%], bake: 10s, " + verified)
		g.commit("c1", docs...)
		g.after(10 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 2, 0)
		docs[3] = networkDoc(1, 8)
		g.commit("c2", docs...)
		g.stands(rollout.PhaseProgressing, "Baking", 2, 0)
		g.after(10 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 4, 0) // half of eight
		docs[3] = networkDoc(1, 3)
		g.commit("c3", docs...)
		if s := g.rollout(); s.Networks[0].Moved != 3 || s.Networks[0].Total != 3 {
			t.Errorf("%+v", s.Networks[0])
		}
		g.rules("rule 1: -> v2", "account 10: -> v2")
		docs[3] = strings.Replace(networkDoc(1, 3), "shard: s1", "shard: s2", 1)
		g.commit("c4", docs...)
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4)
		g.rules("rule 2: -> v2", "account 20: -> v2")
	})
}

// promote opens the gate that waits.
func (g *rollRig) promote() {
	g.t.Helper()
	gates := g.rollout().Gates
	if len(gates) != 1 {
		g.t.Fatalf("gates: %v", gates)
	}
	if _, err := g.Do(g.t.Context(), "p", rollout.Verb{Verb: rollout.VerbPromote, Gate: gates[0].ID, Who: "ann"}); err != nil {
		g.t.Fatal(err)
	}
	g.quiet()
}

// TestRolloutVerbs says what people say: who and why are in the audit log, a gate is
// opened once by two people, and what Git does not say yet is shown.
func TestRolloutVerbs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		g := startRoll(t, newWorld(t), store)
		docs := shard("batches: [1, 100%], approval: batch, " + verified)
		g.commit("c1", docs...)
		g.stands(rollout.PhasePaused, "ApprovalRequired", 0, 0)
		gate := g.rollout().Gates[0].ID
		for _, who := range []string{"ann", "bob"} {
			if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbPromote, Gate: gate, Who: who, Why: "looks good"}); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
		g.quiet()
		g.stands(rollout.PhasePaused, "ApprovalRequired", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbPause, Who: "ann", Why: "lunch"}); err != nil {
			t.Fatal(err)
		}
		g.quiet()
		g.stands(rollout.PhasePaused, "PausedByUser", 1, 0)
		if o := g.rollout().Overrides; len(o) != 1 || !strings.Contains(o[0], "by ann: lunch") {
			t.Errorf("overrides %q", o)
		}
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "bob", Why: "no"}); err != nil {
			t.Fatal(err)
		}
		g.quiet()
		g.stands(rollout.PhaseRolledBack, "AbortedByUser", 0, 0)
		g.rules()
		for _, test := range []struct {
			policy, verb string
			want         error
		}{{"q", rollout.VerbPause, ErrNoRollout}, {"p", rollout.VerbPromote, ErrNotNow}} {
			if _, err := g.Do(t.Context(), test.policy, rollout.Verb{Verb: test.verb}); !errors.Is(err, test.want) {
				t.Errorf("%s %s: %v", test.verb, test.policy, err)
			}
		}
		records, err := g.Audit("p", 100)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for i, r := range records {
			if r.Number != uint64(i+1) || r.Revision != "c1" {
				t.Errorf("%+v", r)
			}
			if r.Verb != "" {
				said += fmt.Sprintf("%s %s %s; ", r.Who, r.Verb, r.Why)
			}
		}
		if said != "ann promote looks good; ann pause lunch; bob abort no; " {
			t.Errorf("the audit log says %q", said)
		}
	})
}

// TestRolloutBackPassesGuard takes back more than --max-delete lets a commit delete,
// also after a restart in the middle of it.
func TestRolloutBackPassesGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newKeeper()
		g := startRoll(t, w, store, func(c *Config) { c.MaxDelete = 5 })
		docs := append(shard("batches: [10, 100%], parallel: 2, bake: 1h, "+verified), "")
		docs[3], docs[4] = networkDoc(1, 40), networkDoc(2, 40)
		docs[6] = policyDoc("q", "gw", 7) // of another one, which stays
		g.commit("c1", docs...)
		g.stands(rollout.PhaseProgressing, "Baking", 10, 10)
		gate := make(chan struct{})
		w.at("mem/sw", func(p *place) { p.gate = gate })
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann"}); err != nil {
			t.Fatal(err)
		}
		g.quiet()
		g.stop() // killed while the switch is written
		w.at("mem/sw", func(p *place) { p.gate = nil })
		g = startRoll(t, w, store, func(c *Config) { c.MaxDelete = 5 })
		g.commit("c1", docs...)
		g.stands(rollout.PhaseRolledBack, "AbortedByUser", 0, 0)
		g.rules("rule 7: -> v2")
	})
}

// TestRolloutAccountsLast takes a rollout back: the accounts go when the switch is
// done, or fails.
func TestRolloutAccountsLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		for _, fails := range []bool{false, true} {
			w := newWorld(t)
			g := startRoll(t, w, newKeeper())
			g.commit("c1", shard("batches: [1, 100%], bake: 1h, "+verified)...)
			gate := make(chan struct{})
			w.at("mem/sw", func(p *place) { p.gate = gate })
			if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann"}); err != nil {
				t.Fatal(err)
			}
			g.after(time.Minute)
			g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
			g.stands(rollout.PhaseRollingBack, "AbortedByUser", 0, 0)
			if fails {
				w.at("mem/sw", func(p *place) { p.down = errors.New("it burns") })
				close(gate)
				g.quiet()
				g.rules("rule 1/10.0.1.1: -> v2")
				g.stop()
				continue
			}
			w.at("mem/sw", func(p *place) { p.gate = nil })
			close(gate)
			g.quiet()
			g.rules()
			g.stands(rollout.PhaseRolledBack, "AbortedByUser", 0, 0)
			g.stop()
		}
	})
}

// TestRolloutRefusedPlan has a sink that cannot make a batch: the batch has failed,
// nothing of it is stored, and a restart finds what can be made.
func TestRolloutRefusedPlan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newKeeper()
		full := func(c *Config) {
			lower := c.Sinks[0].(fake).lower
			c.Sinks[0] = fake{w, func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
				if cell, is := ir.Get(n).(*packets.Cell); is && len(cell.Rules) > 2 {
					return nil, errors.New("the table has room for one VM")
				}
				return lower(ir, n)
			}}
		}
		g := startRoll(t, w, store, full)
		docs := shard("batches: [1, 50%, 100%], bake: 10s, onFailure: pause, " + verified)
		g.commit("c1", docs...)
		g.after(10 * time.Second)
		g.stands(rollout.PhasePaused, "PlanRefused", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		if f := g.rollout().Failure; f == nil || !strings.Contains(f.String(), "room for one VM") {
			t.Errorf("%+v", f)
		}
		g.stop()
		g = startRoll(t, w, store, full)
		g.commit("c1", docs...)
		g.stands(rollout.PhasePaused, "PlanRefused", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
	})
}

// TestRolloutClockJumps has the clock go back a day, and forward, between two lives
// of a daemon: nothing waits longer than it would have.
func TestRolloutClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		bubble(t, func(t *testing.T) {
			w, store := newWorld(t), newKeeper()
			docs := shard("batches: [1, 100%], bake: 10m, deadline: 1h, " + verified)
			g := startRoll(t, w, store)
			g.commit("c1", docs...)
			g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
			g.stop()
			store.shift(t, jump)
			g = startRoll(t, w, store)
			g.commit("c1", docs...)
			if jump > 0 { // the stored times are in the future, so the clock went back
				g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
				g.after(10 * time.Minute)
			}
			if s := g.rollout(); s.Networks[0].Moved != 4 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// shift moves the times of what is stored.
func (k *keeper) shift(t *testing.T, by time.Duration) {
	t.Helper()
	r, err := rollout.Read(k.records[BucketRollouts][PrefixState+"p"])
	if err != nil {
		t.Fatal(err)
	}
	r.Progressed, r.Since = r.Progressed.Add(by), r.Since.Add(by)
	for _, m := range r.Moving {
		m.Since = m.Since.Add(by)
	}
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	k.records[BucketRollouts][PrefixState+"p"] = b
}
