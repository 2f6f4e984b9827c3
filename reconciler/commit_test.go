package reconciler

import (
	"errors"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
)

// onePlace is what gatewayDoc("gw", "203.0.113.10", "s", 2) is at mem/s, with
// the switch's address.
func onePlace(port string, more ...string) []string {
	return append([]string{
		"backend gw/v1/a: 192.0.2.1", "backend gw/v2/b2: 192.0.2.2",
		"pool gw/v1: a ", "pool gw/v2: b2 ",
	}, append(more, "target : 127.0.0.1:"+port, "vip 203.0.113.10: default v1")...)
}

func TestAnotherPipelineIsLoadedBeforeAllElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Sinks = c.Sinks[:1] })
		self := Key{Target: "mem/s", Kind: KindTarget}
		g.w.at("mem/s", func(p *place) { p.live[self] = &Resource{Key: self, Body: text("another pipeline")} })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.live("mem/s", onePlace("1")...)
		if failed := g.log.records(t, "not applied, will try again"); len(failed) > 0 {
			t.Errorf("the first try failed: %+v", failed)
		}
	})
}

func TestNothingIsAppliedBeforeItsNumbersAreOnDisk(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kept := newKeeper()
		g := start(t, newWorld(t), func(c *Config) { c.Store = kept.store() })
		g.commit("1", switchDoc("s", 1))
		g.do(func() { kept.err = errors.New("the disk is full") })
		g.commit("2", switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.live("mem/s", "target : 127.0.0.1:1")
		if s := g.status(); s.Revision != "1" || s.Conditions[0].Status != "False" || len(s.Errors) == 0 {
			t.Errorf("with numbers that are not on disk, revision %s is in force, conditions %+v, errors %q", s.Revision, s.Conditions, s.Errors)
		}
		g.do(func() { kept.err = nil })
		g.after(time.Minute)
		g.live("mem/s", onePlace("1")...)
		if s := g.status(); s.Revision != "2" || s.Conditions[0].Status != "True" {
			t.Errorf("the commit was not tried again: revision %s, conditions %+v, errors %q", s.Revision, s.Conditions, s.Errors)
		}
	})
}

// What needs no number and no switch needs no disk.
func TestACommitWithoutNewNumbersWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		kept := newKeeper()
		g := start(t, newWorld(t), func(c *Config) { c.Store = kept.store() })
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", docs...)
		g.do(func() { kept.err = errors.New("the disk is full") })
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		g.live("mem/s", onePlace("1", "rule gw/7: -> v2")...)
	})
}

func TestACommitThatCannotBeLoweredLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) {
			s := c.Sinks[0].(fake)
			inner := s.lower
			s.lower = func(ir *policies.IR, n policies.Name) ([]*Resource, error) {
				if n.Name == "bad" && ir.Get(n) != nil {
					return nil, errors.New("it is not served")
				}
				return inner(ir, n)
			}
			c.Sinks = []Sink{s}
		})
		sw := switchDoc("s", 1)
		g.commit("1", sw)
		g.commit("2", sw, gatewayDoc("gw", "203.0.113.10", "s", 2), gatewayDoc("bad", "203.0.113.11", "s", 2))
		if s := g.status(); s.Revision != "1" || s.Fetched != "2" {
			t.Fatalf("a commit that cannot be lowered is in force: %s of %s", s.Revision, s.Fetched)
		}
		g.live("mem/s", "target : 127.0.0.1:1")
		g.commit("3", sw, gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.live("mem/s", onePlace("1")...)
		if s := g.status(); s.Revision != "3" {
			t.Errorf("revision %s is in force, want 3", s.Revision)
		}
	})
}

func TestANACKOutlivesOtherApplies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2)}
		g.commit("1", docs...)
		pool := Key{"mem/s", "pool", "gw/v2"}
		g.w.at("mem/s", func(p *place) { p.trouble[pool] = errors.New("an Envoy refuses it") })
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		g.commit("2", append(docs, policyDoc("p", "gw", 7))...)
		g.live("mem/s", onePlace("1", "rule gw/7: -> v2")...)
		if c := g.status().Conditions[0]; c.Status != "False" {
			t.Errorf("after an unrelated change the trouble is forgotten: %+v", c)
		}
		if c := g.status().document("gw").Conditions[0]; c.Reason != "Refused" || c.Message != "b.yaml:11: mem/s pool gw/v2: an Envoy refuses it" {
			t.Errorf("the document shows as %+v", c)
		}
		g.w.at("mem/s", func(p *place) { clear(p.trouble) })
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		if c := g.status().Conditions[0]; c.Status != "True" {
			t.Errorf("the trouble is over and still shown: %+v", c)
		}
	})
}

func TestAHintDuringAFetchIsNotLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1))
		g.source.mu.Lock()
		g.source.hold = make(chan struct{})
		g.source.mu.Unlock()
		g.source.poke()
		g.quiet() // a Fetch has looked and seen nothing new
		g.put("2", switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.quiet()
		g.source.mu.Lock()
		close(g.source.hold)
		g.source.hold = nil
		g.source.mu.Unlock()
		g.quiet()
		g.live("mem/s", onePlace("1")...)
	})
}

func TestATargetWithoutDocumentGoesWhenItIsEmpty(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		sw := switchDoc("keep", 9)
		g.commit("1", sw, switchDoc("s", 1), gatewayDoc("gw", "203.0.113.10", "s", 2))
		g.commit("2", sw)
		g.live("mem/s")
		for _, target := range g.status().Targets {
			if target.Name != "mem/keep" {
				t.Errorf("target %s is still there", target.Name)
			}
		}
		// Another one whose switch never was reached to hold anything.
		g.w.at("mem/e", func(p *place) { p.refuse[Key{Target: "mem/e", Kind: KindTarget}] = errors.New("never") })
		g.commit("3", sw, switchDoc("e", 2))
		g.commit("4", sw)
		if n := len(g.status().Targets); n != 1 {
			t.Errorf("%d targets are left, want one", n)
		}
	})
}
