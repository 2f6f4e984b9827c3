package policies

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
)

func TestForwardIP(t *testing.T) {
	const v4, v6 = "192.0.2.1", "2001:db8::1"
	gateway := func(vips, address, mac string) string {
		return "apiVersion: gray.dev/v1alpha1\nkind: Gateway\nmetadata: {name: gw}\nspec:\n  vips: [" + vips + "]\n  switches: [sw]\n  forward: ip\n  default: v1\n" +
			"  versions:\n  - name: v1\n    backends:\n    - {name: a, address: \"" + address + "\"" + mac + ", port: 1}\n"
	}
	const mac = ", mac: \"02:00:00:00:00:01\""
	for _, test := range []struct{ doc, want string }{
		{gateway("203.0.113.10", v4, mac), ""},
		{gateway(`"2001:db8:ffff::1"`, v6, mac), ""},
		{gateway("203.0.113.10", v6, mac), "1.yaml:12: spec.versions[0].backends[0].address: 2001:db8::1 is not of the IP version of the VIP 203.0.113.10, which forward: ip rewrites to it"},
		{gateway(`"2001:db8:ffff::1"`, v4, mac), "1.yaml:12: spec.versions[0].backends[0].address: 192.0.2.1 is not of the IP version of the VIP 2001:db8:ffff::1, which forward: ip rewrites to it"},
		{gateway(`203.0.113.10, "2001:db8:ffff::1"`, v4, mac), "1.yaml:5: spec.vips[1]: 2001:db8:ffff::1 and 203.0.113.10 are of different IP versions, and forward: ip rewrites both to one address; make a Gateway of each"},
		{gateway("203.0.113.10", v4, ""), "1.yaml:12: spec.versions[0].backends[0].mac: is missing; the switch needs the MAC address of the next hop, whatever it rewrites"},
		{strings.Replace(gateway("203.0.113.10", v4, ""), "forward: ip", "forward: mac", 1), "1.yaml:12: spec.versions[0].backends[0].mac: is missing; the switch needs the MAC address of the next hop, whatever it rewrites"},
		{strings.Replace(gateway(`203.0.113.10, "2001:db8:ffff::1"`, v4, mac), "forward: ip", "forward: mac", 1), ""},
	} {
		r := newRepo(t, switchDoc, test.doc)
		ir, _, err := r.commit()
		if errText(err) != test.want {
			t.Errorf("%s\n%v\nwant %s", test.doc, err, test.want)
		}
		if err != nil {
			continue
		}
		gw := ir.Gateway("gw")
		address := packets.Follow(ir, "sw", packets.Packet{VIP: gw.VIPs[0], Src: gw.VIPs[0], Dst: gw.VIPs[0]}).Address
		want := gw.Pools[0].Backends[0].Address
		if gw.Forward == "mac" {
			want = netip.Addr{}
		}
		if address != want {
			t.Errorf("%s\nthe outer destination becomes %s, want %s", test.doc, address, want)
		}
	}
}
