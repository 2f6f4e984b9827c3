package policies

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
)

// plainGateway is a gateway with one server a version.
func plainGateway(name, vip string, versions, buckets int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: gray.dev/v1alpha1\nkind: Gateway\nmetadata: {name: %s}\nspec:\n  vips: [%s]\n  switches: [sw]\n  hash: {buckets: %d}\n  default: v1\n  versions:\n", name, vip, buckets)
	for i := range versions {
		fmt.Fprintf(&b, "  - {name: v%d, backends: [{name: a, address: 192.0.2.1, mac: \"02:00:00:00:00:01\", port: 1}]}\n", i+1)
	}
	return b.String()
}

// largeGateway is a gateway with n servers of one version.
func largeGateway(n int) string {
	var b strings.Builder
	b.WriteString(plainGateway("gw", "203.0.113.10", 0, 256) + "  - name: v1\n    backends:\n")
	for i := range n {
		fmt.Fprintf(&b, "    - {name: b%d, address: 192.0.2.1, mac: \"02:00:00:00:00:01\", port: 1}\n", i)
	}
	return b.String()
}

// What a switch cannot hold is refused at the document that asks for most of it,
// whether policies name the gateway or not.
func TestMoreThanTheSwitchHolds(t *testing.T) {
	var vips, shares strings.Builder
	for i := range 1025 {
		fmt.Fprintf(&vips, "203.0.%d.%d, ", i/256, i%256)
	}
	for i := range 14 {
		fmt.Fprintf(&shares, "%s---\n%s---\n", networkOf(fmt.Sprintf("n%d", i), i+1), policyOf(fmt.Sprintf("p%d", i), "v2", 100, fmt.Sprintf("{networks: [n%d], percent: %d}", i, i+1)))
	}
	for _, test := range []struct {
		what      string
		documents []string
		want      string
	}{
		{"16 pools of 16,384 buckets", []string{plainGateway("gw", "203.0.113.10", 16, 16384)}, ""},
		{
			"17 pools of 16,384 buckets",
			[]string{plainGateway("gw", "203.0.113.10", 17, 16384)},
			"1.yaml:1: table bucket of switch sw would hold 557056 entries, its size is 524288; use fewer versions, percentages or buckets, or spread the gateways over more switches",
		},
		{
			"17 pools of two gateways",
			[]string{plainGateway("a", "203.0.113.10", 8, 16384), plainGateway("b", "203.0.113.11", 9, 16384)},
			"2.yaml:1: table bucket of switch sw would hold 557056 entries, its size is 524288; use fewer versions, percentages or buckets, or spread the gateways over more switches",
		},
		{
			"3 versions and 14 blends of them",
			[]string{percentGateway, shares.String()},
			"2.yaml:14: table bucket of switch sw would hold 557056 entries, its size is 524288; use fewer versions, percentages or buckets, or spread the gateways over more switches",
		},
		{
			"1,025 VIPs",
			[]string{plainGateway("gw", strings.TrimSuffix(vips.String(), ", "), 1, 256)},
			"1.yaml:1: table vip_v4 of switch sw would hold 1025 entries, its size is 1024; use fewer VIPs, or spread the gateways over more switches",
		},
		{"4,096 servers", []string{largeGateway(4096)}, ""},
		{
			"4,097 servers",
			[]string{largeGateway(4097)},
			`1.yaml:1: switch "sw" has no free ID for gw/v1/b999; use fewer gateways, versions, percentages or backends on it` + "\n" +
				"1.yaml:1: table backend of switch sw would hold 4097 entries, its size is 4096; use fewer backends, or spread the gateways over more switches",
		},
		{
			"one VIP twice",
			[]string{plainGateway("a", "203.0.113.10", 1, 256), plainGateway("b", "203.0.113.10", 1, 256)},
			"2.yaml:5: spec.vips[0]: vip 203.0.113.10 belongs to Gateway a already, at 1.yaml:1",
		},
		{
			"buckets",
			[]string{plainGateway("gw", "203.0.113.10", 1, 300)},
			"1.yaml:7: spec.hash.buckets: 300 is not a power of two; want one from 256 to 65536",
		},
		{
			"many buckets",
			[]string{plainGateway("gw", "203.0.113.10", 1, 1<<17)},
			"1.yaml:7: spec.hash.buckets: 131072 is out of range; want 256 to 65536",
		},
	} {
		_, _, err := newRepo(t, append([]string{switchDoc}, test.documents...)...).commit()
		if errText(err) != test.want {
			t.Errorf("%s: %v\nwant %s", test.what, err, test.want)
		}
	}
}

// The rule tables, at their size and one past it.
func TestMoreRulesThanTheSwitchHolds(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	address := func(i int, v6 bool) netip.Prefix {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if v6 {
			b := netip.MustParseAddr("2001:db8::").As16()
			b[13], b[14], b[15] = byte(i>>16), byte(i>>8), byte(i)
			a = netip.AddrFrom16(b)
		}
		return netip.PrefixFrom(a, a.BitLen())
	}
	rules := map[string]func(int) packets.Match{
		"gray_flow_v4": func(i int) packets.Match {
			m := packets.VNIMatch(uint32(i))
			m.Src, m.DstPort = address(1, false), packets.PortRange{1, 1}
			return m
		},
		"gray_flow_v6": func(i int) packets.Match {
			m := packets.VNIMatch(uint32(i))
			m.Src, m.DstPort = address(1, true), packets.PortRange{1, 1}
			return m
		},
		"gray_vpc": func(i int) packets.Match { return packets.VNIMatch(uint32(i)) },
	}
	rules["gray_vm_src_v4"] = func(i int) packets.Match { m := packets.VNIMatch(uint32(i % 64)); m.Src = address(i, false); return m }
	rules["gray_vm_src_v6"] = func(i int) packets.Match { m := packets.VNIMatch(uint32(i % 64)); m.Src = address(i, true); return m }
	rules["gray_vm_dst_v6"] = func(i int) packets.Match { m := packets.VNIMatch(uint32(i % 64)); m.Dst = address(i, true); return m }
	for table, rule := range rules {
		for _, over := range []int{0, 1} {
			b := newWorkbench()
			for i, n := range []int{10, TableSizes[table] - 10 + over} { // two policies; the second asks for more
				entries := make([]entry, n)
				for j := range entries {
					entries[j] = entry{box: rule(100000*i + j), percent: 100}
				}
				b.policy("v2", 5, 0, entries...)
			}
			if !b.compile() {
				t.Fatalf("%s: %v", table, b.c.errs)
			}
			err := b.c.overflows()
			want := fmt.Sprintf("p10.yaml:1: table %s of switch sw would hold %d entries, its size is %d; match whole networks, or spread the gateways over more switches",
				table, TableSizes[table]+1, TableSizes[table])
			if over == 0 && len(err) > 0 || over == 1 && err.Error() != want {
				t.Errorf("%s at %d: %v\nwant %s", table, TableSizes[table]+over, err, want)
			}
		}
	}
}
