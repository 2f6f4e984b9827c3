package probe

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gray-release/gray/schema"
)

const patience = 10 * time.Second

// The addresses of the tests; all of 127.0.0.0/8 is loopback.
var (
	testVTEP = netip.MustParseAddr("127.91.0.1")
	testVIP  = netip.MustParseAddr("127.91.0.2")
)

// packet is a request as a peer saw it.
type packet struct {
	vni      uint32
	dst, src netip.Addr
	sequence uint16
	mac      schema.MAC // inner destination
	raw      []byte
	from     netip.AddrPort
}

// peer is everything behind a VIP: it takes VXLAN packets at a real UDP socket and
// answers echo requests as it is told, by code of its own.
type peer struct {
	conn *net.UDPConn
	mu   sync.Mutex
	seen []packet
}

// newPeer starts a peer; behave may answer, by reply.
func newPeer(t testing.TB, vip netip.Addr, behave func(p *peer, q packet)) *peer {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(vip, 4789)))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadBuffer(4 << 20)
	p := &peer{conn: conn}
	var done sync.WaitGroup
	done.Go(func() {
		b := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			q := dissect(b[:n], from)
			p.mu.Lock()
			p.seen = append(p.seen, q)
			p.mu.Unlock()
			behave(p, q)
		}
	})
	t.Cleanup(func() { conn.Close(); done.Wait() })
	return p
}

// requests are all that came so far.
func (p *peer) requests() []packet {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// dissect reads a request by its offsets.
func dissect(raw []byte, from netip.AddrPort) packet {
	q := packet{vni: binary.BigEndian.Uint32(raw[4:]) >> 8, mac: schema.MAC(raw[8:14]), raw: append([]byte(nil), raw...), from: from}
	if raw[22]>>4 == 4 {
		q.src, q.dst = netip.AddrFrom4([4]byte(raw[34:38])), netip.AddrFrom4([4]byte(raw[38:42]))
		q.sequence = binary.BigEndian.Uint16(raw[48:])
	} else {
		q.src, q.dst = netip.AddrFrom16([16]byte(raw[30:46])), netip.AddrFrom16([16]byte(raw[46:62]))
		q.sequence = binary.BigEndian.Uint16(raw[68:])
	}
	return q
}

// answer makes the reply to a request: the ends change places, and the checksum is
// mended by the difference of the ICMP types.
func (q packet) answer() []byte {
	b := append([]byte(nil), q.raw...)
	copy(b[8:], q.raw[14:20])
	copy(b[14:], q.raw[8:14])
	at, add := 42, uint32(0x0800) // echo request 8 to reply 0
	if q.dst.Is4() {
		copy(b[34:], q.raw[38:42])
		copy(b[38:], q.raw[34:38])
	} else {
		copy(b[30:], q.raw[46:62])
		copy(b[46:], q.raw[30:46])
		at, add = 62, 0xffff-0x0100 // 128 to 129
	}
	b[at] = 0
	if !q.dst.Is4() {
		b[at] = 129
	}
	s := uint32(binary.BigEndian.Uint16(b[at+2:])) + add
	binary.BigEndian.PutUint16(b[at+2:], uint16(s>>16+s&0xffff))
	return b
}

// reply sends bytes to where a request came from.
func (p *peer) reply(q packet, b []byte) { _, _ = p.conn.WriteToUDPAddrPort(b, q.from) }

// echoes answers everything.
func echoes(p *peer, q packet) { p.reply(q, q.answer()) }

// targets makes n VMs on three hosts, of which the first moved.
func targets(n int, base string) []Target {
	var out []Target
	a := netip.MustParseAddr(base)
	for i := range n {
		out = append(out, Target{
			VM: fmt.Sprintf("vm-%d", i), Address: a, MAC: schema.MAC{2, 0xaa, 0, 0, byte(i >> 8), byte(i)},
			VTEP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i % 3)}), Moved: i == 0,
		})
		a = a.Next()
	}
	return out
}

func monitor(address string) *schema.Monitor {
	return &schema.Monitor{
		Address: schema.Addr{Addr: netip.MustParseAddr(address)}, MAC: schema.MAC{2, 0xaa, 0, 0, 0, 0xfe}, VTEP: schema.Addr{Addr: testVTEP},
	}
}

// request is an overlay ping of n VMs.
func request(n int) Request {
	return Request{
		Policy: "gw-v2", Network: "vpc-1001", VNI: 1001, Monitor: monitor("10.0.255.254"), Targets: targets(n, "10.0.0.1"),
		Tests: []Test{{Kind: PingOverlay, Count: 3, Timeout: patience, VIP: testVIP}},
	}
}

// quick is a prober that does not wait between probes.
func quick(o Options) *Prober {
	o.Interval, o.Pause = time.Millisecond, time.Millisecond
	return New(o)
}
