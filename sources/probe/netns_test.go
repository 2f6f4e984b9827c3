package probe

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

// TestNamespace runs what needs addresses that no machine has by itself: this very
// test, in a network namespace of its own.
func TestNamespace(t *testing.T) {
	if os.Getenv("GRAY_TEST_NAMESPACE") != "" {
		t.Run("host ping", hostPingInside)
		t.Run("IPv6 VTEP", ipv6VTEPInside)
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
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = append(os.Environ(), "GRAY_TEST_NAMESPACE=1")
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
	out := in(os.Args[0], "-test.run=^TestNamespace$", "-test.v")
	for _, name := range []string{"host_ping", "IPv6_VTEP"} {
		if !strings.Contains(out, "--- PASS: TestNamespace/"+name) {
			t.Errorf("%s did not run: %s", name, out)
		}
	}
}

func hostPingInside(t *testing.T) {
	r := Request{
		Targets: loopback("192.0.2.1", "192.0.2.7", "198.51.100.1"), Retries: 1,
		Checks: []Check{{Kind: PingHost, Count: 3, Timeout: 200 * time.Millisecond}},
	}
	res := quick(Options{}).Verify(t.Context(), r)
	a := res.Checks[0].Answers
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
	r.Checks[0].VIP = vip
	if res := quick(Options{}).Verify(t.Context(), r); res.Verdict != Passed || res.Checks[0].Received != 30 {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
	// Without a route nothing is found out, and nobody is blamed.
	r.Checks[0].VIP = netip.MustParseAddr("2001:db8:1::1")
	if res := quick(Options{}).Verify(t.Context(), r); res.Verdict != Unknown || !strings.Contains(res.Reason, "cannot send to the VIP 2001:db8:1::1 from 2001:db8::1: network is unreachable") {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
}
