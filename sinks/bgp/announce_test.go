package bgp

import (
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/reconciler"
)

var allRoutes = cmp.AllowUnexported(route{})

func TestVIPsReachRoutersAndLeave(t *testing.T) {
	forRouters(t, func(t *testing.T, r router, c routerConfig) {
		r.start(t, c)
		rig := newRig(t, "")
		has := func(what string, want map[string]route) {
			t.Helper()
			until(t, r.name()+" has "+what, func() bool { return cmp.Equal(want, r.routes(t), allRoutes) })
		}
		v4 := route{nextHop: "192.0.2.1", communities: "64512:100 64512:200"}
		v6 := route{nextHop: "2001:db8::1"}
		rig.want(self(c.peer, c.address), vip("203.0.113.10/32", 64512<<16|100, 64512<<16|200), vip("2001:db8::10/128"))
		rig.settle()
		has("both VIPs", map[string]route{"203.0.113.10/32": v4, "2001:db8::10/128": v6})

		rig.want(vip("203.0.113.10/32", 64512<<16|300))
		rig.settle()
		has("other communities", map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1", communities: "64512:300"}, "2001:db8::10/128": v6})

		rig.want(&pathBody{prefix: netip.MustParsePrefix("2001:db8::10/128")})
		rig.settle()
		has("no VIP that is held back", map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1", communities: "64512:300"}})

		rig.want(vip("2001:db8::10/128"))
		delete(rig.desired, pathKey(target, netip.MustParsePrefix("203.0.113.10/32")))
		rig.settle()
		has("the VIP that is back alone", map[string]route{"2001:db8::10/128": v6})

		clear(rig.desired)
		rig.settle()
		has("no VIP, and none as stale", map[string]route{})
		if n := rig.Neighbors(); len(n) != 0 {
			t.Errorf("after its document is gone the speaker has neighbors %v", n)
		}
	})
}

func TestNothingIsLearned(t *testing.T) {
	needRouters(t)
	f, b := &frr{}, &bird{}
	me := loopback()
	fc := routerConfig{address: loopback(), peer: me, asn: 64500, peerASN: 64512, announces: []string{"198.51.100.0/24", "203.0.113.10/32"}}
	bc := routerConfig{address: loopback(), peer: me, asn: 64501, peerASN: 64512}
	f.start(t, fc)
	b.start(t, bc)
	rig := newRig(t, "")
	body := self(me, fc.address, bc.address)
	body.neighbors[1].asn = 64501
	rig.want(body, vip("203.0.113.10/32"))
	rig.settle()
	until(t, "BIRD has the VIP", func() bool { return len(b.routes(t)) > 0 })
	until(t, "FRR's routes are here", func() bool {
		out, err := f.show(t, "show bgp ipv4 unicast neighbors "+me.String()+" advertised-routes")
		return err == nil && strings.Contains(out, "198.51.100.0/24")
	})
	rig.want(vip("203.0.113.11/32")) // whatever was passed on before it has arrived with it
	rig.settle()
	until(t, "BIRD has the second VIP", func() bool { return b.routes(t)["203.0.113.11/32"] != route{} })
	if got := slices.Sorted(maps.Keys(b.routes(t))); !slices.Equal(got, []string{"203.0.113.10/32", "203.0.113.11/32"}) {
		t.Errorf("BIRD has %v; routes of one neighbor are passed on to another", got)
	}
	if got := b.routes(t)["203.0.113.10/32"].nextHop; got != "192.0.2.1" {
		t.Errorf("the VIP has next hop %s; a neighbor's route won over the speaker's own", got)
	}
}

func TestNeighborsComeAndGo(t *testing.T) {
	needRouters(t)
	f, b := &frr{}, &bird{}
	me := loopback()
	fc := routerConfig{address: loopback(), peer: me, asn: 64500, peerASN: 64512}
	bc := routerConfig{address: loopback(), peer: me, asn: 64500, peerASN: 64512}
	f.start(t, fc)
	b.start(t, bc)
	rig := newRig(t, "")
	rig.want(self(me, fc.address), vip("203.0.113.10/32"))
	rig.settle()
	until(t, "FRR is up", func() bool { return rig.established(fc.address) })
	since := rig.neighbor(fc.address).Since

	rig.want(self(me, fc.address, bc.address))
	rig.settle()
	until(t, "BIRD has the VIP too", func() bool { return len(b.routes(t)) == 1 })
	rig.want(self(me, fc.address))
	rig.settle()
	until(t, "BIRD lost the VIP", func() bool { return len(b.routes(t)) == 0 })
	if n := rig.neighbor(fc.address); n.State != stateEstablished || !n.Since.Equal(since) || len(f.routes(t)) != 1 {
		t.Errorf("FRR is %s since %s with %v; its session was to stay as it was since %s", n.State, n.Since, f.routes(t), since)
	}

	other := self(me, fc.address)
	other.routerID = netip.MustParseAddr("192.0.2.99")
	rig.want(other)
	rig.settle()
	until(t, "the session begins anew with the other router id, and the VIP", func() bool {
		out, err := f.show(t, "show bgp neighbors "+me.String())
		return err == nil && strings.Contains(out, "remote router ID 192.0.2.99") && rig.established(fc.address) && len(f.routes(t)) == 1
	})
}

func TestWhatDoesNotComeUpSaysWhy(t *testing.T) {
	forRouters(t, func(t *testing.T, r router, c routerConfig) {
		c.asn = 64499
		r.start(t, c)
		rig := newRig(t, "")
		rig.want(self(c.peer, c.address, loopback()), vip("203.0.113.10/32"))
		rig.settle()
		nobody := rig.Neighbors()[1].Address
		for a, want := range map[netip.Addr]string{c.address: "another AS number", nobody: "refuses connections"} {
			until(t, "the reason is there", func() bool { return strings.Contains(rig.neighbor(a).LastError, want) })
		}
	})
}

func TestRefusalByTheRouter(t *testing.T) {
	forRouters(t, func(t *testing.T, r router, c routerConfig) {
		c.peerASN = 64513
		r.start(t, c)
		rig := newRig(t, "")
		rig.want(self(c.peer, c.address), vip("203.0.113.10/32"))
		rig.settle()
		until(t, "the refusal is there", func() bool {
			return strings.Contains(rig.neighbor(c.address).LastError, "does it expect this AS number")
		})
	})
}

func TestNoGoroutineStays(t *testing.T) {
	rig := newRig(t, "")
	rig.want(self(loopback(), loopback(), loopback()), vip("203.0.113.10/32"))
	rig.settle()
	until(t, "sessions are tried", func() bool { return rig.Neighbors()[0].LastError != "" })
	if err := rig.Close(); err != nil {
		t.Fatal(err)
	}
	stacks := ""
	until(t, "all goroutines have ended", func() bool {
		buf := make([]byte, 1<<20)
		stacks = string(buf[:runtime.Stack(buf, true)])
		return !strings.Contains(stacks, "osrg/gobgp") && !strings.Contains(stacks, "eapache/channels")
	})
}

func TestApplyWithoutASpeaker(t *testing.T) {
	s := New(Config{})
	b := vip("203.0.113.10/32")
	c := reconciler.Change{New: &reconciler.Resource{Key: pathKey(target, b.prefix), Rank: rankPath, Body: b}}
	if err := s.Apply(t.Context(), nil, []reconciler.Change{c}); err == nil {
		t.Error("a path of a speaker that does not run was announced")
	}
}
