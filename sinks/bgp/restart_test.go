package bgp

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/tools/testnet"
)

// speakerProcess in the environment makes the test binary a speaker, so that it
// can be killed: "local neighbor neighbor".
const speakerProcess = "GRAY_TEST_SPEAKER"

func TestMain(m *testing.M) {
	if config := os.Getenv(speakerProcess); config != "" {
		if err := speak(config); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	testnet.Enter()
	code := m.Run()
	// Where a session ends while messages are in its queue, GoBGP may leave the goroutine
	// of the queue: it drains a queue that is still being filled only once.
	if left := goroutines("osrg/gobgp"); left != "" {
		fmt.Printf("after all tests there are goroutines of GoBGP:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// speak starts a speaker, prints how its session stands, announces a VIP when it
// reads a line, and ends at SIGTERM as the daemon does.
func speak(config string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var addresses []netip.Addr
	for word := range strings.FieldsSeq(config) {
		addresses = append(addresses, netip.MustParseAddr(word))
	}
	s := New(Config{})
	put := func(k reconciler.Key, b reconciler.Body) error {
		return s.Apply(context.Background(), nil, []reconciler.Change{{New: &reconciler.Resource{Key: k, Body: b}}})
	}
	self := &targetBody{asn: 64512, routerID: netip.MustParseAddr("192.0.2.1")}
	if err := put(reconciler.Key{Target: target, Kind: reconciler.KindTarget}, self); err != nil {
		return err
	}
	for _, a := range addresses[1:] {
		if err := put(neighborKey(target, a), &neighborBody{address: a, local: addresses[0], asn: 64500}); err != nil {
			return err
		}
	}
	fmt.Println(s.Neighbors()[0].State)
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for _, p := range []*pathBody{vip("203.0.113.10/32"), vip("2001:db8::10/128")} {
		if err := put(pathKey(target, p.prefix), p); err != nil {
			return err
		}
	}
	<-stop
	return s.Close()
}

// speakerIn runs a speaker in a process of its own. It answers when it has
// started; announce has it announce.
type speakerIn struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Writer
}

func startSpeaker(t *testing.T, routers *bothRouters) *speakerIn {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	addresses := fmt.Sprint(append([]netip.Addr{routers.speaker}, routers.addresses()...))
	cmd.Env = append(os.Environ(), speakerProcess+"="+strings.Trim(addresses, "[]"))
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &speakerIn{t, cmd, stdin}
	t.Cleanup(func() { s.end(syscall.SIGKILL) })
	state, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || strings.TrimSpace(state) != stateWaiting {
		t.Fatalf("a speaker without paths has its session %q (error %v), want it to wait for them", state, err)
	}
	return s
}

func (s *speakerIn) announce() {
	s.t.Helper()
	if _, err := io.WriteString(s.stdin, "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// end ends the process by a signal and waits for it.
func (s *speakerIn) end(by os.Signal) {
	_ = s.cmd.Process.Signal(by)
	_ = s.cmd.Wait()
}

// A daemon that restarts, whether it was ended or killed, is not noticed by what
// goes through the routers.
func TestRoutersKeepRoutesOverARestart(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]os.Signal{"ended": syscall.SIGTERM, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			routers := startRouters(t)
			first := startSpeaker(t, routers)
			first.announce()
			routers.have("the VIPs are there", fresh)
			first.end(by)
			routers.until("it keeps the routes", func(r router, _ netip.Addr) bool { return look(t, r).stale })
			second := startSpeaker(t, routers)
			second.announce()
			routers.stay()
		})
	}
}

var fresh = map[string]route{"203.0.113.10/32": {nextHop: "192.0.2.1"}, "2001:db8::10/128": {nextHop: "2001:db8::1"}}

// look is how a router has the IPv4 VIP; it fails the test where a VIP is gone.
func look(t *testing.T, r router) route {
	t.Helper()
	got := r.routes(t)
	if len(got) != 2 {
		t.Fatalf("%s has %v; a VIP is gone", r.name(), got)
	}
	return got["203.0.113.10/32"]
}

// stay waits until both routers have the VIPs as they were, and fails the test
// where one of them was gone for a moment. BIRD logs each removal.
func (b *bothRouters) stay() {
	b.t.Helper()
	until(b.t, "the routes are as before", func() bool {
		f, b := look(b.t, b.frr), look(b.t, b.bird)
		return f == fresh["203.0.113.10/32"] && b == f
	})
	if strings.Contains(b.bird.log.String(), "> removed") {
		b.t.Error("BIRD removed a route for a moment")
	}
}

// A session that loses its connection loses no route either: the first one after
// a start and each one after that say that forwarding goes on.
func TestRoutersKeepRoutesOverALostConnection(t *testing.T) {
	t.Parallel()
	routers := startRouters(t)
	wires := map[router]*wire{routers.frr: middlebox(t, routers.speaker, routers.at[routers.frr]), routers.bird: middlebox(t, routers.speaker, routers.at[routers.bird])}
	rig := newRig(t, "")
	rig.speak(loopback(), wires[routers.frr].address, wires[routers.bird].address)
	rig.want(vip("203.0.113.10/32"), vip("2001:db8::10/128"))
	rig.settle()
	routers.have("the VIPs are there", fresh)
	for range 2 {
		before := map[*wire]time.Time{}
		for _, w := range wires {
			before[w] = rig.neighbor(w.address).LastErrorAt
			w.off()
		}
		for _, w := range wires {
			until(t, "the session fell and is back", func() bool {
				n := rig.neighbor(w.address)
				return n.State == stateEstablished && n.LastErrorAt.After(before[w])
			})
		}
		routers.stay()
	}
	for _, w := range wires {
		if got := rig.neighbor(w.address).LastError; got != "the connection was lost" {
			t.Errorf("the last error is %q", got)
		}
		for i, open := range w.opened() {
			if !forwarding(open) {
				t.Errorf("OPEN %d does not say that forwarding goes on: %v", i, open)
			}
		}
	}
}

// forwarding tells whether an OPEN says that forwarding was preserved, of both
// families.
func forwarding(open *packet.BGPOpen) bool {
	families := 0
	for _, p := range open.OptParams {
		o, _ := p.(*packet.OptionParameterCapability)
		for _, c := range o.Capability {
			if gr, ok := c.(*packet.CapGracefulRestart); ok {
				for _, tuple := range gr.Tuples {
					if tuple.Flags&0x80 != 0 {
						families++
					}
				}
			}
		}
	}
	return families == 2
}

// wire is a TCP connection to a router that can be cut.
type wire struct {
	address netip.Addr
	mu      sync.Mutex
	ends    []net.Conn
	opens   []*packet.BGPOpen // that the speaker sent
}

// middlebox listens as if it were a router, and speaks to it as the speaker.
func middlebox(t *testing.T, speaker, router netip.Addr) *wire {
	t.Helper()
	w := &wire{address: loopback()}
	l, err := net.Listen("tcp", net.JoinHostPort(w.address.String(), "179"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); w.off(); all.Wait() })
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(speaker, 0))}
			out, err := d.Dial("tcp", net.JoinHostPort(router.String(), "179"))
			if err != nil {
				in.Close()
				continue
			}
			w.mu.Lock()
			w.ends = append(w.ends, in, out)
			w.mu.Unlock()
			if err := w.first(in, out); err != nil {
				in.Close()
				out.Close()
				continue
			}
			for _, ends := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					_, _ = io.Copy(ends[0], ends[1])
					ends[0].Close()
				})
			}
		}
	})
	return w
}

// first passes the first message on, which is the speaker's OPEN.
func (w *wire) first(in, out net.Conn) error {
	header := make([]byte, packet.BGP_HEADER_LENGTH)
	if _, err := io.ReadFull(in, header); err != nil {
		return err
	}
	body := make([]byte, int(binary.BigEndian.Uint16(header[16:]))-len(header))
	if _, err := io.ReadFull(in, body); err != nil {
		return err
	}
	m, err := packet.ParseBGPMessage(append(header, body...))
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.opens = append(w.opens, m.Body.(*packet.BGPOpen))
	w.mu.Unlock()
	_, err = out.Write(append(header, body...))
	return err
}

// opened is all OPENs so far.
func (w *wire) opened() []*packet.BGPOpen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.opens)
}

// off cuts the connections that there are.
func (w *wire) off() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.ends {
		c.Close()
	}
	w.ends = nil
}
