package probe

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/gray-release/gray/schema"
)

// The bounds of one verification.
const (
	MaxTargets = 10_000 // addresses
	MaxCount   = 1_000  // echo requests an address, as in the document format
)

// The time limits of checks that name none.
const (
	DefaultPingTimeout = time.Second
	DefaultTCPTimeout  = time.Second
	DefaultHTTPTimeout = 10 * time.Second
	DefaultExecTimeout = time.Minute
)

// Kind is how a check probes.
type Kind string

// The kinds of checks.
const (
	PingOverlay Kind = "ping overlay" // each target, from the monitor through the VIP
	PingHost    Kind = "ping host"    // each target, from the daemon's host
	TCP         Kind = "tcp"          // a connection to each target
	HTTP        Kind = "http"         // one request
	Exec        Kind = "exec"         // one program of --exec-dir
)

// Check is one check of a verification; which fields count depends on its kind.
type Check struct {
	Kind    Kind
	Count   int            // pings: echo requests an address
	Timeout time.Duration  // of one probe; an echo reply that comes later is lost
	MaxLoss schema.Percent // pings: the loss of an address that still passes
	VIP     netip.Addr     // overlay pings: where the packets go
	Port    uint16         // tcp
	URL     string         // http
	Expect  int            // http: the status that passes
	Command []string       // exec: a program below --exec-dir and its arguments
}

// Name says what the check is, in one line; a baseline is kept by it.
func (c Check) Name() string {
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

// ChecksOf makes the checks of a policy's verify: an overlay ping through each of
// the VIPs that are given, then the rest. Limits that it leaves out are filled in.
func ChecksOf(v *schema.Verify, vips ...netip.Addr) []Check {
	if v == nil {
		return nil
	}
	var checks []Check
	if p := v.Ping; p != nil {
		c := Check{Kind: PingHost, Count: p.Count, Timeout: orElse(p.Timeout, DefaultPingTimeout), MaxLoss: p.MaxLoss}
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
		checks = append(checks, Check{Kind: TCP, Port: uint16(t.Port), Timeout: orElse(t.Timeout, DefaultTCPTimeout)})
	}
	if h := v.HTTP; h != nil {
		checks = append(checks, Check{Kind: HTTP, URL: h.URL, Expect: h.Expect, Timeout: DefaultHTTPTimeout})
	}
	if e := v.Exec; e != nil {
		checks = append(checks, Check{Kind: Exec, Command: e.Command, Timeout: orElse(e.Timeout, DefaultExecTimeout)})
	}
	return checks
}

func orElse(d schema.Duration, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return time.Duration(d)
}

// Target is a monitored address.
type Target struct {
	VM      string
	Address netip.Addr // inner
	MAC     schema.MAC // inner
	VTEP    netip.Addr // the host it runs on
	Moved   bool       // it is on the gray version; else it is a peer of one that is
}

// Request is one verification.
type Request struct {
	Policy   string          // these four are for programs and say where the request comes from
	Network  string          //
	Commit   string          //
	Batch    string          //
	VNI      schema.VNI      // of the Network
	Monitor  *schema.Monitor // of the Network; overlay pings come from it
	Targets  []Target        // at most MaxTargets; see Select
	Named    []netip.Addr    // further addresses that documents name, for http
	Checks   []Check         // see ChecksOf
	Retries  int             // how often what failed is tried again
	Survey   bool            // a baseline is taken: every check is made, whatever fails
	Baseline Baseline        // what was lost before the release; it is not blamed
}

// validate returns why nothing can be probed at all, or nil.
func (r Request) validate() error {
	switch {
	case len(r.Checks) == 0:
		return fmt.Errorf("there is no check to make; give rollout.verify a ping, tcp, http or exec")
	case len(r.Targets) > MaxTargets:
		return fmt.Errorf("%d addresses are more than the %d that one verification probes", len(r.Targets), MaxTargets)
	}
	for _, c := range r.Checks {
		if c.Timeout <= 0 {
			return fmt.Errorf("%s has no time limit", c.Name())
		}
		if ping := c.Kind == PingOverlay || c.Kind == PingHost; ping && (c.Count < 1 || c.Count > MaxCount) {
			return fmt.Errorf("%s has a count of %d; want 1 to %d", c.Name(), c.Count, MaxCount)
		}
	}
	return nil
}
