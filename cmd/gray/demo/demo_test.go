package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/dir"
	"github.com/gray-release/gray/sources/probe"
)

// TestShardLab pings every VM of the laboratory of gray demo --rollout through the
// versions that match policies of a real daemon give it: all answer through v1, and
// none of a VPC that v2 loses.
func TestShardLab(t *testing.T) {
	r := &rolloutDemo{demo: &demo{out: io.Discard, Lab: Lab{Dir: t.TempDir()}}}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); ok(r.parts.stop()) }()
	ok(r.start(ctx))
	r.lab.lose("v2", 1002)
	for _, c := range []struct {
		policy string
		moved  []int // of each VPC
		lost   []int
	}{
		{"", []int{0, 0}, []int{0, 0}},
		{"vms: [{network: vpc-1001, addresses: [10.0.0.1, 10.0.0.7]}, {network: vpc-1002, addresses: [10.0.0.7]}]", []int{2, 1}, []int{0, 1}},
		{"networks: [vpc-1001, vpc-1002]", []int{20, 20}, []int{0, 20}},
		{"", []int{0, 0}, []int{0, 0}},
	} {
		text := ""
		if c.policy != "" {
			text = "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: gw-v2}\nspec:\n  targets: [{kind: Gateway, name: vpc-gw}]\n  version: v2\n  match:\n  - " + c.policy + "\n"
		}
		ok(r.write("policies/gateway-v2.yaml", text))
		ok(r.Git(t.Context(), "add", "-A"))
		ok(r.Git(t.Context(), "commit", "-q", "--allow-empty", "-m", "match"))
		ok(r.live(t.Context()))
		for i, v := range r.lab.vpcs {
			moved, lost := pingAll(t, r, v)
			if moved != c.moved[i] || lost != c.lost[i] {
				t.Errorf("%q: of %s %d VMs are on v2, and %d do not answer", c.policy, v.name, moved, lost)
			}
		}
	}
}

// pingAll pings the VMs of a VPC as a rollout does. It returns how many had their
// packets by v2, and how many did not answer.
func pingAll(t *testing.T, r *rolloutDemo, v *shardVPC) (moved, lost int) {
	t.Helper()
	before := r.lab.look(v)
	s, err := dir.Read(t.Context(), r.Repo)
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	n := set.Get(schema.Name{Kind: schema.KindNetwork, Name: v.name}).Spec.(*schema.NetworkSpec)
	var targets []probe.Target
	for _, route := range n.Routes {
		targets = append(targets, probe.Target{VM: route.VM, Address: route.Prefix.Addr(), MAC: route.MAC, VTEP: route.VTEP.Addr, Moved: true})
	}
	prober := probe.New(probe.Options{Underlay: r.lab.underlay, Interval: time.Millisecond})
	res := prober.Probe(t.Context(), probe.Request{
		Network: v.name, VNI: *n.VNI, Monitor: n.Monitor, Survey: true,
		Targets: targets,
		Tests:   []probe.Test{{Kind: probe.PingOverlay, Count: 3, Timeout: time.Second, VIP: r.lab.vip}},
	})
	lost = res.Tests[0].Failed
	if out := res.Tests[0]; out.Addresses != 20 || out.Received != 3*(20-lost) {
		t.Errorf("%s: %s: %+v", v.name, res.Reason, out)
	}
	for i, vm := range r.lab.look(v) {
		v1, v2 := vm.served["v1"]-before[i].served["v1"], vm.served["v2"]-before[i].served["v2"]
		if v1+v2 != 3 || v1 != 0 && v2 != 0 {
			t.Errorf("%s had %d packets by v1 and %d by v2", vm.name, v1, v2)
		}
		if v2 > 0 {
			moved++
		}
	}
	return moved, lost
}

// TestScreen draws the lines at the end of a terminal over again, and nothing else.
func TestScreen(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out, live: true}
	s.show("bar 1", "bar 2")
	fmt.Fprintln(s, "news")
	s.show("bar 3")
	s.show()
	const clear2, clear1 = "\x1b[2A\r\x1b[J", "\x1b[1A\r\x1b[J"
	want := "bar 1\nbar 2\n" + clear2 + "news\nbar 1\nbar 2\n" + clear2 + "bar 3\n" + clear1
	if out.String() != want {
		t.Errorf("drew %q, want %q", &out, want)
	}
	if got := s.paint(31, "x"); got != "x" {
		t.Errorf("without colors there is %q", got)
	}
	out.Reset()
	s = newScreen(&out)
	s.show("bar 1")
	fmt.Fprintln(s, "news")
	if out.String() != "news\n" {
		t.Errorf("without a terminal there is %q", &out)
	}
}
