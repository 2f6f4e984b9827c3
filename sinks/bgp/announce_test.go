package bgp

import (
	"fmt"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/reconciler"
)

func TestVIPsReachRoutersAndLeave(t *testing.T) {
	t.Parallel()
	routers := startRouters(t)
	rig := newRig(t, "")
	v4 := route{nextHop: "192.0.2.1", communities: "64512:100 64512:200"}
	v6 := route{nextHop: "2001:db8::1"}
	rig.speak(routers.speaker, routers.addresses()...)
	rig.want(vip("203.0.113.10/32", 64512<<16|100, 64512<<16|200), vip("2001:db8::10/128"))
	rig.settle()
	routers.have("both VIPs", map[string]route{"203.0.113.10/32": v4, "2001:db8::10/128": v6})

	v4.communities = "64512:300"
	rig.want(vip("203.0.113.10/32", 64512<<16|300))
	rig.settle()
	routers.have("other communities", map[string]route{"203.0.113.10/32": v4, "2001:db8::10/128": v6})

	rig.want(&pathBody{prefix: netip.MustParsePrefix("2001:db8::10/128")})
	rig.settle()
	routers.have("no VIP that is not announced", map[string]route{"203.0.113.10/32": v4})

	rig.want(vip("2001:db8::10/128"))
	delete(rig.desired, pathKey(target, netip.MustParsePrefix("203.0.113.10/32")))
	rig.settle()
	routers.have("the VIP that is back alone", map[string]route{"2001:db8::10/128": v6})

	clear(rig.desired)
	rig.settle()
	routers.have("no VIP, not even as stale", map[string]route{})
	if n := rig.Neighbors(); len(n) != 0 {
		t.Errorf("after its document is gone the speaker has neighbors %v", n)
	}
}

// What Apply withdraws is on its way when Apply returns, as the switch loses the VIP
// next.
func TestApplyWaitsForWhatItSends(t *testing.T) {
	t.Parallel()
	routers := startRouters(t)
	rig := newRig(t, "")
	rig.speak(routers.speaker, routers.addresses()...)
	rig.want(vip("203.0.113.10/32"), vip("203.0.113.11/32"))
	rig.settle()
	routers.have("both VIPs", map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1"}, "203.0.113.11/32": {nextHop: "192.0.2.1"}})
	updates := func() map[netip.Addr]count {
		t.Helper()
		sp := rig.speaker(target)
		sp.mu.Lock()
		defer sp.mu.Unlock()
		all, err := sp.counts(false)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	for i := range 40 {
		before := updates()
		if rig.want(vip("203.0.113.10/32")); i%2 == 0 {
			rig.want(&pathBody{prefix: netip.MustParsePrefix("203.0.113.10/32")})
		}
		if err := rig.apply(); err != nil {
			t.Fatal(err)
		}
		for a, now := range updates() {
			if now.updates != before[a].updates+1 {
				t.Fatalf("when Apply %d returned, %d updates were sent to %s, want one", i, now.updates-before[a].updates, a)
			}
		}
	}
}

func TestNothingIsLearned(t *testing.T) {
	t.Parallel()
	routers := startRouters(t, func(c *routerConfig) { c.announces = []string{"198.51.100.0/24", "203.0.113.10/32"} })
	rig := newRig(t, "")
	rig.speak(routers.speaker, routers.addresses()...)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	until(t, "FRR's routes are sent", func() bool {
		out, err := routers.frr.show(t, "show bgp ipv4 unicast neighbors "+routers.speaker.String()+" advertised-routes")
		return err == nil && strings.Contains(out, "198.51.100.0/24")
	})
	rig.want(vip("203.0.113.11/32")) // what was passed on before it arrives before it
	rig.settle()
	routers.have("the VIPs alone", map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1"}, "203.0.113.11/32": {nextHop: "192.0.2.1"}})
	if left := rig.plan(); len(left) > 0 {
		t.Errorf("routes of neighbors are seen as the speaker's: %v", left)
	}
}

func TestNeighborsComeAndGo(t *testing.T) {
	t.Parallel()
	routers := startRouters(t)
	frr, bird := routers.at[routers.frr], routers.at[routers.bird]
	rig := newRig(t, "")
	rig.speak(routers.speaker, frr)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	until(t, "FRR is up", func() bool { return rig.established(frr) })
	since := rig.neighbor(frr).Since

	rig.speak(routers.speaker, routers.addresses()...)
	rig.settle()
	until(t, "BIRD has the VIP too", func() bool { return len(routers.bird.routes(t)) == 1 })
	rig.speak(routers.speaker, frr)
	rig.settle()
	until(t, "BIRD lost the VIP", func() bool { return len(routers.bird.routes(t)) == 0 })
	if n := rig.neighbor(frr); n.State != stateEstablished || !n.Since.Equal(since) || len(routers.frr.routes(t)) != 1 {
		t.Errorf("FRR is %s since %s; its session was to stay as it was since %s", n.State, n.Since, since)
	}
	if n := rig.neighbor(bird); n.State != "" {
		t.Errorf("BIRD is no neighbor any more and %s", n.State)
	}

	rig.want(&targetBody{asn: 64512, routerID: netip.MustParseAddr("192.0.2.99")})
	rig.settle()
	until(t, "the session begins anew with the other router id, and the VIP", func() bool {
		out, err := routers.frr.show(t, "show bgp neighbors "+routers.speaker.String())
		return err == nil && strings.Contains(out, "remote router ID 192.0.2.99") && rig.established(frr) && len(routers.frr.routes(t)) == 1
	})
}

// What is there already is no reason to touch a session: the answer to the first
// Apply may have been lost.
func TestAgainTouchesNoSession(t *testing.T) {
	routers := startRouters(t)
	rig := newRig(t, "")
	rig.speak(routers.speaker, routers.addresses()...)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	routers.until("it is up", func(_ router, at netip.Addr) bool { return rig.established(at) })
	before, sent := rig.Neighbors(), routers.sent()
	for stage := range reconciler.Stages(reconciler.Diff(rig.desired, nil, maps.Keys(rig.desired))) {
		if err := rig.Apply(t.Context(), nil, stage); err != nil {
			t.Fatal(err)
		}
	}
	if now := rig.Neighbors(); !slices.Equal(before, now) {
		t.Errorf("the same once more makes the sessions %v, they were %v", now, before)
	}
	rig.want(vip("203.0.113.11/32"))
	rig.settle()
	v4 := route{nextHop: "192.0.2.1"}
	routers.have("the next VIP", map[string]route{"203.0.113.10/32": v4, "203.0.113.11/32": v4})
	if n := routers.sent() - sent; n != 1 {
		t.Errorf("FRR got %d messages, want the one of the next VIP", n)
	}
	if log := rig.log.String(); strings.Contains(log, "have not taken an update") {
		t.Errorf("Apply waited for what was not to be sent:\n%s", log)
	}
}

func TestWhatDoesNotComeUpSaysWhy(t *testing.T) {
	t.Parallel()
	routers := startRouters(t, func(c *routerConfig) { c.asn = 64499 })
	nobody := loopback()
	rig := newRig(t, "")
	rig.speak(routers.speaker, append(routers.addresses(), nobody)...)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	routers.until("the reason is there", func(_ router, at netip.Addr) bool {
		return strings.Contains(rig.neighbor(at).LastError, "another AS number")
	})
	until(t, "the reason is there", func() bool { return strings.Contains(rig.neighbor(nobody).LastError, "refuses connections") })
}

func TestRefusalByRouters(t *testing.T) {
	t.Parallel()
	routers := startRouters(t, func(c *routerConfig) { c.peerASN = 64513 })
	rig := newRig(t, "")
	rig.speak(routers.speaker, routers.addresses()...)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	routers.until("the refusal is there", func(_ router, at netip.Addr) bool {
		return strings.Contains(rig.neighbor(at).LastError, "does it expect this AS number")
	})
}

// Full tables are not kept.
func TestTooManyRoutes(t *testing.T) {
	t.Parallel()
	var many []string
	for i := range 1001 {
		many = append(many, fmt.Sprintf("20.0.%d.%d/32", i>>8, i&255))
	}
	needRouters(t)
	r, c := &bird{}, routerConfig{address: loopback(), peer: loopback(), asn: 64500, peerASN: 64512, announces: many}
	r.start(t, c)
	rig := newRig(t, "")
	rig.cfg.limit = 1000
	rig.speak(c.peer, c.address)
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	until(t, "the session is shut", func() bool {
		n := rig.neighbor(c.address)
		return n.State != stateEstablished && strings.Contains(n.LastError, "more than 1000 prefixes")
	})
}

// Sessions wait for the first path, but not for ever.
func TestSessionsWaitForAPath(t *testing.T) {
	local, nobody := loopback(), loopback()
	rig := newRig(t, "")
	rig.speak(local, nobody)
	rig.settle()
	if n := rig.neighbor(nobody); n.State != stateWaiting {
		t.Errorf("without a path the session is %s", n.State)
	}
	rig.want(&pathBody{prefix: netip.MustParsePrefix("203.0.113.10/32")})
	rig.settle()
	if n := rig.neighbor(nobody); n.State == stateWaiting {
		t.Error("the speaker knows that its one path is not announced, and the session waits")
	}
	impatient := newRig(t, "")
	impatient.cfg.patience = time.Millisecond
	impatient.speak(local, nobody)
	impatient.settle()
	until(t, "the session is opened", func() bool { return impatient.neighbor(nobody).State != stateWaiting })
}

func TestNoGoroutineStays(t *testing.T) {
	rig := newRig(t, "")
	rig.speak(loopback(), loopback(), loopback())
	rig.want(vip("203.0.113.10/32"))
	rig.settle()
	until(t, "sessions are tried", func() bool { return rig.Neighbors()[0].LastError != "" })
	if err := rig.Close(); err != nil {
		t.Fatal(err)
	}
	if left := goroutines("osrg/gobgp", "eapache/channels"); left != "" {
		t.Errorf("after Close there are goroutines of GoBGP:\n%s", left)
	}
}

// goroutines waits for those of some packages to end, and returns those that do not.
func goroutines(of ...string) string {
	var left []string
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		left = nil
		buf := make([]byte, 4<<20)
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if slices.ContainsFunc(of, func(pkg string) bool { return strings.Contains(g, pkg) }) {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			break
		}
	}
	return strings.Join(left, "\n\n")
}

func TestNothingRunsAfterClose(t *testing.T) {
	rig := newRig(t, "")
	rig.speak(loopback(), loopback())
	rig.want(vip("203.0.113.10/32"))
	if err := rig.Close(); err != nil {
		t.Fatal(err)
	}
	if err := rig.apply(); err == nil || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("after Close a speaker was started: error %v", err)
	}
}

func TestApplyWithoutASpeaker(t *testing.T) {
	s := New(Config{})
	b := vip("203.0.113.10/32")
	c := reconciler.Change{New: &reconciler.Resource{Key: pathKey(target, b.prefix), Rank: rankPath, Body: b}}
	if err := s.Apply(t.Context(), nil, []reconciler.Change{c}); err == nil {
		t.Error("a path of a speaker that does not run was announced")
	}
}
