package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gray-release/gray/schema"
)

func TestOverlayPing(t *testing.T) {
	for _, c := range []struct{ name, monitor, base string }{
		{"IPv4", "10.0.255.254", "10.0.0.1"},
		{"IPv6", "fd00::fffe", "fd00::1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPeer(t, testVIP, echoes)
			r := request(0)
			r.Monitor, r.Targets = monitor(c.monitor), targets(100, c.base)
			res := quick(Options{}).Probe(t.Context(), r)
			if res.Verdict != Passed {
				t.Fatalf("%s: %s", res.Verdict, res.Reason)
			}
			out := res.Tests[0]
			if out.Sent != 300 || out.Received != 300 || out.Addresses != 100 || out.Failed+out.Dead+out.Skipped != 0 {
				t.Errorf("%+v", out)
			}
			if l := out.Latency; l.Min <= 0 || l.Avg < l.Min || l.Max < l.Avg || l.Max > Duration(patience) {
				t.Errorf("latency %+v", l)
			}
			// Each VM was asked three times, by its own MAC and from the monitor.
			asked := map[netip.Addr]int{}
			macs := map[netip.Addr]schema.MAC{}
			for _, v := range r.Targets {
				macs[v.Address] = v.MAC
			}
			for _, q := range p.requests() {
				asked[q.dst]++
				if q.mac != macs[q.dst] || q.src != r.Monitor.Address.Addr || q.vni != 1001 || q.from != netip.AddrPortFrom(testVTEP, 4789) {
					t.Fatalf("a request %+v", q)
				}
			}
			for a := range macs {
				if asked[a] != 3 {
					t.Errorf("%s was asked %d times", a, asked[a])
				}
			}
		})
	}
}

// sick is the VM that a test has trouble with; it moved.
var sick = netip.MustParseAddr("10.0.0.1")

func TestOverlayTrouble(t *testing.T) {
	short := 300 * time.Millisecond
	prober := quick(Options{})
	vip := testVIP
	for _, c := range []struct {
		name    string
		maxLoss schema.Percent
		behave  func(p *peer, q packet) bool // of the sick VM: whether to answer as well
		want    Answer
		verdict Verdict
		reason  string
	}{
		{
			"all lost", 50, func(*peer, packet) bool { return false },
			Answer{Received: 0, Loss: 100, Failed: true},
			Failed, "10.0.0.1 (vm-0), moved, answered 0 of 4",
		},
		{
			"one lost", 0, func(_ *peer, q packet) bool { return q.sequence != 2 },
			Answer{Received: 3, Loss: 25, Failed: true},
			Failed, "10.0.0.1 (vm-0), moved, answered 3 of 4",
		},
		{
			"one lost and let pass", 25, func(_ *peer, q packet) bool { return q.sequence != 2 },
			Answer{Received: 3, Loss: 25},
			Passed, "",
		},
		{"one lost and another one twice", 0, func(p *peer, q packet) bool {
			if q.sequence == 1 {
				echoes(p, q)
			}
			return q.sequence != 2
		}, Answer{Received: 3, Duplicates: 1, Loss: 25, Failed: true}, Failed, "answered 3 of 4"},
		{"damaged", 0, func(p *peer, q packet) bool {
			b := q.answer()
			b[len(b)-1] ^= 1
			p.reply(q, b)
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
		{"of another VNI", 0, func(p *peer, q packet) bool {
			b := q.answer()
			b[6]++
			p.reply(q, b)
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
		{"by another VM", 0, func(p *peer, q packet) bool {
			b := q.answer()
			b[37]++                   // the source, and in the header's checksum
			b[26], b[27] = 0xff, 0xfe // the identification makes up for it
			p.reply(q, b)
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
		{"its own request", 0, func(p *peer, q packet) bool {
			p.reply(q, q.raw)
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
		{"a request of its own", 0, func(p *peer, q packet) bool {
			b := q.answer()
			b[42] = q.raw[42]
			copy(b[44:46], q.raw[44:46])
			p.reply(q, b)
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
		{"cut short", 0, func(p *peer, q packet) bool {
			for i := range q.raw {
				p.reply(q, q.answer()[:i])
			}
			return false
		}, Answer{Loss: 100, Failed: true}, Failed, "answered 0 of 4"},
	} {
		vip = vip.Next()
		vip := vip
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			newPeer(t, vip, func(p *peer, q packet) {
				if q.dst != sick || c.behave(p, q) {
					echoes(p, q)
				}
			})
			r := request(5)
			r.Tests[0].Count, r.Tests[0].MaxLoss, r.Tests[0].Timeout, r.Tests[0].VIP = 4, c.maxLoss, short, vip
			res := prober.Probe(t.Context(), r)
			if res.Verdict != c.verdict || !strings.Contains(res.Reason, c.reason) {
				t.Errorf("%s: %s", res.Verdict, res.Reason)
			}
			c.want.VM, c.want.Address, c.want.Moved, c.want.Sent, c.want.Attempts = "vm-0", sick, true, 4, 1
			if d := cmp.Diff(c.want, res.Tests[0].Answers[0], cmpopts.IgnoreFields(Answer{}, "Latency"), cmpopts.IgnoreUnexported(Answer{}), addrs); d != "" {
				t.Error(d)
			}
			for _, a := range res.Tests[0].Answers[1:] {
				if a.Received != 4 || a.Failed {
					t.Errorf("a healthy VM: %+v", a)
				}
			}
		})
	}
}

var addrs = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

// TestLateIsLost has a reply come after its time limit while the run still waits
// for another one.
func TestLateIsLost(t *testing.T) {
	var late sync.WaitGroup
	newPeer(t, testVIP, func(p *peer, q packet) {
		if q.sequence == 0 {
			late.Go(func() { time.Sleep(450 * time.Millisecond); echoes(p, q) }) // a slow way
			return
		}
		echoes(p, q)
	})
	r := request(1)
	r.Tests[0].Count, r.Tests[0].Timeout = 2, 300*time.Millisecond
	res := New(Options{Interval: 500 * time.Millisecond}).Probe(t.Context(), r)
	late.Wait()
	if a := res.Tests[0].Answers[0]; a.Late != 1 || a.Received != 1 || a.Loss != 50 || res.Verdict != Failed || !strings.Contains(res.Reason, "1 too late") {
		t.Errorf("%s %s: %+v", res.Verdict, res.Reason, a)
	}
}

// TestRetries has a VM that answers from the second attempt on, where replies of
// the first one come too and count for nothing.
func TestRetries(t *testing.T) {
	var mu sync.Mutex
	var old []packet
	newPeer(t, testVIP, func(p *peer, q packet) {
		if q.dst != sick {
			echoes(p, q)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if len(old) < 3 {
			old = append(old, q)
			return
		}
		if q.sequence == 0 { // the rest of the second attempt is lost, of the third nothing
			for _, o := range old {
				echoes(p, o)
			}
			old = append(old, q)
		}
		if len(old) == 5 {
			echoes(p, q)
		}
	})
	r := request(3)
	r.Retries, r.Tests[0].Timeout = 5, 200*time.Millisecond
	res := quick(Options{}).Probe(t.Context(), r)
	a := res.Tests[0].Answers
	if res.Verdict != Passed || a[0].Attempts != 3 || a[0].Received != 3 || a[1].Attempts != 1 {
		t.Errorf("%s: %s: %+v", res.Verdict, res.Reason, a)
	}
}

// TestBaseline has VMs that were dead or ill before: what did not get worse is
// reported and not blamed.
func TestBaseline(t *testing.T) {
	var gone atomic.Bool
	dead, ill, fine := netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3"), netip.MustParseAddr("10.0.0.4")
	newPeer(t, testVIP, func(p *peer, q packet) {
		if q.dst == dead || q.dst == ill && q.sequence == 0 || q.dst == fine && gone.Load() {
			return
		}
		echoes(p, q)
	})
	p := quick(Options{})
	r := request(4)
	r.Survey, r.Tests[0].Timeout = true, 300*time.Millisecond
	before := p.Probe(t.Context(), r)
	if before.Verdict != Failed {
		t.Errorf("without a baseline: %s", before.Verdict)
	}
	// It survives the store.
	b, err := json.Marshal(before.Baseline())
	if err != nil {
		t.Fatal(err)
	}
	r.Survey = false
	if err := json.Unmarshal(b, &r.Baseline); err != nil {
		t.Fatal(err)
	}
	if n := len(r.Baseline["ping overlay 127.91.0.2"]); n != 2 {
		t.Errorf("the baseline is %s", b)
	}
	res := p.Probe(t.Context(), r)
	if c := res.Tests[0]; res.Verdict != Passed || c.Dead != 1 || c.Answers[1].Before != 100 || c.Answers[1].Loss != 100 {
		t.Errorf("%s: %s %+v", res.Verdict, res.Reason, c)
	}
	gone.Store(true)
	res = p.Probe(t.Context(), r)
	if c := res.Tests[0]; res.Verdict != Failed || c.Failed != 1 || !strings.Contains(res.Reason, "10.0.0.4 (vm-3), a peer, answered 0 of 3") {
		t.Errorf("%s: %s %+v", res.Verdict, res.Reason, c)
	}
	// One who was ill and is dead now is worse.
	r.Baseline["ping overlay 127.91.0.2"][fine] = 34
	if res = p.Probe(t.Context(), r); res.Verdict != Failed || !strings.Contains(res.Reason, "lost 34% before") {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
}

// TestNothingAlive is a check that can say nothing.
func TestNothingAlive(t *testing.T) {
	newPeer(t, testVIP, func(*peer, packet) {})
	p := quick(Options{})
	r := request(3)
	r.Tests[0].Timeout = 50 * time.Millisecond
	r.Baseline = p.Probe(t.Context(), r).Baseline()
	if res := p.Probe(t.Context(), r); res.Verdict != Unknown || !res.Tests[0].Blind || res.Tests[0].Dead != 3 {
		t.Errorf("%s: %s", res.Verdict, res.Reason)
	}
}

// TestOneSocket has verifications of VPCs with the same addresses at the same time.
func TestOneSocket(t *testing.T) {
	newPeer(t, testVIP, func(p *peer, q packet) {
		if q.vni != 7 || q.dst != sick {
			echoes(p, q)
		}
	})
	p := quick(Options{})
	var all sync.WaitGroup
	for vni := range schema.VNI(20) {
		all.Go(func() {
			r := request(20)
			r.VNI, r.Tests[0].Timeout = vni, time.Second
			want := Passed
			if vni == 7 {
				want = Failed
			}
			if res := p.Probe(t.Context(), r); res.Verdict != want {
				t.Errorf("VNI %d: %s: %s", vni, res.Verdict, res.Reason)
			}
		})
	}
	all.Wait()
	if len(p.sockets) != 0 {
		t.Error("a socket was left open")
	}
}

// TestUnknown is what could not be found out: it neither passes nor is blamed.
func TestUnknown(t *testing.T) {
	newPeer(t, testVIP, func(*peer, packet) {})
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("a newer commit came"))
	other := func(change func(*Request)) Request { r := request(2); change(&r); return r }
	for _, c := range []struct {
		name string
		ctx  context.Context
		opt  Options
		r    Request
		want string
	}{
		{"no test", nil, Options{}, other(func(r *Request) { r.Tests = nil }), "there is no test"},
		{"no monitor", nil, Options{}, other(func(r *Request) { r.Monitor = nil }), "has no monitor to ping from"},
		{"no target", nil, Options{}, other(func(r *Request) { r.Targets = nil }), "there is no address to probe"},
		{"other family", nil, Options{}, other(func(r *Request) { r.Monitor, r.Targets[0].Moved = monitor("fd00::1"), false }), "2 of another IP version than the monitor"},
		{"only peers", nil, Options{}, other(func(r *Request) { r.Targets[0].Address = netip.MustParseAddr("fd00::1") }), "none of the 1 moved addresses has the IP version of the monitor's address 10.0.255.254"},
		{"VIP of another family", nil, Options{}, other(func(r *Request) { r.Tests[0].VIP = netip.IPv6LinkLocalAllNodes() }), "of another IP version"},
		{"too many", nil, Options{}, request(MaxTargets + 1), "there are 10001 addresses; a probe tests at most 10000"},
		{"no time limit", nil, Options{}, other(func(r *Request) { r.Tests[0].Timeout = 0 }), "no time limit"},
		{"no kind", nil, Options{}, other(func(r *Request) { r.Tests[0].Kind = "fax" }), `"fax" is not a kind of test`},
		{"VTEP is elsewhere", nil, Options{}, other(func(r *Request) { r.Monitor.VTEP.Addr = netip.MustParseAddr("192.0.2.77") }), "it must be an address of the daemon's host"},
		{"VTEP is taken", nil, Options{}, other(func(r *Request) { r.Monitor.VTEP.Addr = testVIP }), "cannot receive VXLAN at the monitor's VTEP 127.91.0.2: address already in use"},
		{"cancelled", ended, Options{}, request(2), "a newer commit came"},
		{"hangs", nil, Options{Limit: 50 * time.Millisecond}, request(2), "took longer than 50ms"},
		{"too slow", nil, Options{Limit: time.Second, Rate: 1}, request(200), "the probe would take too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ctx == nil {
				c.ctx = t.Context()
			}
			p := quick(c.opt)
			res := p.Probe(c.ctx, c.r)
			if res.Verdict != Unknown || !strings.Contains(res.Reason, c.want) {
				t.Errorf("%s: %s", res.Verdict, res.Reason)
			}
			for _, out := range res.Tests {
				if out.Failed > 0 || len(res.Baseline()) > 0 {
					t.Errorf("%+v", out)
				}
			}
			if len(p.sockets) != 0 {
				t.Error("a socket was left open")
			}
		})
	}
}

// TestOwnDrops holds that a full receive buffer is seen, as it would look like loss.
func TestOwnDrops(t *testing.T) {
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n := dropped(c); n != 0 {
		t.Fatalf("%d packets were dropped before any came", n)
	}
	_ = c.SetReadBuffer(1)
	for range 100 {
		if _, err := c.WriteTo(make([]byte, 1000), c.LocalAddr()); err != nil {
			t.Fatal(err)
		}
	}
	if n := dropped(c); n < 50 || n > 100 {
		t.Errorf("%d of 100 packets were dropped, by what the socket says", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, to := range []string{"10.0.0.1", "fd00::1"} {
		a := netip.MustParseAddr(to)
		e := echo{vni: 1001, src: a, dst: a, sequence: 7, tag: tag{run: 1 << 60, target: 3, sent: 5}}
		f.Add(dissect(e.append(nil), netip.AddrPort{}).answer())
		f.Add(e.append(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := parse(b)
		if !ok {
			return
		}
		// What is read is what a request of the same fields would bring back.
		again, ok := parse(dissect((&echo{vni: e.vni, src: e.dst, dst: e.src, srcMAC: e.dstMAC, dstMAC: e.srcMAC, sequence: e.sequence, tag: e.tag}).append(nil), netip.AddrPort{}).answer())
		if !ok || again != e {
			t.Errorf("%v is read, %v comes back", fmt.Sprint(e), fmt.Sprint(again))
		}
	})
}
