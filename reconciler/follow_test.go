package reconciler

import (
	"errors"
	"strings"
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

// TestFollowerDoesAsTheLeader commits past a daemon that follows: what the leader has
// not decided about waits, what it refuses is refused, and what it adopts is adopted.
// Where the leader says nothing, the commit is served after a while.
func TestFollowerDoesAsTheLeader(t *testing.T) {
	bubble(t, func(t *testing.T) {
		told := board.NewFollow()
		says := func(c board.Commit) {
			told.Set(board.Moved{Rollouts: map[string]*rollout.State{}, Commit: c})
		}
		says(board.Commit{Revision: "c1"})
		g := start(t, newWorld(t), func(c *Config) { c.Follow = told })
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("c1", docs...)
		g.live("mem/s", onePlace("1")...)
		inForce := func(want, problem string) {
			t.Helper()
			s := g.status()
			if s.Revision != want || strings.Join(s.Errors, ", ") != problem {
				t.Errorf("in force is %s, errors %q; want %s, %q", s.Revision, s.Errors, want, problem)
			}
		}
		g.commit("c2", append(docs, policyDoc("p", "gw", 7))...)
		inForce("c1", board.ErrUndecided.Error())
		says(board.Commit{Revision: "c1", Refused: "c2"})
		g.quiet()
		inForce("c1", board.ErrLeaderRefuses.Error())
		g.after(time.Hour)
		inForce("c1", board.ErrLeaderRefuses.Error())
		says(board.Commit{Revision: "c2"}) // a person has confirmed it
		g.quiet()
		inForce("c2", "")
		g.commit("c3", docs...)
		inForce("c2", board.ErrUndecided.Error())
		g.after(time.Minute)
		inForce("c3", "")
	})
}
