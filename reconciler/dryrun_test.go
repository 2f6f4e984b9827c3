package reconciler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gray-release/gray/schema"
)

func (g *rig) dryRun(docs ...string) string {
	g.t.Helper()
	p, err := g.DryRun(g.t.Context(), &schema.Snapshot{Revision: "working tree", Files: files(docs...)})
	if err != nil {
		g.t.Fatal(err)
	}
	return p.String()
}

// appliedSince is the plan texts after the first n records, in the order of their
// targets.
func (g *rig) appliedSince(n int) string {
	text := map[string]string{}
	for _, r := range g.log.records(g.t, "applied")[n:] {
		text[r.Target] += r.Plan
	}
	var all strings.Builder
	for _, target := range []string{"bgp/s", "mem/s"} {
		all.WriteString(text[target])
	}
	return all.String()
}

func TestWhatADryRunPrintsIsApplied(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		sw := switchDoc("s", 1)
		steps := [][]string{
			{sw, gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7, 8)},
			{sw, gatewayDoc("gw", aVIP, "s", 2, 3), policyDoc("p", "gw", 8, 9)},
			{"# moved\n" + sw, gatewayDoc("gw", aVIP, "s", 3), policyDoc("q", "gw", 9)},
		}
		g.commit("0", sw)
		for i, docs := range steps {
			said := g.dryRun(docs...)
			n := len(g.log.records(t, "applied"))
			g.commit(string(rune('1'+i)), docs...)
			if got := g.appliedSince(n); got != said || said == "" {
				t.Errorf("the dry run printed\n%s\nand applied was\n%s", said, got)
			}
			if again := g.dryRun(docs...); again != "" {
				t.Errorf("what is live would change by\n%s", again)
			}
		}
		// Where targets wait for each other the lines are the same and their order is
		// that of the waiting.
		docs := []string{sw, gatewayDoc("other", "203.0.113.11", "s", 3)}
		said := strings.Split(g.dryRun(docs...), "\n")
		n := len(g.log.records(t, "applied"))
		g.commit("9", docs...)
		got := strings.Split(g.appliedSince(n), "\n")
		slices.Sort(said)
		slices.Sort(got)
		if !slices.Equal(said, got) {
			t.Errorf("the dry run printed the lines %q, and applied were %q", said, got)
		}
	})
}

func TestADryRunNeedsTheLiveState(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.quiet()
		snapshot := &schema.Snapshot{Revision: "x", Files: files(switchDoc("s", 1))}
		if _, err := g.DryRun(t.Context(), snapshot); err == nil || !strings.Contains(err.Error(), "no commit is in force yet") {
			t.Errorf("without a commit a dry run gives %v", err)
		}
		g.w.at("mem/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("1", switchDoc("s", 1))
		if _, err := g.DryRun(t.Context(), snapshot); err == nil || !strings.Contains(err.Error(), "mem/s is not known: no route to host") {
			t.Errorf("without the live state a dry run gives %v", err)
		}
		bad := &schema.Snapshot{Revision: "x", Files: files("kind: nonsense\n")}
		_, err := g.DryRun(t.Context(), bad)
		if _, ok := errors.AsType[schema.Errors](err); !ok {
			t.Errorf("a bad document gives %v", err)
		}
	})
}

func TestACommitThatChangesNothingTouchesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", docs...)
		reads, applies := g.w.calls("mem/s")
		before := g.status().Documents
		g.after(time.Minute)
		g.commit("2", docs[0], docs[1]+"# a comment\n")
		if r, a := g.w.calls("mem/s"); r != reads || a != applies {
			t.Errorf("a commit that changes nothing made %d reads and %d writes", r-reads, a-applies)
		}
		s := g.status()
		if s.Revision != "2" || s.Conditions[0].Status != "True" {
			t.Errorf("revision %s is in force, %+v", s.Revision, s.Conditions)
		}
		for i, d := range s.Documents {
			if !d.Conditions[0].LastTransitionTime.Equal(before[i].Conditions[0].LastTransitionTime) {
				t.Errorf("%s changed at %v", d.Name, d.Conditions[0].LastTransitionTime)
			}
		}
	})
}

func TestARestartWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newStore()
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), policyDoc("p", "gw", 7, 8)}
		g := start(t, w, func(c *Config) { c.Store = store })
		g.commit("1", docs...)
		g.stop()
		_, applies := w.calls("mem/s")
		_, routes := w.calls("bgp/s")
		g = start(t, w, func(c *Config) { c.Store = store })
		g.commit("1", docs...)
		g.after(time.Hour)
		if _, now := w.calls("mem/s"); now != applies {
			t.Errorf("a restarted loop wrote %d times to the switch", now-applies)
		}
		if _, now := w.calls("bgp/s"); now != routes {
			t.Errorf("a restarted loop wrote %d times to the routes", now-routes)
		}
		if s := g.status(); s.Conditions[0].Status != "True" {
			t.Errorf("the conditions are %+v", s.Conditions)
		}
	})
}

// settled starts WaitSettled and tells whether it has returned.
func (g *rig) settled() func() bool {
	done := make(chan error, 1)
	go func() { done <- g.WaitSettled(g.t.Context()) }()
	return func() bool {
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				g.t.Error(err)
			}
			return true
		default:
			return false
		}
	}
}

func TestWaitSettled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		done := g.settled()
		if done() {
			t.Fatal("nothing was fetched, and it is settled")
		}
		gate := make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.gate = gate })
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", docs...)
		if done() {
			t.Fatal("an Apply is under way, and it is settled")
		}
		close(gate)
		if !done() {
			t.Fatal("all is live, and it is not settled")
		}
		if !g.settled()() {
			t.Error("who asks later is not told")
		}

		rule := Key{"mem/s", "rule", "gw/7"}
		g.w.at("mem/s", func(p *place) { p.refuse[rule] = errors.New("no") })
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		done = g.settled()
		if done() {
			t.Fatal("a rule waits for its next try, and it is settled")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := g.WaitSettled(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after ten seconds WaitSettled gives %v", err)
		}
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		g.after(time.Minute)
		if !done() {
			t.Fatal("the rule is live, and it is not settled")
		}

		g.commit("3", append(docs, "kind: nonsense\n")...)
		if !g.settled()() {
			t.Error("a refused commit waits for a person, and it is not settled")
		}
		g.commit("4", switchDoc("s", 1))
		if !g.settled()() {
			t.Error("a refused commit waits for a person, and it is not settled")
		}
		if c := g.status().Conditions[0]; c.Reason != "DeleteRefused" {
			t.Errorf("the commit shows as %+v", c)
		}
	})
}

func TestObserveAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), switchDoc("o", 2), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", docs...)
		k := Key{"mem/s", "rule", "foreign"}
		g.w.at("mem/s", func(p *place) { p.live[k] = &Resource{Key: k, Rank: rankRule, Body: text("not ours")} })
		if err := g.ObserveAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(g.log.String(), "not ours") {
			t.Error("it returned and nobody has looked")
		}
		// A read that has looked before it was asked for does not count.
		gate := make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.readGate = gate })
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		k.Name = "another"
		g.w.at("mem/s", func(p *place) { p.live[k] = &Resource{Key: k, Rank: rankRule, Body: text("nor this")} })
		done := make(chan error, 1)
		go func() { done <- g.ObserveAll(t.Context()) }()
		g.quiet()
		g.w.at("mem/s", func(p *place) { p.readGate = nil })
		close(gate)
		if err := <-done; err != nil || !strings.Contains(g.log.String(), "nor this") {
			t.Errorf("it returned %v, and nobody has looked since", err)
		}
		g.w.at("mem/o", func(p *place) { p.down = errors.New("no route to host") })
		begin := time.Now()
		if err := g.ObserveAll(t.Context()); err == nil || err.Error() != "mem/o cannot be read: no route to host" {
			t.Errorf("with a switch that is away it gives %v", err)
		}
		if time.Since(begin) > 0 {
			t.Errorf("it waited %v for the next try", time.Since(begin))
		}
	})
}
