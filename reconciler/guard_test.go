package reconciler

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

// rules is a policy of n VNIs from 101, and the lines that they are at mem/s.
func rules(n int) (doc string, lines []string) {
	var vnis []int
	for i := range n {
		vnis = append(vnis, 101+i)
		lines = append(lines, fmt.Sprintf("rule gw/%d: -> v2", 101+i))
	}
	return policyDoc("p", "gw", vnis...), lines
}

func TestACommitThatDeletesMuchIsRefusedEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Drift = 30 * time.Second })
		docs := []string{switchDoc("s", 1), switchDoc("o", 2), gatewayDoc("gw", aVIP, "s", 2), gatewayDoc("go", "203.0.113.11", "o", 2)}
		ten, lines := rules(10)
		g.commit("1", append(docs, ten)...)
		// 5 + 10 resources are live beside the switch itself; 4 are 27 %, 5 are 33 %.
		six, left := rules(6)
		g.commit("2", append(docs, six)...)
		g.live("mem/s", onePlace("1", left...)...)
		g.commit("1", append(docs, ten)...)
		five, _ := rules(5)
		third := append(docs, five, policyDoc("q", "go", 77))
		plan, err := g.DryRun(t.Context(), &schema.Snapshot{Revision: "3", Files: files(third...)})
		if err != nil || len(plan.Refused) != 1 || plan.Refused[0] != (Refusal{"mem/s", 5, 15, 30}) {
			t.Errorf("a dry run says that these refuse it: %v; error %v", plan.Refused, err)
		}
		before := map[string]int{}
		for _, target := range []string{"mem/s", "mem/o"} {
			_, before[target] = g.w.calls(target)
		}
		g.commit("3", third...)
		g.after(10 * time.Minute)
		g.live("mem/s", onePlace("1", lines...)...)
		for target, n := range before {
			if _, now := g.w.calls(target); now != n {
				t.Errorf("%s: a commit that is refused was tried %d times", target, now-n)
			}
		}
		s := g.status()
		c := s.Conditions[0]
		if c.Status != "False" || c.Reason != "DeleteRefused" || !strings.Contains(c.Message, "5 of 15 live resources of mem/s") || !strings.Contains(c.Message, "--confirm-delete 3") {
			t.Errorf("the refused commit shows as %+v", c)
		}
		if s.Revision != "1" || s.Fetched != "3" {
			t.Errorf("in force is %s and fetched %s", s.Revision, s.Fetched)
		}
		if said := g.log.records(t, "commit refused, the last good one stays"); len(said) != 1 {
			t.Errorf("it was logged %d times", len(said))
		}
		// A commit that deletes less is let through.
		g.commit("4", append(docs, six)...)
		g.live("mem/s", onePlace("1", left...)...)
	})
}

// heir is a body in whose place another resource may serve.
type heir struct {
	text
	kind, name string
}

func (b heir) Heir() (kind, name string) { return b.kind, b.name }

func TestWhatIsInheritedIsNotLost(t *testing.T) {
	live, k := State{}, Key{Target: "mem/s", Kind: "vpc", Name: "1"}
	for i := range 10 {
		vm := Key{Target: "mem/s", Kind: "vm", Name: fmt.Sprint(i)}
		live[vm] = &Resource{Key: vm, Body: heir{"x", k.Kind, k.Name}}
	}
	for _, whole := range []bool{true, false} {
		desired := State{}
		if whole {
			desired[k] = &Resource{Key: k, Body: text("x")}
		}
		p := MakePlan(desired, live, View{Former: live, MaxDelete: 30})
		if refused := len(p.Refused) > 0; refused == whole {
			t.Errorf("with the whole VPC's entry %t: refused by %v", whole, p.Refused)
		}
	}
}

func TestAConfirmedPlanIsMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		ten, lines := rules(10)
		store := newStore()
		with := func(confirm string) func(*Config) { return func(c *Config) { c.Store, c.Confirm = store, confirm } }
		g := start(t, w, with(""))
		g.commit("1", append(docs, ten)...)
		g.commit("2", docs...)
		g.stop()
		g = start(t, w, with("1"))
		g.commit("2", docs...)
		g.live("mem/s", onePlace("1", lines...)...)
		g.stop()
		g = start(t, w, with("2"))
		g.commit("2", docs...)
		g.live("mem/s", onePlace("1")...)
	})
}

// A switch that was taken out of the repository is held by the guard as well, and
// still known after the restart that confirms it.
func TestASwitchWithoutDocumentIsCleanedOnceConfirmed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, store := newWorld(t), newStore()
		keep := switchDoc("keep", 2)
		g := start(t, w, func(c *Config) { c.Store = store })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), keep)
		g.commit("2", keep)
		if c := g.status().Conditions[0]; c.Reason != "DeleteRefused" || !strings.Contains(c.Message, "1 more target") {
			t.Errorf("the commit shows as %+v", c)
		}
		g.live("mem/s", onePlace("1")...)
		g.stop()
		w.at("bgp/s", func(p *place) { clear(p.live) }) // what the process announced ended with it
		g = start(t, w, func(c *Config) { c.Store = store })
		g.commit("2", keep)
		if c := condition(t, g.status(), "mem/s"); c.Reason != "DeleteRefused" {
			t.Errorf("after a restart it shows as %+v", c)
		}
		g.live("mem/s", onePlace("1")...)
		g.stop()
		g = start(t, w, func(c *Config) { c.Store, c.Confirm = store, "2" })
		g.commit("2", keep)
		g.live("mem/s")
		if s := g.status(); len(s.Targets) != 1 || s.Conditions[0].Status != "True" {
			t.Errorf("after it was cleaned the status is %+v", s)
		}
		if left, _, err := store.switches(); err != nil || len(left) != 1 || left["keep"] == nil {
			t.Errorf("stored are the switches %v, %v, want keep", left, err)
		}
		g.stop()
		g = start(t, w, func(c *Config) { c.Store = store })
		g.commit("2", keep)
		if s := g.status(); len(s.Targets) != 1 {
			t.Errorf("what was cleaned is still known: %+v", s.Targets)
		}
	})
}

func TestASwitchThatIsGoneForGoodIsGivenUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		keep := switchDoc("keep", 2)
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), keep)
		g.w.at("mem/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("2", keep)
		g.live("bgp/s")
		g.after(giveUp - time.Minute)
		if len(g.status().Targets) != 2 {
			t.Fatal("the switch was given up early")
		}
		g.after(3 * time.Minute)
		if n := len(g.status().Targets); n != 1 {
			t.Errorf("%d targets are left, want one", n)
		}
		if len(g.log.records(t, "target given up, what is on it stays")) != 1 {
			t.Error("nothing was said about it")
		}
		g.live("mem/s", onePlace("1")...)
	})
}

// What only the last process had is cleaned also where no document names the
// target any more.
func TestATargetThatIsAlwaysThereIsCleaned(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		k := Key{"bgp/x", "route", "192.0.2.99"}
		w.at("bgp/x", func(p *place) { p.live[k] = &Resource{Key: k, Body: text("announced")} })
		g := start(t, w, func(c *Config) {
			c.MaxDelete, c.Always = 100, map[string]Sink{"bgp/x": c.Sinks[1]}
		})
		if reads, _ := w.calls("bgp/x"); reads != 0 {
			t.Error("it was read before there was a commit")
		}
		g.commit("1", switchDoc("s", 1))
		g.live("bgp/x")
		if len(g.status().Targets) != 2 {
			t.Error("it went, and is to be there always")
		}
	})
}
