package main

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/probe"
)

// probe runs a probe from the monitors' host.
func (l *netlab) probe(r probe.Request) *probe.Result {
	l.t.Helper()
	var res *probe.Result
	err := l.inside("sw", func() error {
		res = probe.New(probe.Options{}).Probe(l.t.Context(), r)
		return nil
	})
	if err != nil {
		l.t.Fatal(err)
	}
	return res
}

// TestProbesSeeServers pings the VMs of a VPC from its monitor through the VIP: all
// answer, whoever serves them; a VM whose gray server drops its packets is found.
func TestProbesSeeServers(t *testing.T) {
	needNetwork(t, "ip", "bridge", "git")
	l := newNetlab(t, labVMs...)
	l.begin(nil, nil)
	const moved = "10.0.0.6"
	var targets []probe.Target
	for _, v := range labVMs {
		if v.vni != 1001 {
			continue
		}
		to := probe.Target{VM: v.name, Address: netip.MustParseAddr(v.address), VTEP: netip.MustParseAddr(v.vtep()), Moved: v.address == moved}
		if err := to.MAC.UnmarshalText([]byte(v.mac())); err != nil {
			t.Fatal(err)
		}
		targets = append(targets, to)
	}
	m := &schema.Monitor{Address: schema.Addr{Addr: netip.MustParseAddr(labMonitor)}, VTEP: schema.Addr{Addr: netip.MustParseAddr(labMonitorVTEP)}}
	if err := m.MAC.UnmarshalText([]byte(labMonitorMAC)); err != nil {
		t.Fatal(err)
	}
	r := probe.Request{
		Network: "vpc-1001", VNI: 1001, Monitor: m, Survey: true,
		Targets: targets,
		Tests:   []probe.Test{{Kind: probe.PingOverlay, Count: 5, Timeout: 2 * time.Second, VIP: netip.MustParseAddr(labVIP)}},
	}
	healthy := func(when string) *probe.Result {
		t.Helper()
		res := l.probe(r)
		if len(res.Tests) != 1 || res.Verdict != probe.Passed || res.Tests[0].Received != 15 {
			t.Fatalf("%s: %s: %s: %+v", when, res.Verdict, res.Reason, res.Tests)
		}
		t.Logf("%s: %d of %d, latency %+v", when, res.Tests[0].Received, res.Tests[0].Sent, res.Tests[0].Latency)
		return res
	}
	before := healthy("before")
	r.Baseline, r.Survey = before.Baseline(), false
	l.commit(map[string]string{"policy.yaml": labPolicy("vms: [{network: vpc-1001, addresses: [" + moved + "]}]")})
	healthy("moved")
	// The gray server loses what goes to that VM, which is nobody else's trouble.
	l.in("gw9", "bridge", "fdb", "replace", labVMs[1].mac(), "dev", "vx1001", "dst", "192.0.2.199")
	res := l.probe(r)
	if res.Verdict != probe.Failed || !strings.Contains(res.Reason, moved+" (vmb), moved, answered 0 of 5") {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	for _, a := range res.Tests[0].Answers {
		want := 0.0
		if a.Address.String() == moved {
			want = 100
		}
		if a.Loss != want || a.Failed != (want > 0) {
			t.Errorf("%+v", a)
		}
	}
	l.commit(map[string]string{"policy.yaml": ""})
	healthy("back")
}
