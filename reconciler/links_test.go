package reconciler

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// applied lists the lines of all plans that were applied, in time.
func (g *rig) applied() []string {
	g.t.Helper()
	var lines []string
	for _, r := range g.log.records(g.t, "applied") {
		lines = append(lines, strings.Split(strings.TrimSpace(r.Plan), "\n")...)
	}
	return lines
}

// before fails unless one applied line came before another; each is given by its
// beginning.
func (g *rig) before(first, second string) {
	g.t.Helper()
	find := func(start string) int {
		return slices.IndexFunc(g.applied(), func(line string) bool { return strings.HasPrefix(line, start) })
	}
	if a, b := find(first), find(second); a < 0 || b < 0 || a > b {
		g.t.Errorf("%q is line %d and %q line %d of what was applied:\n%s", first, a, second, b, strings.Join(g.applied(), "\n"))
	}
}

func condition(t testing.TB, s *Status, target string) Condition {
	t.Helper()
	for _, ts := range s.Targets {
		if ts.Name == target {
			return ts.Conditions[0]
		}
	}
	t.Fatalf("there is no target %s", target)
	return Condition{}
}

const aVIP = "203.0.113.10"

func TestAVIPIsAnnouncedOnceItWasReadBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		vip := Key{"mem/s", "vip", aVIP}
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		// The switch says that it takes the VIP, and does not have it.
		g.w.at("mem/s", func(p *place) { p.loses[vip] = true })
		g.commit("1", docs...)
		g.live("bgp/s")
		s := g.status()
		if c := condition(t, s, "bgp/s"); c.Reason != "Waiting" || c.Message != "bgp/s route 203.0.113.10 waits for mem/s vip 203.0.113.10" {
			t.Errorf("what waits shows as %+v", c)
		}
		if len(s.Targets[0].Conditions) != 2 || s.Targets[0].Conditions[1].Type != "Reconciling" || s.Targets[0].Waiting != 1 {
			t.Errorf("what waits is no trouble, and shows as %+v", s.Targets[0])
		}
		if c := condition(t, s, "mem/s"); c.Reason != "Refused" || !strings.Contains(c.Message, "not there when it is read back") {
			t.Errorf("what the switch lost shows as %+v", c)
		}
		g.w.at("mem/s", func(p *place) { clear(p.loses) })
		g.after(time.Second)
		g.live("bgp/s", "route 203.0.113.10: announced")
		g.before("+ mem/s vip", "+ bgp/s route")
		if c := g.status().Conditions; len(c) != 1 || c[0].Status != "True" {
			t.Errorf("all is live and the conditions are %+v", c)
		}
		if drift := g.log.records(t, "drift"); len(drift) > 0 {
			t.Errorf("what the switch lost is reported as drift: %+v", drift)
		}
	})
}

func TestWhatWaitsHoldsNothingElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.w.at("mem/s", func(p *place) { p.refuse[Key{"mem/s", "vip", aVIP}] = errors.New("no") })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2), gatewayDoc("other", "203.0.113.11", "s", 3))
		g.live("bgp/s", "route 203.0.113.11: announced")
		for _, d := range g.status().Documents {
			c := d.Conditions[0]
			switch d.Name {
			case "gw":
				if c.Reason != "Refused" || c.Message != "b.yaml:1: mem/s vip 203.0.113.10: no" {
					t.Errorf("the refused document shows as %+v", c)
				}
			default:
				if c.Status != "True" {
					t.Errorf("%s shows as %+v", d.Name, c)
				}
			}
		}
	})
}

func TestAVIPIsWithdrawnBeforeItIsUnprogrammed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		docs := []string{switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2)}
		g.commit("1", append(docs, gatewayDoc("other", "203.0.113.11", "s", 3))...)
		gate := make(chan struct{})
		g.w.at("bgp/s", func(p *place) { p.gate = gate })
		g.commit("2", docs...)
		if c := condition(t, g.status(), "mem/s"); c.Reason != "Waiting" || !strings.HasSuffix(c.Message, "waits for bgp/s route 203.0.113.11") &&
			!strings.HasSuffix(c.Message, "waits for mem/s vip 203.0.113.11") && !strings.HasSuffix(c.Message, "waits for mem/s pool other/v1") {
			t.Errorf("while the route is not withdrawn, the switch shows as %+v", c)
		}
		if !slices.Contains(g.w.live("mem/s"), "vip 203.0.113.11: default v1") {
			t.Error("the VIP is gone before its route")
		}
		close(gate)
		g.quiet()
		g.live("mem/s", onePlace("1")...)
		g.live("bgp/s", "route 203.0.113.10: announced")
		g.before("- bgp/s route 203.0.113.11", "- mem/s vip 203.0.113.11")
	})
}

func TestASwitchThatGoesIsCleanedBehindItsRoutes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		keep := switchDoc("keep", 2)
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s, keep", 2), keep)
		g.commit("2", gatewayDoc("gw", aVIP, "keep", 2), keep)
		g.live("mem/s")
		g.live("bgp/s")
		g.live("bgp/keep", "route 203.0.113.10: announced")
		g.before("- bgp/s route", "- mem/s vip")
		g.before("- mem/s backend", "- mem/s target")
		if names := len(g.status().Targets); names != 2 {
			t.Errorf("%d targets are left, want mem/keep and bgp/keep", names)
		}
	})
}

func TestASwitchThatLostItsTablesIsNotAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2))
		// It restarts empty and does not take its pipeline.
		self := Key{Target: "mem/s", Kind: KindTarget}
		g.w.at("mem/s", func(p *place) {
			clear(p.live)
			p.refuse[self] = errors.New("it boots")
		})
		g.cfg.Hints.Add("mem/s")
		g.quiet()
		g.live("bgp/s")
		if c := condition(t, g.status(), "bgp/s"); c.Reason != "Waiting" {
			t.Errorf("the route shows as %+v", c)
		}
		g.w.at("mem/s", func(p *place) { clear(p.refuse) })
		g.after(time.Minute)
		g.live("mem/s", onePlace("1")...)
		g.live("bgp/s", "route 203.0.113.10: announced")
	})
}

func TestASwitchThatCannotBeReadStaysAnnounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.Drift = 30 * time.Second })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2))
		g.w.at("mem/s", func(p *place) { p.down = errors.New("its management port is down") })
		g.after(5 * time.Minute)
		g.live("bgp/s", "route 203.0.113.10: announced")
		if c := g.status().Conditions; c[0].Reason != "TargetFailed" {
			t.Errorf("the conditions are %+v", c)
		}
	})
}

// While a route is on its way, the VIP that it is for must not go; while a VIP is
// on its way out, nothing is announced for it.
func TestReferencesHoldForWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		gate := make(chan struct{})
		g.w.at("bgp/s", func(p *place) { p.gate = gate })
		with := []string{switchDoc("s", 1), gatewayDoc("keep", "203.0.113.11", "s", 3), gatewayDoc("gw", aVIP, "s", 2)}
		without := with[:2]
		g.commit("1", with...)
		g.commit("2", without...) // the routes are under way
		if !slices.Contains(g.w.live("mem/s"), "vip 203.0.113.10: default v1") {
			t.Error("the VIP is gone while its route is under way")
		}
		close(gate)
		g.quiet()
		g.live("bgp/s", "route 203.0.113.11: announced")
		g.commit("3", with...)
		gate = make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.gate = gate })
		g.commit("4", without...) // the VIP is on its way out
		g.commit("5", with...)    // and wanted again
		g.live("bgp/s", "route 203.0.113.11: announced")
		g.w.at("mem/s", func(p *place) { p.gate = nil })
		close(gate)
		g.quiet()
		g.live("bgp/s", "route 203.0.113.10: announced", "route 203.0.113.11: announced")
	})
}

func TestAnUpdateOfWhatIsReferredToWithdrawsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		sw := switchDoc("s", 1)
		g.commit("1", sw, gatewayDoc("gw", aVIP, "s", 2))
		_, before := g.w.calls("bgp/s")
		g.commit("2", sw, strings.Replace(gatewayDoc("gw", aVIP, "s", 2), "default: v1", "default: v2", 1))
		if !slices.Contains(g.w.live("mem/s"), "vip 203.0.113.10: default v2") {
			t.Fatal("the VIP was not updated")
		}
		if _, now := g.w.calls("bgp/s"); now != before {
			t.Errorf("%d Applies at the routes for a VIP that only changed", now-before)
		}
	})
}

// An Apply that broke off may have made what it had not said it made.
func TestWhatABrokenApplyMayHaveMadeCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t), func(c *Config) { c.MaxDelete = 100 })
		g.w.at("bgp/s", func(p *place) { p.broken = errors.New("the stream ended") })
		keep := []string{switchDoc("s", 1), gatewayDoc("keep", "203.0.113.12", "s", 4)}
		g.commit("1", append(keep, gatewayDoc("gw", aVIP, "s", 2), gatewayDoc("other", "203.0.113.11", "s", 3))...)
		g.live("bgp/s", "route 203.0.113.10: announced") // and nobody was told
		g.w.at("bgp/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("2", keep...)
		if !slices.Contains(g.w.live("mem/s"), "vip 203.0.113.10: default v1") {
			t.Error("the VIP is gone and its route is not")
		}
		g.w.at("bgp/s", func(p *place) { p.down, p.broken = nil, nil })
		g.after(2 * time.Minute)
		g.live("bgp/s", "route 203.0.113.12: announced")
		if n := len(g.w.live("mem/s")); n != 6 {
			t.Errorf("%d resources are live, want 6", n)
		}
		// One that made nothing holds up nothing once that is known.
		g.w.at("bgp/s", func(p *place) { p.broken = errors.New("the stream ended") })
		g.commit("3", append(keep, gatewayDoc("gw", aVIP, "s", 2))...)
		g.w.at("bgp/s", func(p *place) { p.down = errors.New("no route to host") })
		g.commit("4", keep...)
		g.w.at("bgp/s", func(p *place) { p.down, p.broken = nil, nil })
		g.after(2 * time.Minute)
		if n := len(g.w.live("mem/s")); n != 6 {
			t.Errorf("%d resources are live, want 6", n)
		}
	})
}

func TestAPipelineWaitsForRoutesThatAreUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		gate := make(chan struct{})
		g.w.at("bgp/s", func(p *place) { p.gate = gate })
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2))
		g.commit("2", switchDoc("s", 2), gatewayDoc("gw", aVIP, "s", 2))
		if !slices.Contains(g.w.live("mem/s"), "target : 127.0.0.1:1") {
			t.Error("another pipeline was loaded while a route was on its way")
		}
		g.w.at("bgp/s", func(p *place) { p.gate = nil })
		close(gate)
		g.quiet()
		g.live("mem/s", onePlace("2")...)
		g.live("bgp/s", "route 203.0.113.10: announced")
	})
}

// A new pipeline empties the tables: nothing is announced while that goes on.
func TestRoutesAreWithdrawnBeforeAnotherPipelineIsLoaded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		g.commit("1", switchDoc("s", 1), gatewayDoc("gw", aVIP, "s", 2))
		gate := make(chan struct{})
		g.w.at("mem/s", func(p *place) { p.gate = gate })
		g.commit("2", switchDoc("s", 2), gatewayDoc("gw", aVIP, "s", 2))
		g.live("bgp/s")
		close(gate)
		g.quiet()
		g.live("mem/s", onePlace("2")...)
		g.live("bgp/s", "route 203.0.113.10: announced")
		g.before("- bgp/s route", "~ mem/s target")
		if failed := g.log.records(t, "not applied, will try again"); len(failed) > 0 {
			t.Errorf("something failed: %+v", failed)
		}
		if drift := g.log.records(t, "drift"); len(drift) > 0 {
			t.Errorf("what the pipeline took is reported as drift: %+v", drift)
		}
	})
}
