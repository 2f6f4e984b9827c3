package reconciler

import (
	"errors"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler/board"
)

// TestFollowerServesWhatTheLeaderMoved has a daemon follow: it acts on nothing before
// it knows what has moved, and moves nothing itself.
func TestFollowerServesWhatTheLeaderMoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		store := newKeeper()
		leader := startRoll(t, newWorld(t), store)
		docs := shard("batches: [1, 100%], bake: 10m, " + verified)
		leader.commit("c1", docs...)
		told := board.NewFollow()
		share := func() {
			r, err := rollout.Read(store.record("p"))
			if err != nil {
				t.Fatal(err)
			}
			told.Set(board.Moved{Rollouts: map[string]*rollout.State{"p": r}})
		}
		own := newKeeper()
		g := startRoll(t, newWorld(t), own, func(c *Config) { c.Follow, c.Probes = told, nil })
		g.commit("c1", docs...)
		if s := g.status(); s.Revision != "" {
			t.Errorf("it follows %q before it knows what has moved", s.Revision)
		}
		share()
		g.quiet()
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		g.stands(rollout.PhaseProgressing, "Baking", 1, 0)
		if _, err := g.Do(t.Context(), "p", rollout.Verb{Verb: rollout.VerbPause}); !errors.Is(err, ErrNotNow) {
			t.Errorf("pause: %v", err)
		}
		g.after(10 * time.Minute)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2") // until it hears of it
		share()
		g.quiet()
		g.rules("rule 1: -> v2", "account 10: -> v2")
		if own.count() > 0 {
			t.Error("a follower wrote")
		}
		told.Set(board.Moved{})
		g.quiet()
		g.rules()
	})
}

// TestFollowerWaitsOnlyForRollouts holds that documents without a rollout are followed
// at once where nobody can tell what has moved, and others after a while.
func TestFollowerWaitsOnlyForRollouts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		follow := func(c *Config) { c.Follow, c.Probes = board.NewFollow(), nil }
		docs := shard("batches: [1, 100%], bake: 10m")
		g := startRoll(t, newWorld(t), newKeeper(), follow)
		g.commit("c1", docs[:len(docs)-1]...)
		if s := g.status(); s.Revision != "c1" {
			t.Errorf("without a rollout it follows %q: %q", s.Revision, s.Errors)
		}
		g.commit("c2", docs...) // it serves already, and nothing has moved for what is new
		if s := g.status(); s.Revision != "c2" {
			t.Errorf("a later commit: it follows %q: %q", s.Revision, s.Errors)
		}
		g = startRoll(t, newWorld(t), newKeeper(), follow)
		g.commit("c1", docs...)
		g.after(board.FollowWait - time.Second)
		if s := g.status(); s.Revision != "" || len(s.Errors) != 1 || s.Errors[0] != board.ErrUnknown.Error() {
			t.Errorf("with a rollout it follows %q: %q", s.Revision, s.Errors)
		}
		g.after(2 * time.Second)
		if s := g.status(); s.Revision != "c1" || len(s.Errors) != 0 {
			t.Errorf("after a while it follows %q: %q", s.Revision, s.Errors)
		}
	})
}
