package reconciler

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/schema"
)

// matching is policy q, which moves VNIs, suspended or not.
func matching(suspend bool, vnis ...int) string {
	doc := policyDoc("q", "gw", vnis...)
	if suspend {
		doc = strings.Replace(doc, "spec:\n", "spec:\n  suspend: true\n", 1)
	}
	return doc
}

// TestSuspendedPolicyStands suspends a policy that only matches: what is live stays,
// whatever it says in the meantime, over refused commits and restarts, until it is
// suspended no more.
func TestSuspendedPolicyStands(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newKeeper()
		docs := func(policy string) []string {
			return []string{switchDoc("sw", 1), gatewayDoc("gw", "203.0.113.1", "sw", 2), policy}
		}
		g := startRoll(t, w, store, func(c *Config) { c.MaxDelete = 100 })
		g.commit("c0", docs(matching(true, 9))...)
		g.rules() // it never was in force
		g.commit("c1", docs(matching(false, 1))...)
		g.rules("rule 1: -> v2")
		g.commit("bad", docs(strings.Replace(matching(false, 2), "version: v2", "version: v7", 1))...)
		g.commit("c2", docs(matching(true, 3))...)
		g.rules("rule 1: -> v2")
		if d := g.status().Documents; !slices.ContainsFunc(d, func(d DocumentStatus) bool { return d.Name == "q" && d.Conditions[0].Reason == "Suspended" }) {
			t.Errorf("%+v", d)
		}
		p, err := g.DryRun(t.Context(), &schema.Snapshot{Revision: "next", Files: files(docs(matching(true, 4, 5))...)})
		if err != nil || len(p.Changes)+len(p.Rollouts) > 0 {
			t.Errorf("a suspended policy that says something else: %v, %v", p, err)
		}
		g.stop()
		g = startRoll(t, w, store, func(c *Config) { c.MaxDelete = 100 })
		g.commit("c3", docs(matching(true, 4))...)
		g.after(time.Minute)
		g.rules("rule 1: -> v2")
		g.commit("c4", docs(matching(false, 4))...)
		g.rules("rule 4: -> v2")
		if n := store.count(); n != 1 { // which commit is in force
			t.Errorf("%d records are left", n)
		}
		g.commit("c5", docs(matching(true))...)
		g.commit("c6", docs("")...)
		g.rules()
		if n := store.count(); n != 1 { // which commit is in force
			t.Errorf("%d records are left", n)
		}
	})
}

// TestSuspendedPolicyHoldsItsRollout takes the rollout out of a policy and suspends it
// in one commit: what has moved stays, and nothing moves on.
func TestSuspendedPolicyHoldsItsRollout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newKeeper()
		g := startRoll(t, w, store)
		docs := shard("batches: [1, 100%], bake: 10s, " + verified)
		g.commit("c1", docs...)
		live := []string{"rule 1/10.0.1.1: -> v2", "account 10: -> v2"}
		g.rules(live...)
		docs[5] = apiVersion + "kind: GrayPolicy\nmetadata: {name: p}\nspec: {targets: [{kind: Gateway, name: gw}], version: v2, suspend: true}\n"
		for range 2 {
			g.commit("c2", docs...)
			g.after(time.Minute)
			g.stands(rollout.PhasePaused, "Suspended", 1, 0)
			g.rules(live...)
			g.stop()
			g = startRoll(t, w, store)
		}
		docs[5] = rolloutDoc("v2", "batches: [1, 100%], bake: 10s, "+verified)
		g.commit("c3", docs...)
		g.after(time.Minute)
		g.stands(rollout.PhaseCompleted, "Completed", 4, 4)
	})
}

// TestSuspendedPolicyOffline compares two commits: the one before says what a policy
// stands for that is suspended in the next.
func TestSuspendedPolicyOffline(t *testing.T) {
	sinks := movers(newWorld(t))
	of := func(policy string) *schema.Snapshot {
		return &schema.Snapshot{Files: files(switchDoc("sw", 1), gatewayDoc("gw", "203.0.113.1", "sw", 2), policy)}
	}
	was, err := Offline{Sinks: sinks}.Compile(of(matching(false, 1)), Nothing())
	if err != nil {
		t.Fatal(err)
	}
	is, err := Offline{Sinks: sinks}.Compile(of(matching(true, 2)), was)
	if err != nil {
		t.Fatal(err)
	}
	if p := is.Plan(was, "head"); len(p.Changes)+len(p.Rollouts) > 0 {
		t.Errorf("%s", p)
	}
}

// TestFollowerKnowsSuspended has a fresh follower serve a suspended policy as the
// leader does, and wait until it knows how.
func TestFollowerKnowsSuspended(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		leader := startRoll(t, newWorld(t), store)
		docs := func(policy string) []string {
			return []string{switchDoc("sw", 1), gatewayDoc("gw", "203.0.113.1", "sw", 2), policy}
		}
		leader.commit("c1", docs(matching(false, 1))...)
		leader.commit("c2", docs(matching(true, 2))...)
		records, _, err := store.store().rollouts()
		if err != nil {
			t.Fatal(err)
		}
		moved, err := ReadMoved(records)
		if err != nil {
			t.Fatal(err)
		}
		board := board.NewFollow()
		g := startRoll(t, newWorld(t), newKeeper(), func(c *Config) { c.Follow, c.Probes = board, nil })
		g.commit("c2", docs(matching(true, 2))...)
		if s := g.status(); s.Revision != "" {
			t.Errorf("it follows %s before it knows", s.Revision)
		}
		board.Set(moved)
		g.quiet()
		g.rules("rule 1: -> v2")
	})
}
