package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// shard is a gateway, a service and two VPCs of four VMs.
func shard(rollout string) []string {
	return []string{switchDoc("sw", 1), gatewayDoc("gw", "203.0.113.1", "sw", 2), serviceDoc, networkDoc(1, 4), networkDoc(2, 4), rolloutDoc("v2", rollout)}
}

// TestRolloutRuns takes a shard of two VPCs from nothing to the end.
func TestRolloutRuns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.commit("c1", shard("batches: [1, 50%, 100%], bake: 10s, "+verified)...)
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		g.after(10 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 2, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "rule 1/10.0.1.2: -> v2", "account 10: -> v2")
		g.after(10 * time.Second)
		g.rules("rule 1: -> v2", "account 10: -> v2")
		g.after(10 * time.Second)
		g.stands(rollout.PhaseProgressing, "Baking", 4, 1)
		g.rules("rule 1: -> v2", "rule 2/10.0.2.1: -> v2", "account 10: -> v2", "account 20: -> v2")
		g.after(30 * time.Second)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
		g.rules("rule 1: -> v2", "rule 2: -> v2", "account 10: -> v2", "account 20: -> v2")
		if n := len(g.tested()); n != 8 { // two baselines, six batches
			t.Errorf("%d jobs", n)
		}
		_, applied := g.w.calls("mem/sw")
		g.after(time.Hour)
		if _, now := g.w.calls("mem/sw"); now != applied {
			t.Errorf("%d Applies after the end", now-applied)
		}
	})
}

// TestRolloutWithoutDeadlineStalls has the switch go away under a rollout that names no
// deadline: it is Stalled all the same, and goes on when the switch is back.
func TestRolloutWithoutDeadlineStalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		g := startRoll(t, w, newKeeper())
		docs := shard("batches: [1, 100%], bake: 10s")
		g.commit("c1", docs...)
		w.at("mem/sw", func(p *place) { p.down = errors.New("away") })
		g.after(29 * time.Minute)
		g.stands(rollout.PhaseProgressing, "BatchApplying", 4, 0)
		g.after(2 * time.Minute)
		g.stands(rollout.PhaseProgressing, "DeadlineExceeded", 4, 0)
		w.at("mem/sw", func(p *place) { p.down = nil })
		g.after(2 * time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
	})
}

// TestRolloutGoesBack has the second batch fail: everything is at the default again,
// the accounts last, and the same content is not tried again.
func TestRolloutGoesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		g.verdicts(func(j *board.Job) (rollout.Verdict, bool) {
			return rollout.Verdict{Passed: j.Network != "n2" || len(j.VMs) < 2, Evidence: []string{"10.0.2.2 lost all"}}, true
		})
		docs := shard("batches: [1, 50%, 100%], " + verified)
		g.commit("c1", docs...)
		g.stands(rollout.PhaseRolledBack, "VerificationFailed", 0, 0)
		g.rules()
		f := g.rollout().Failure
		if f == nil || f.Network != "n2" || f.Batch != 2 || f.Revision != "c1" || strings.Join(f.Evidence, "") != "10.0.2.2 lost all" {
			t.Errorf("%+v", f)
		}
		failed := func(e Event) bool { return e.Reason == "VerificationFailed" }
		g.mu.Lock()
		if i := slices.IndexFunc(g.events, failed); i < 0 {
			t.Error("nobody was told")
		} else if e := g.events[i]; e.Result != "result" || e.Network != "n2" || e.Batch != 2 || e.Batches != 3 || e.Revision != "c1" || !strings.Contains(e.Message, "10.0.2.2 lost all") {
			t.Errorf("%+v", e)
		}
		g.mu.Unlock()
		jobs := len(g.tested())
		g.commit("c2", docs...)
		g.after(time.Hour)
		if len(g.tested()) != jobs {
			t.Error("what failed was tried again")
		}
		want := []rollout.Reached{{Network: "n1", Batch: 3, VMs: 4}, {Network: "n2", Batch: 2, VMs: 2}}
		for i, n := range g.rollout().Networks {
			if n.Reached == nil || *n.Reached != want[i] {
				t.Errorf("%s had come to %+v, want %+v", n.Name, n.Reached, want[i])
			}
		}
		g.stands(rollout.PhaseRolledBack, "VerificationFailed", 0, 0)
	})
}

// TestRolloutStoreLost starts on a new store in a world in which VPCs have moved: they
// go back to the default, whatever --max-delete says, and the rollout begins afresh.
func TestRolloutStoreLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		g := startRoll(t, w, newKeeper())
		docs := shard("batches: [1, 100%], bake: 10s, " + verified)
		g.commit("c1", docs...)
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
		g.stop()
		g = startRoll(t, w, newKeeper(), func(c *Config) { c.MaxDelete = 1 })
		g.commit("c1", docs...)
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
		if n := len(g.tested()); n != 6 {
			t.Errorf("%d jobs, want all of a rollout's", n)
		}
	})
}
