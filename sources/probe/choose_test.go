package probe

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

// routes are n VMs, the most of them on the first of some hosts.
func routes(n, hosts int) []schema.Route {
	var out []schema.Route
	a := netip.MustParseAddr("10.0.0.0")
	for i := range n {
		host := 0
		if i%2 == 0 {
			host = i / 2 % hosts
		}
		a = a.Next()
		out = append(out, schema.Route{
			VM: fmt.Sprintf("vm-%d", i), Prefix: schema.Prefix{Prefix: netip.PrefixFrom(a, 32)},
			VTEP: schema.Addr{Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(host)})},
		})
	}
	return out
}

func TestSelect(t *testing.T) {
	all := routes(1000, 20)
	all = append(all, schema.Route{VM: "net", Prefix: schema.Prefix{Prefix: netip.MustParsePrefix("10.9.0.0/16")}})
	moved := func(r schema.Route) bool { return r.VM == "vm-3" || r.VM == "vm-8" || r.VM == "net" }
	s := choose(all, moved, moved, 20, 1)
	if len(s.Targets) != 22 || s.LeftOut != 0 || s.Ranges != 1 {
		t.Fatalf("%d targets, %d left out, %d ranges", len(s.Targets), s.LeftOut, s.Ranges)
	}
	hosts := map[netip.Addr]int{}
	seen := map[netip.Addr]bool{}
	for i, v := range s.Targets {
		if v.Moved != (i < 2) || v.Moved != (v.VM == "vm-3" || v.VM == "vm-8") || seen[v.Address] {
			t.Errorf("target %d is %+v", i, v)
		}
		if seen[v.Address] = true; !v.Moved {
			hosts[v.VTEP]++
		}
	}
	if len(hosts) != 20 {
		t.Errorf("20 peers on %d hosts of 20", len(hosts))
	}
	// The order of the routes is not what decides, the seed is.
	turned := slices.Clone(all)
	slices.Reverse(turned)
	if !slices.Equal(choose(turned, moved, moved, 20, 1).Targets, s.Targets) {
		t.Error("another order of routes gave another list")
	}
	if slices.Equal(choose(all, moved, moved, 20, 2).Targets, s.Targets) {
		t.Error("another seed gave the same list")
	}
	// Over the seeds everybody's turn comes.
	looked := map[string]bool{}
	few := routes(100, 5)
	for seed := range uint64(400) {
		for _, v := range choose(few, moved, moved, 20, seed).Targets {
			looked[v.VM] = true
		}
	}
	if len(looked) != 100 {
		t.Errorf("%d of 100 VMs were looked at", len(looked))
	}
	if s := choose(all, moved, moved, 5000, 1); len(s.Targets) != 1000 {
		t.Errorf("%d targets, want everybody", len(s.Targets))
	}
	if s := choose(nil, moved, moved, 8, 1); len(s.Targets) != 0 {
		t.Errorf("%d targets of no route", len(s.Targets))
	}
}

func TestSelectIsBounded(t *testing.T) {
	moved := func(r schema.Route) bool { return r.VM != "vm-0" }
	s := choose(routes(30_000, 50), moved, moved, 8, 1)
	if len(s.Targets) != MaxTargets || s.LeftOut != 29_999-MaxTargets {
		t.Errorf("%d targets, %d left out", len(s.Targets), s.LeftOut)
	}
}

func TestChecksOf(t *testing.T) {
	v := &schema.Verify{
		Ping: &schema.PingProbe{Count: 3, MaxLoss: 5, Source: "overlay"},
		TCP:  &schema.TCPProbe{Port: 22, Timeout: schema.Duration(2 * time.Second)},
		HTTP: &schema.HTTPProbe{URL: "http://vpc-api.internal/healthz", Expect: 200},
		Exec: &schema.ExecProbe{Command: []string{"check-vpc", "--quick"}},
	}
	vips := []netip.Addr{netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("203.0.113.11")}
	var names []string
	for _, c := range TestsOf(v, vips...) {
		names = append(names, fmt.Sprintf("%s, %s", c.Name(), c.Timeout))
	}
	want := []string{
		"ping overlay 203.0.113.10, 1s", "ping overlay 203.0.113.11, 1s", "tcp 22, 2s",
		"http http://vpc-api.internal/healthz, 10s", "exec check-vpc --quick, 1m0s",
	}
	if !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
	v = &schema.Verify{Ping: &schema.PingProbe{Count: 2, Source: "host", Timeout: schema.Duration(time.Minute)}}
	if c := TestsOf(v, vips...); len(c) != 1 || c[0].Name() != "ping host" || c[0].Timeout != time.Minute {
		t.Errorf("%+v", c)
	}
	if c := TestsOf(nil); c != nil {
		t.Errorf("%+v", c)
	}
}
