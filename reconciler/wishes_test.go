package reconciler

import (
	"strings"
	"testing"
)

// What sources of facts act on is in a plan, in force with its commit, and no loss
// when it goes.
func TestWhatSourcesActOnIsInAPlan(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := start(t, newWorld(t))
		checked := func(interval string) []string {
			gw := gatewayDoc("gw", aVIP, "s", 2)
			if interval != "" {
				gw += "  healthCheck: {tcp: {port: 80}, interval: " + interval + "}\n"
			}
			return []string{switchDoc("s", 1), gw}
		}
		g.commit("1", checked("2s")...)
		if said := g.dryRun(checked("2s")...); said != "" {
			t.Errorf("what is in force shows as a change: %s", said)
		}
		const change = "~ health Gateway gw: interval 2s -> interval 5s  # b.yaml:1\n"
		if said := g.dryRun(checked("5s")...); said != change {
			t.Errorf("a dry run says %q, want %q", said, change)
		}
		_, before := g.w.calls("mem/s")
		g.commit("2", checked("5s")...)
		if said := g.dryRun(checked("5s")...); said != "" {
			t.Errorf("after the commit a dry run says %s", said)
		}
		if said := g.dryRun(checked("")...); !strings.HasPrefix(said, "- health Gateway gw: tcp 80, interval 5s, timeout 1s, rise 2, fall 3, v1/a 192.0.2.1, v2/b2 192.0.2.2") {
			t.Errorf("a dry run that takes the check away says %s", said)
		}
		g.do(func() {
			if n, counted := g.standing.live["health"]; counted {
				t.Errorf("the guard counts %d of what is at no sink", n)
			}
		})
		g.commit("3", checked("")...)
		if s := g.status(); s.Revision != "3" || len(s.Targets) != 2 || s.Conditions[0].Status != "True" {
			t.Errorf("the status is %+v", s)
		}
		if _, now := g.w.calls("mem/s"); now != before {
			t.Errorf("%d Applies for what is at no sink", now-before)
		}
	})
}

func TestWhatSourcesActOnIsNoLoss(t *testing.T) {
	k := Key{Target: targetHealth, Kind: "Gateway", Name: "gw"}
	was := State{k: {Key: k, Body: wish{"icmp"}}}
	if p := MakePlan(State{}, was, View{Former: was, MaxDelete: 30}); len(p.Changes) != 1 || len(p.Refused) > 0 {
		t.Errorf("it is refused by %v, with the changes %v", p.Refused, p.Changes)
	}
}
