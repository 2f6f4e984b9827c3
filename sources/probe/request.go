package probe

import (
	"cmp"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gray-release/gray/schema"
)

// The bounds of one probe.
const (
	MaxTargets = 10_000 // addresses
	MaxCount   = 1_000  // echo requests per address, as in schema
)

// The default time limits of tests.
const (
	DefaultPingTimeout = time.Second
	DefaultTCPTimeout  = time.Second
	DefaultHTTPTimeout = 10 * time.Second
	DefaultExecTimeout = time.Minute
)

// Kind is the kind of a test.
type Kind string

// The kinds of tests.
const (
	PingOverlay Kind = "ping overlay" // each target, from the monitor through the VIP
	PingHost    Kind = "ping host"    // each target, from the daemon's host
	TCP         Kind = "tcp"          // a connection to each target
	HTTP        Kind = "http"         // one request
	Exec        Kind = "exec"         // one program of --exec-dir
)

// Test is one test of a probe. Which fields count depends on its kind.
type Test struct {
	Kind    Kind
	Count   int            // pings: echo requests per address
	Timeout time.Duration  // of one attempt; a later echo reply counts as lost
	MaxLoss schema.Percent // pings: how much an address may lose more than before
	VIP     netip.Addr     // overlay pings: where the packets go
	Port    uint16         // tcp
	URL     string         // http
	Expect  int            // http: the status that passes
	Command []string       // exec: a program below --exec-dir and its arguments
}

// Name describes the test on one line; baselines refer to tests by it.
func (c Test) Name() string {
	switch c.Kind {
	case PingOverlay:
		return fmt.Sprintf("%s %s", c.Kind, c.VIP)
	case TCP:
		return fmt.Sprintf("%s %d", c.Kind, c.Port)
	case HTTP:
		if u, err := url.Parse(c.URL); err == nil {
			return clip(fmt.Sprintf("%s %s", c.Kind, u.Redacted()))
		}
	case Exec:
		return clip(fmt.Sprintf("%s %s", c.Kind, strings.Join(c.Command, " ")))
	}
	return string(c.Kind)
}

// TestsOf makes the tests of a policy's verify: an overlay ping through each of the
// VIPs, then the others. Missing time limits get their defaults.
func TestsOf(v *schema.Verify, vips ...netip.Addr) []Test {
	if v == nil {
		return nil
	}
	var checks []Test
	if p := v.Ping; p != nil {
		c := Test{Kind: PingHost, Count: p.Count, Timeout: cmp.Or(time.Duration(p.Timeout), DefaultPingTimeout), MaxLoss: p.MaxLoss}
		if p.Source == "host" {
			checks = append(checks, c)
		} else {
			c.Kind = PingOverlay
			for _, c.VIP = range vips {
				checks = append(checks, c)
			}
		}
	}
	if t := v.TCP; t != nil {
		checks = append(checks, Test{Kind: TCP, Port: uint16(t.Port), Timeout: cmp.Or(time.Duration(t.Timeout), DefaultTCPTimeout)})
	}
	if h := v.HTTP; h != nil {
		checks = append(checks, Test{Kind: HTTP, URL: h.URL, Expect: h.Expect, Timeout: DefaultHTTPTimeout})
	}
	if e := v.Exec; e != nil {
		checks = append(checks, Test{Kind: Exec, Command: e.Command, Timeout: cmp.Or(time.Duration(e.Timeout), DefaultExecTimeout)})
	}
	return checks
}

// Target is an address to test.
type Target struct {
	VM      string
	Address netip.Addr // inner
	MAC     schema.MAC // inner
	VTEP    netip.Addr // the host it runs on
	Moved   bool       // it is on the gray version; false: it is a peer of one that is
}

// Request is a probe to run. Programs see Policy, Network, Commit and Batch.
type Request struct {
	Policy   string
	Network  string
	Commit   string
	Batch    string
	VNI      schema.VNI      // of the Network
	Monitor  *schema.Monitor // of the Network; overlay pings come from it
	Targets  []Target        // at most MaxTargets
	Named    []netip.Addr    // additional addresses in documents, for http
	Tests    []Test          // see TestsOf
	Retries  int             // how often to retry what failed
	Survey   bool            // take a baseline: make every test, even after one failed
	Baseline Baseline        // the loss before the release, which it is not blamed for
}

// validate returns why the probe cannot be run, or nil.
func (r Request) validate() error {
	switch {
	case len(r.Tests) == 0:
		return fmt.Errorf("there is no test; give rollout.verify a ping, tcp, http or exec")
	case len(r.Targets) > MaxTargets:
		return fmt.Errorf("there are %d addresses; a probe tests at most %d", len(r.Targets), MaxTargets)
	}
	for _, c := range r.Tests {
		if c.Timeout <= 0 {
			return fmt.Errorf("%s has no time limit", c.Name())
		}
		if ping := c.Kind == PingOverlay || c.Kind == PingHost; ping && (c.Count < 1 || c.Count > MaxCount) {
			return fmt.Errorf("%s has a count of %d; want 1 to %d", c.Name(), c.Count, MaxCount)
		}
	}
	return nil
}
