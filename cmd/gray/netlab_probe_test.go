package main

import (
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sources/probe"
)

// The monitor of VPC 1001, on a host of its own.
const (
	labMonitor     = "10.0.255.254"
	labMonitorMAC  = "02:aa:00:00:00:fe"
	labMonitorVTEP = "192.0.2.200"
)

// monitored adds the monitor's host, and has the servers of VPC 1001 switch what
// goes to a VM's MAC address beside routing what goes to the router's.
func (l *netlab) monitored() {
	l.t.Helper()
	l.namespace("mon")
	l.cable("fab", "fmon", "mon", "under")
	l.in("mon", "ip", "addr", "add", labMonitorVTEP+"/24", "dev", "under")
	l.in("mon", "ip", "neigh", "add", "192.0.2.1", "lladdr", labSwitchMAC, "dev", "under", "nud", "permanent")
	l.in("mon", "ip", "route", "add", labVIP+"/32", "via", "192.0.2.1")
	for _, s := range labServers {
		l.in(s.name, "ip", "link", "add", "br1001", "address", labRouterMAC, "type", "bridge")
		l.in(s.name, "ip", "link", "set", "br1001", "up")
		l.in(s.name, "ip", "link", "set", "vx1001", "master", "br1001")
		l.in(s.name, "bridge", "link", "set", "dev", "vx1001", "hairpin", "on", "learning", "off")
		l.in(s.name, "ip", "rule", "add", "iif", "br1001", "table", "1001")
		l.in(s.name, "sysctl", "-qw", "net.ipv4.conf.br1001.rp_filter=0", "net.ipv4.conf.br1001.send_redirects=0")
		l.in(s.name, "bridge", "fdb", "add", labMonitorMAC, "dev", "vx1001", "dst", labMonitorVTEP)
		ends := map[string]string{labMonitor: labMonitorMAC}
		for _, v := range labVMs {
			if v.vni == 1001 {
				ends[v.address] = v.mac()
			}
		}
		for address, mac := range ends {
			l.in(s.name, "ip", "route", "replace", address+"/32", "dev", "br1001", "table", "1001")
			l.in(s.name, "ip", "neigh", "add", address, "lladdr", mac, "dev", "br1001", "nud", "permanent")
			l.in(s.name, "bridge", "fdb", "add", mac, "dev", "vx1001", "master", "static")
		}
	}
}

// probe makes a verification from the monitor's host.
func (l *netlab) probe(r probe.Request) *probe.Result {
	l.t.Helper()
	ns, err := os.Open("/var/run/netns/" + l.ns("mon"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer ns.Close()
	done := make(chan *probe.Result, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			l.t.Error(err)
			done <- &probe.Result{}
			return
		}
		done <- probe.New(probe.Options{}).Verify(l.t.Context(), r)
	}()
	return <-done
}

// TestProbesSeeServers pings the VMs of a VPC from its monitor through the VIP: all
// answer, whoever serves them; a VM whose gray server drops its packets is found.
func TestProbesSeeServers(t *testing.T) {
	needNetwork(t, "ip", "bridge", "git")
	l := newNetlab(t)
	l.monitored()
	l.begin()
	var routes []schema.Route
	for _, v := range labVMs {
		if v.vni != 1001 {
			continue
		}
		r := schema.Route{VM: v.name, Prefix: schema.Prefix{Prefix: netip.MustParsePrefix(v.address + "/32")}, VTEP: schema.Addr{Addr: netip.MustParseAddr(v.vtep())}}
		if err := r.MAC.UnmarshalText([]byte(v.mac())); err != nil {
			t.Fatal(err)
		}
		routes = append(routes, r)
	}
	m := &schema.Monitor{Address: schema.Addr{Addr: netip.MustParseAddr(labMonitor)}, VTEP: schema.Addr{Addr: netip.MustParseAddr(labMonitorVTEP)}}
	if err := m.MAC.UnmarshalText([]byte(labMonitorMAC)); err != nil {
		t.Fatal(err)
	}
	const moved = "10.0.0.6"
	r := probe.Request{
		Network: "vpc-1001", VNI: 1001, Monitor: m, Survey: true,
		Targets: probe.Select(routes, func(r schema.Route) bool { return r.Prefix.Addr().String() == moved }, 8, 1).Targets,
		Checks:  []probe.Check{{Kind: probe.PingOverlay, Count: 5, Timeout: 2 * time.Second, VIP: netip.MustParseAddr(labVIP)}},
	}
	healthy := func(when string) *probe.Result {
		t.Helper()
		res := l.probe(r)
		if len(res.Checks) != 1 || res.Verdict != probe.Passed || res.Checks[0].Received != 15 {
			t.Fatalf("%s: %s: %s: %+v", when, res.Verdict, res.Reason, res.Checks)
		}
		t.Logf("%s: %d of %d, latency %+v", when, res.Checks[0].Received, res.Checks[0].Sent, res.Checks[0].Latency)
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
	for _, a := range res.Checks[0].Answers {
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
