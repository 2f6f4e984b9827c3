package probe

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

// TestNamespace runs what needs addresses that no machine has by itself: this very
// test, in a network namespace of its own.
func TestNamespace(t *testing.T) {
	switch os.Getenv("GRAY_TEST_NAMESPACE") {
	case "all":
		t.Run("host ping", hostPingInside)
		t.Run("IPv6 VTEP", ipv6VTEPInside)
		return
	case "plain", "denied":
		t.Run("no privileges", unprivilegedInside)
		return
	}
	if os.Getuid() != 0 {
		missing := "this test needs root for network namespaces"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	ns := fmt.Sprintf("grayprobe%d", os.Getpid())
	part := ""
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "GRAY_TEST_NAMESPACE="+part)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	run("ip", "netns", "add", ns)
	t.Cleanup(func() { run("ip", "netns", "del", ns) })
	in := func(args ...string) string {
		t.Helper()
		return run(append([]string{"ip", "netns", "exec", ns}, args...)...)
	}
	in("ip", "link", "set", "lo", "up")
	in("ip", "link", "add", "away", "type", "veth", "peer", "name", "nobody") // loses what goes out of it
	in("ip", "link", "set", "away", "up")
	in("ip", "link", "set", "nobody", "up")
	in("ip", "addr", "add", "192.0.2.1/24", "dev", "away")
	in("ip", "neigh", "add", "192.0.2.7", "lladdr", "02:00:00:00:00:77", "dev", "away", "nud", "permanent")
	for _, a := range []string{"2001:db8::1/128", "2001:db8::2/128"} {
		in("ip", "addr", "add", a, "dev", "lo", "nodad")
	}
	in("sysctl", "-qw", "net.ipv4.ping_group_range=65534 65534")
	for _, c := range []struct{ part, name string }{
		{"all", "host_ping"},
		{"all", "IPv6_VTEP"},
		{"plain", "no_privileges"},
		{"denied", "no_privileges"},
	} {
		part = c.part
		if out := in(os.Args[0], "-test.run=^TestNamespace$/^"+c.name+"$", "-test.v"); !strings.Contains(out, "--- PASS: TestNamespace/"+c.name) {
			t.Errorf("%s did not run: %s", c.name, out)
		}
	}
}

// unprivilegedInside gives up being root, for good: the process is its own. Its new
// group may or may not send echo requests.
func unprivilegedInside(t *testing.T) {
	group, verdict, reason := 65534, Passed, ""
	if os.Getenv("GRAY_TEST_NAMESPACE") == "denied" {
		group, verdict, reason = 65533, Unknown, "ping host: cannot send echo requests: permission denied; give the daemon CAP_NET_RAW"
	}
	for _, err := range []error{syscall.Setgroups(nil), syscall.Setgid(group), syscall.Setuid(65534)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := Request{Targets: loopback("127.0.0.1", "127.0.0.2", "192.0.2.1", "::1"), Tests: []Test{{Kind: PingHost, Count: 3, Timeout: patience}}}
	res := quick(Options{}).Probe(t.Context(), r)
	if c := res.Tests[0]; res.Verdict != verdict || res.Reason != reason || verdict == Passed && c.Received != 12 {
		t.Errorf("%s: %s: %+v", res.Verdict, res.Reason, c)
	}
}

func hostPingInside(t *testing.T) {
	r := Request{
		Targets: loopback("192.0.2.1", "192.0.2.7", "198.51.100.1"), Retries: 1,
		Tests: []Test{{Kind: PingHost, Count: 3, Timeout: 200 * time.Millisecond}},
	}
	res := quick(Options{}).Probe(t.Context(), r)
	a := res.Tests[0].Answers
	if res.Verdict != Failed || a[0].Received != 3 || a[1].Received != 0 || a[1].Loss != 100 || a[1].Attempts != 2 ||
		res.Reason != "ping host: 192.0.2.7 (vm-1), a peer, answered 0 of 3; and 1 more addresses failed" {
		t.Errorf("%s: %s: %+v", res.Verdict, res.Reason, a)
	}
	if a[2].Error != "network is unreachable" {
		t.Errorf("of an address without a route: %+v", a[2])
	}
}

func ipv6VTEPInside(t *testing.T) {
	vip := netip.MustParseAddr("2001:db8::2")
	newPeer(t, vip, echoes)
	r := request(10)
	r.Monitor.VTEP = schema.Addr{Addr: netip.MustParseAddr("2001:db8::1")}
	r.Tests[0].VIP = vip
	if res := quick(Options{}).Probe(t.Context(), r); res.Verdict != Passed || res.Tests[0].Received != 30 {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	// Without a route nothing is found out, and nobody is blamed.
	r.Tests[0].VIP = netip.MustParseAddr("2001:db8:1::1")
	if res := quick(Options{}).Probe(t.Context(), r); res.Verdict != Unknown || !strings.Contains(res.Reason, "cannot send to the VIP 2001:db8:1::1 from 2001:db8::1: network is unreachable") {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
}
