package probe

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// loopback is targets at addresses of loopback.
func loopback(addresses ...string) []Target {
	var out []Target
	for i, a := range addresses {
		out = append(out, Target{VM: fmt.Sprintf("vm-%d", i), Address: netip.MustParseAddr(a), Moved: i == 0})
	}
	return out
}

func TestTCP(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.MustParseAddrPort(l.Addr().String())
	r := Request{Targets: loopback("127.0.0.1", "127.0.0.2"), Tests: []Test{{Kind: TCP, Port: at.Port(), Timeout: patience}}, Retries: 2}
	res := quick(Options{}).Probe(t.Context(), r)
	a := res.Tests[0].Answers
	if res.Verdict != Failed || a[0].Received != 1 || a[0].Attempts != 1 || a[0].Latency.Min <= 0 || a[1].Attempts != 3 {
		t.Errorf("%s: %s: %+v", res.Verdict, res.Reason, a)
	}
	if want := fmt.Sprintf("tcp %d: 127.0.0.2 (vm-1), a peer, answered 0 of 1: connection refused", at.Port()); res.Reason != want {
		t.Errorf("the reason is %q, want %q", res.Reason, want)
	}
	r.Baseline = res.Baseline()
	if res := quick(Options{}).Probe(t.Context(), r); res.Verdict != Passed || res.Tests[0].Dead != 1 {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
}

// TestHostPing pings loopback; what does not answer is in the laboratory.
func TestHostPing(t *testing.T) {
	if os.Getuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("this test needs root for echo requests")
	}
	var all []string
	for i := range 100 {
		all = append(all, fmt.Sprintf("127.0.1.%d", i+1))
	}
	r := Request{Targets: loopback(append(all, "::1")...), Tests: []Test{{Kind: PingHost, Count: 3, Timeout: patience}}}
	res := quick(Options{}).Probe(t.Context(), r)
	if c := res.Tests[0]; res.Verdict != Passed || c.Sent != 303 || c.Received != 303 || c.Latency.Min <= 0 || c.Latency.Max < c.Latency.Avg {
		t.Errorf("%s: %s: %+v", res.Verdict, res.Reason, c)
	}
}

func TestHTTP(t *testing.T) {
	var status, asked atomic.Int32
	status.Store(http.StatusOK)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1); r.URL.Path == "/hang" {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(status.Load()))
		_, _ = w.Write(make([]byte, 1<<20))
	}))
	defer s.Close()
	at := netip.MustParseAddrPort(s.Listener.Addr().String())
	named := []netip.Addr{at.Addr()}
	byName := fmt.Sprintf("http://localhost:%d/", at.Port())
	for _, c := range []struct {
		name, url  string
		status     int
		expect     int
		named      []netip.Addr
		allow      string
		timeout    time.Duration
		verdict    Verdict
		reason     string
		unaskedFor bool // the server must not have been asked
	}{
		{"fine", s.URL, 200, 200, named, "", patience, Passed, "", false},
		{"another status", s.URL, 503, 200, named, "", patience, Failed, "answered with status 503, want 200", false},
		{"a redirection that is wanted", s.URL, 302, 302, named, "", patience, Passed, "", false},
		{"a redirection that is not", s.URL, 302, 200, named, "", patience, Failed, "answered with status 302", false},
		{"a name", byName, 200, 200, named, "", patience, Passed, "", false},
		{"allowed by network", byName, 200, 200, nil, "127.0.0.0/8", patience, Passed, "", false},
		{"of no document", s.URL, 200, 200, nil, "10.0.0.0/8", patience, Unknown, "127.0.0.1 is neither an address in a document nor in a --probe-allow network", true},
		{"a name that leads away", byName, 200, 200, nil, "", patience, Unknown, "is neither an address in a document", true},
		{"mapped", fmt.Sprintf("http://[::ffff:127.0.0.1]:%d/", at.Port()), 200, 200, nil, "", patience, Unknown, "127.0.0.1 is neither an address in a document", true},
		{"mapped and named", fmt.Sprintf("http://[::ffff:127.0.0.1]:%d/", at.Port()), 200, 200, named, "", patience, Passed, "", false},
		{"a name that nobody has", "http://nobody.invalid/", 200, 200, named, "", patience, Unknown, "nobody.invalid", true},
		{"no answer", s.URL + "/hang", 200, 200, named, "", 50 * time.Millisecond, Failed, "no answer within 50ms", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			status.Store(int32(c.status))
			asked.Store(0)
			o := Options{}
			if c.allow != "" {
				o.Allow = []netip.Prefix{netip.MustParsePrefix(c.allow)}
			}
			r := Request{Named: c.named, Tests: []Test{{Kind: HTTP, URL: c.url, Expect: c.expect, Timeout: c.timeout}}}
			res := quick(o).Probe(t.Context(), r)
			if res.Verdict != c.verdict || !strings.Contains(res.Reason, c.reason) {
				t.Errorf("%s: %s", res.Verdict, res.Reason)
			}
			if n := asked.Load(); c.unaskedFor && n > 0 || !c.unaskedFor && n != 1 {
				t.Errorf("the server was asked %d times", n)
			}
		})
	}
}

func TestAllow(t *testing.T) {
	a := Allow{
		Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/64")},
		Named:    map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true},
	}
	for address, want := range map[string]bool{
		"10.1.2.3": true, "10.2.0.1": false, "192.0.2.1": true, "192.0.2.2": false, "127.0.0.1": false, "169.254.169.254": false,
		"::ffff:10.1.2.3": true, "::ffff:192.0.2.1": true, "::ffff:127.0.0.1": false, "fd00::1": true, "fd00::1%eth0": false, "fd00:0:0:1::1": false,
	} {
		if err := a.Check(netip.MustParseAddr(address)); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	if a.Check(netip.Addr{}) == nil {
		t.Error("no address at all is let through")
	}
}

// TestStopsAtFailure makes no check after one that failed, as what moved is to go
// back at once; a survey makes them all.
func TestStopsAtFailure(t *testing.T) {
	closed := Test{Kind: TCP, Port: 1, Timeout: patience}
	other := closed
	other.Port = 2
	r := Request{Targets: loopback("127.0.0.1"), Tests: []Test{closed, other}}
	if res := quick(Options{}).Probe(t.Context(), r); len(res.Tests) != 1 || res.Verdict != Failed {
		t.Errorf("%d checks were made", len(res.Tests))
	}
	r.Survey = true
	res := quick(Options{}).Probe(t.Context(), r)
	if len(res.Tests) != 2 || len(res.Baseline()) != 2 {
		t.Errorf("%d checks were made, the baseline is %v", len(res.Tests), res.Baseline())
	}
}

func TestName(t *testing.T) {
	c := Test{Kind: HTTP, URL: "http://me:secret@vpc-api.internal/healthz"}
	if n := c.Name(); strings.Contains(n, "secret") {
		t.Errorf("the name is %q", n)
	}
}
