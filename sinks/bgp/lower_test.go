package bgp

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt"
)

const documents = `
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: gw-a}
spec:
  address: 127.0.0.1:9559
  bgp:
    asn: 64512
    routerID: 192.0.2.1
    nextHop: 192.0.2.1
    nextHop6: "2001:db8::1"
    neighbors:
    - {address: 192.0.2.254, asn: 64500, passwordFile: /etc/gray/bgp}
    - {address: 192.0.2.253, asn: 64500}
    communities: ["64512:200", "64512:100"]
---
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: gw-b}
spec: {address: "127.0.0.1:9560"}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: vpc-gw}
spec:
  vips: [203.0.113.10, "2001:db8::10"]
  switches: [gw-a, gw-b]
  default: v1
  hash: {buckets: 256}
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.11, mac: "02:00:00:00:00:11", port: 1}]}
`

// compile lowers documents for the speakers and the switches.
func compile(t *testing.T, text string) (reconciler.State, error) {
	t.Helper()
	s := &schema.Snapshot{Revision: "test", Files: schema.NewFiles(&schema.File{Path: "all.yaml", ID: text, Data: []byte(text)})}
	c, err := reconciler.Offline{Sinks: []reconciler.Sink{New(Config{}), p4rt.New(p4rt.Config{ReadOnly: true})}}.Compile(s, reconciler.Nothing())
	if err != nil {
		return nil, err
	}
	return c.Desired, nil
}

func TestLower(t *testing.T) {
	desired, err := compile(t, documents)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for k, r := range desired {
		if !strings.HasPrefix(k.Target, "bgp/") {
			continue
		}
		got = append(got, k.String()+": "+r.Body.String()+"  # "+r.Origin.String())
		for _, ref := range r.Refs {
			if desired[ref] == nil {
				t.Errorf("%s refers to %s, which the switch does not have", k, ref)
			}
		}
		if k.Kind == kindPath && len(r.Refs) != 1 {
			t.Errorf("%s refers to %v, want the VIP's entry", k, r.Refs)
		}
	}
	slices.Sort(got)
	want := []string{
		"bgp/gw-a neighbor 192.0.2.253: AS 64500  # all.yaml:2",
		"bgp/gw-a neighbor 192.0.2.254: AS 64500, password in /etc/gray/bgp  # all.yaml:2",
		"bgp/gw-a path 2001:db8::10/128: vpc-gw: next hop 2001:db8::1, communities 64512:100 64512:200  # all.yaml:22",
		"bgp/gw-a path 203.0.113.10/32: vpc-gw: next hop 192.0.2.1, communities 64512:100 64512:200  # all.yaml:22",
		"bgp/gw-a target : AS 64512, router id 192.0.2.1  # all.yaml:2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("lowered to\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A VIP without a healthy server keeps its resource, so that a plan shows why it
// is not announced and no share of deletions is used up.
func TestLowerWithoutAHealthyServer(t *testing.T) {
	ir := policies.NewIR(policies.NewIDs())
	ir.Put(policies.Name{Kind: schema.KindSwitch, Name: "gw-a"}, &policies.Switch{Name: "gw-a", BGP: &policies.BGP{
		ASN: 64512, NextHop: netip.MustParseAddr("192.0.2.1"), Communities: []uint32{1},
	}})
	gw := &packets.Gateway{
		Name: "vpc-gw", VIPs: []netip.Addr{netip.MustParseAddr("203.0.113.10")}, Switches: []string{"gw-a"}, Default: "v1", DefaultPool: "v1",
		Pools: []packets.Pool{
			{Version: "v1", Backends: []packets.Backend{{Name: "a", Down: true}, {Name: "b"}}},
			{Version: "v2", Backends: []packets.Backend{{Name: "c"}}},
		},
	}
	name := policies.Name{Kind: schema.KindGateway, Name: "vpc-gw"}
	ir.Put(name, gw)
	lower := func() reconciler.Body {
		t.Helper()
		all, err := New(Config{}).Lower(ir, name)
		if err != nil || len(all) != 1 {
			t.Fatalf("%d resources and error %v, want one", len(all), err)
		}
		return all[0].Body
	}
	up := lower()
	gw.Pools[0].Backends[1].Down = true
	down := lower()
	if want := "vpc-gw: next hop 192.0.2.1, communities 0:1 -> vpc-gw: not announced, none of its servers is healthy"; down.Delta(up) != want {
		t.Errorf("the change reads %q, want %q", down.Delta(up), want)
	}
	if up.Equal(down) || !down.Equal(lower()) {
		t.Error("a path that is not announced equals one that is, or does not equal itself")
	}
}

func TestDeltas(t *testing.T) {
	a := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		old, now reconciler.Body
		want     string
	}{
		{&targetBody{1, a}, &targetBody{2, a}, "AS 1, router id 192.0.2.1 -> AS 2, router id 192.0.2.1; this restarts its sessions"},
		{&neighborBody{asn: 1, passwordFile: "key", stale: true}, &neighborBody{asn: 1, passwordFile: "key", local: a}, "AS 1, password in key, which has changed since -> AS 1 from 192.0.2.1, password in key"},
	} {
		if got := c.now.Delta(c.old); got != c.want {
			t.Errorf("the change reads %q, want %q", got, c.want)
		}
		if c.now.Equal(c.old) {
			t.Errorf("%s equals %s", c.now, c.old)
		}
	}
}

// Whatever Apply acts on is compared. The label of a path is for people.
func TestEqualIsTheWholeResource(t *testing.T) {
	a, b := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	p := netip.MustParsePrefix("203.0.113.10/32")
	for _, c := range []struct {
		body   reconciler.Body
		others []reconciler.Body // each has one field set otherwise
	}{
		{&targetBody{}, []reconciler.Body{&targetBody{asn: 1}, &targetBody{routerID: a}}},
		{&neighborBody{}, []reconciler.Body{
			&neighborBody{address: a}, &neighborBody{local: b}, &neighborBody{asn: 1}, &neighborBody{passwordFile: "key"}, &neighborBody{stale: true},
		}},
		{&pathBody{}, []reconciler.Body{&pathBody{prefix: p}, &pathBody{nextHop: a}, &pathBody{communities: []uint32{1}}, nil}},
	} {
		if fields := reflect.TypeOf(c.body).Elem().NumField(); fields != len(c.others) {
			t.Errorf("%T has %d fields, and the test %d", c.body, fields, len(c.others))
		}
		for _, other := range c.others {
			if other != nil && (c.body.Equal(other) || other.Equal(c.body)) {
				t.Errorf("%+v equals %+v", c.body, other)
			}
		}
	}
	if !(&pathBody{label: "one"}).Equal(&pathBody{label: "two"}) {
		t.Error("the label of a path counts")
	}
}

func TestBadDocuments(t *testing.T) {
	for _, c := range []struct{ old, now, want string }{
		{"    nextHop6: \"2001:db8::1\"\n", "\n", "all.yaml:26: spec.vips[1]: Switch gw-a (all.yaml:2) has no next hop to announce 2001:db8::10 with; give its bgp nextHop6"},
		{"    nextHop: 192.0.2.1\n    nextHop6: \"2001:db8::1\"\n", "    nextHop: \"2001:db8::1\"\n", "spec.vips[0]: Switch gw-a (all.yaml:2) has no next hop to announce 203.0.113.10 with; give its bgp an IPv4 nextHop"},
		{"nextHop: 192.0.2.1\n", "nextHop: \"2001:db8::2\"\n", "all.yaml:11: spec.bgp.nextHop6: is the IPv6 next hop beside an IPv4 nextHop"},
		{"nextHop: 192.0.2.1\n", "nextHop: 224.0.0.1\n", "all.yaml:10: spec.bgp.nextHop: 224.0.0.1 cannot be a next hop"},
		{"routerID: 192.0.2.1", "routerID: \"2001:db8::1\"", "all.yaml:9: spec.bgp.routerID: 2001:db8::1 is not a BGP identifier"},
		{"asn: 64512", "asn: 23456", "all.yaml:8: spec.bgp.asn: 23456 is reserved"},
		{"asn: 64512", "asn: 0", "all.yaml:8: spec.bgp.asn"},
		{"{address: 192.0.2.253, asn: 64500}", "{address: 192.0.2.253, asn: 65535}", "all.yaml:14: spec.bgp.neighbors[1].asn: 65535 is reserved"},
		{"192.0.2.253", "192.0.2.254", "all.yaml:14: spec.bgp.neighbors[1].address: 192.0.2.254 is listed twice"},
		{"192.0.2.253", "0.0.0.0", "spec.bgp.neighbors[1].address: 0.0.0.0 cannot be a neighbor"},
		{"\"64512:200\", ", "\"64512:100\", ", "all.yaml:15: spec.bgp.communities[1]: 64512:100 is listed twice"},
		{"64512:200", "64512:65536", "all.yaml:15: spec.bgp.communities[0]: \"64512:65536\" is not a community"},
		{
			"spec: {address: \"127.0.0.1:9560\"}", "spec: {address: \"127.0.0.1:9560\", bgp: {asn: 64513, routerID: 192.0.2.2, nextHop: 192.0.2.2, nextHop6: \"2001:db8::2\", neighbors: [{address: 192.0.2.254, asn: 64500}]}}",
			"all.yaml:20: spec.bgp.neighbors[0].address: neighbor 192.0.2.254 belongs to Switch gw-a already, at all.yaml:2",
		},
	} {
		text := strings.Replace(documents, c.old, c.now, 1)
		if text == documents {
			t.Fatalf("%q is not in the documents", c.old)
		}
		_, err := compile(t, text)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("with %q in the place of %q the error is\n%v\nwant\n%s", c.now, c.old, err, c.want)
		}
		if err != nil && strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("with %q in the place of %q there is more than one error:\n%v", c.now, c.old, err)
		}
	}
	many := "    neighbors:\n"
	for i := range 65 {
		many += fmt.Sprintf("    - {address: 198.51.100.%d, asn: 64500}\n", i+1)
	}
	for text, want := range map[string]string{
		strings.Replace(documents, "    neighbors:\n", many, 1):                                                                                  "all.yaml:12: spec.bgp.neighbors: has 67 neighbors; gray keeps up to 64",
		strings.Replace(strings.Replace(documents, "    routerID", "    localAddress: 192.0.2.9\n    routerID", 1), "192.0.2.253", "\"::1\"", 1): "all.yaml:15: spec.bgp.neighbors[1].address: ::1 cannot be reached from localAddress 192.0.2.9, they are of different IP versions",
	} {
		if _, err := compile(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is\n%v\nwant\n%s", err, want)
		}
	}
}

// Two switches may have one neighbor where they speak from different addresses.
func TestNeighborOfTwoSwitches(t *testing.T) {
	text := strings.Replace(documents, "spec: {address: \"127.0.0.1:9560\"}",
		"spec: {address: \"127.0.0.1:9560\", bgp: {asn: 64513, routerID: 192.0.2.2, localAddress: 192.0.2.9, nextHop: 192.0.2.2, nextHop6: \"2001:db8::2\", neighbors: [{address: 192.0.2.254, asn: 64500}]}}", 1)
	desired, err := compile(t, text)
	if err != nil {
		t.Fatal(err)
	}
	n := desired[neighborKey("bgp/gw-b", netip.MustParseAddr("192.0.2.254"))]
	if n == nil || n.Body.String() != "AS 64500 from 192.0.2.9" {
		t.Errorf("gw-b has neighbor %v", n)
	}
}
