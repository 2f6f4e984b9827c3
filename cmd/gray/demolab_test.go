package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/p4rt/softswitch"
	"github.com/gray-release/gray/sources/probe"
)

// TestShardLab pings every VM of the laboratory of gray demo --rollout through the
// versions that match policies of a real daemon give it: all answer through v1, and
// none of a VPC that v2 loses.
func TestShardLab(t *testing.T) {
	d := &demo{dir: t.TempDir()}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ok(d.choosePorts("9559", "18000", "18001"))
	set, err := d.makeShard(t.Context())
	ok(err)
	sw := softswitch.New(1)
	lab, err := newShardLab(sw, set)
	ok(err)
	ctx, cancel := context.WithCancel(t.Context())
	stopSwitch, err := d.serveSwitch(ctx, sw)
	ok(err)
	stopDaemon, err := d.startDaemon(ctx)
	ok(err)
	defer func() {
		cancel()
		ok(errors.Join(stopDaemon(), stopSwitch(), lab.close()))
	}()
	lab.lose("v2", 1002)
	prober := probe.New(probe.Options{Underlay: lab.underlay, Interval: time.Millisecond, Pause: time.Millisecond})
	for _, c := range []struct {
		policy string
		moved  int // of VPC 1001
		lost   int // of VPC 1002
	}{
		{"", 0, 0},
		{"vms: [{network: vpc-1001, addresses: [10.0.0.1, 10.0.0.7]}, {network: vpc-1002, addresses: [10.0.0.7]}]", 2, 1},
		{"networks: [vpc-1001, vpc-1002]", 20, 20},
		{"", 0, 0},
	} {
		text := ""
		if c.policy != "" {
			text = labPolicy(c.policy)
		}
		ok(d.write("policies/gateway-v2.yaml", text))
		ok(d.git(t.Context(), "add", "-A"))
		ok(d.git(t.Context(), "commit", "-q", "--allow-empty", "-m", "match"))
		ok(d.live(t.Context()))
		before := map[string][]shardVM{}
		for _, v := range lab.vpcs {
			before[v.name] = lab.look(v)
		}
		for i, v := range lab.vpcs {
			n := set.Get(schema.Name{Kind: schema.KindNetwork, Name: v.name}).Spec.(*schema.NetworkSpec)
			res := prober.Verify(t.Context(), probe.Request{
				Network: v.name, VNI: *n.VNI, Monitor: n.Monitor, Survey: true,
				Targets: probe.Select(n.Routes, func(schema.Route) bool { return true }, 0, 1).Targets,
				Checks:  []probe.Check{{Kind: probe.PingOverlay, Count: 3, Timeout: time.Second, VIP: lab.vip}},
			})
			want := []int{0, c.lost}[i]
			if out := res.Checks[0]; out.Addresses != 20 || out.Failed != want || out.Received != 3*(20-want) {
				t.Errorf("%q: %s: %s: %+v", c.policy, v.name, res.Reason, out)
			}
			moved := 0
			for j, vm := range lab.look(v) {
				old := before[v.name][j].served
				v1, v2 := vm.served["v1"]-old["v1"], vm.served["v2"]-old["v2"]
				if v1+v2 != 3 || v1 != 0 && v2 != 0 {
					t.Errorf("%q: %s: %s had %d packets by v1 and %d by v2", c.policy, v.name, vm.name, v1, v2)
				}
				if v2 > 0 {
					moved++
				}
			}
			if moved != []int{c.moved, c.lost}[i] {
				t.Errorf("%q: %s: %d VMs are on v2", c.policy, v.name, moved)
			}
		}
	}
}
