package softswitch

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// summed is a copy of an IP packet with its checksums made from scratch: the
// IPv4 header's and, where what it carries starts with one over the addresses,
// that too. A UDP checksum of 0 stays.
func summed(packet []byte) []byte {
	p := bytes.Clone(packet)
	at, next, addresses := 40, p[6], p[8:]
	if p[0]>>4 == 4 {
		at, next, addresses = int(p[0]&15)*4, p[9], p[12:20]
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], rfc1071(p[:at]))
		if binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
			return p
		}
	}
	l4 := p[at:]
	field := map[byte]int{protoTCP: 16, protoUDP: 6, protoICMP6: 2}[next]
	if field == 0 || next == protoUDP && l4[6]|l4[7] == 0 {
		return p
	}
	if p[0]>>4 == 6 {
		addresses = addresses[:32]
	}
	l4[field], l4[field+1] = 0, 0
	sum := rfc1071(bytesOf(addresses, []byte{0, 0, 0, next}, binary.BigEndian.AppendUint32(nil, uint32(len(l4))), l4))
	if sum == 0 && next == protoUDP {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(l4[field:], sum)
	return p
}

// rfc1071 is the checksum, straight from the book.
func rfc1071(h []byte) uint16 {
	sum := uint64(0)
	for i, b := range h {
		sum += uint64(b) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// withoutSum is UDP whose sender made no checksum.
func withoutSum(udp []byte) []byte {
	udp[6], udp[7] = 0, 0
	return udp
}

// readdressed is an IP packet for another destination.
func readdressed(packet []byte, to netip.Addr) []byte {
	p := bytes.Clone(packet)
	if to.Is4() {
		copy(p[16:20], to.AsSlice())
	} else {
		copy(p[24:40], to.AsSlice())
	}
	return p
}

// allOnes gives UDP a payload with which its checksum comes out as 0 under a
// destination, and so is sent as 0xffff.
func allOnes(packet []byte, to netip.Addr) []byte {
	at := len(packet) - 2
	binary.BigEndian.PutUint16(packet[at:], 0)
	sum := summed(readdressed(packet, to))
	copy(packet[at:], sum[at-2:at]) // where udp's checksum is, before two bytes of payload
	return packet
}

// TestAddressRewrite has backends that get the packet under their own address:
// all checksums come out as if made from scratch.
func TestAddressRewrite(t *testing.T) {
	to4, to6 := netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:ffff::9")
	s := New(device)
	if err := s.load(rewriting(to4, to6)...); err != nil {
		t.Fatal(err)
	}
	inner := inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443))
	from4 := func(next uint8, payload ...[]byte) []byte { return v4("10.9.0.1", vip4, next, payload...) }
	from6 := func(next uint8, payload ...[]byte) []byte { return v6("fd09::1", vip6, next, payload...) }
	for _, c := range []struct {
		name   string
		packet []byte
	}{
		{"TCP", from4(protoTCP, tcp(1, 2), filled(3, 7))},
		{"TCP behind options", options(10, from4(protoTCP, tcp(1, 2), filled(3, 7)))},
		{"UDP", from4(protoUDP, udp(1, 2, filled(5, 9)))},
		{"UDP without checksum", from4(protoUDP, withoutSum(udp(1, 2, filled(5, 9))))},
		{"UDP checksum of ones", allOnes(from4(protoUDP, udp(1, 2, filled(2, 0))), to4)},
		{"ICMP", from4(1, filled(8, 1))},
		{"VXLAN", from4(protoUDP, vxlan(1001, inner))},
		{"VXLAN without checksum", from4(protoUDP, withoutSum(vxlan(1001, inner)))},
		{"first fragment", fragment(true, 0, from4(protoTCP, tcp(1, 2), filled(4, 7)))},
		{"later fragment", fragment(false, 5, from4(protoTCP, filled(24, 7)))},
		{"TCP over IPv6", from6(protoTCP, tcp(1, 2), filled(3, 7))},
		{"UDP over IPv6", from6(protoUDP, udp(1, 2, filled(5, 9)))},
		{"UDP checksum of ones over IPv6", allOnes(from6(protoUDP, udp(1, 2, filled(2, 0))), to6)},
		{"ICMPv6", from6(protoICMP6, filled(8, 1))},
		{"other protocol over IPv6", from6(132, filled(20, 1))},
		{"VXLAN over IPv6", from6(protoUDP, vxlan(1001, inner))},
		{"VXLAN without checksum over IPv6", from6(protoUDP, withoutSum(vxlan(1001, inner)))},
	} {
		etherType, to := uint16(typeIPv4), to4
		if c.packet[0]>>4 == 6 {
			etherType, to = typeIPv6, to6
		}
		frame := tagged(5, eth(etherType, summed(c.packet)))
		want := forwarded(tagged(5, eth(etherType, summed(readdressed(c.packet, to)))), defaultPool)
		if _, out, ok := s.Process(frame); !ok || !bytes.Equal(out, want) {
			t.Errorf("%s:\n got %x\nwant %x", c.name, out, want)
		}
		if binary.BigEndian.Uint16(want[len(want)-4:]) != 0xffff && bytes.Contains([]byte(c.name), []byte("ones")) {
			t.Errorf("%s: checksum %x, want ffff", c.name, want[len(want)-4:len(want)-2])
		}
	}
	// An address of the other family is written nowhere.
	if err := s.load(rewriting(to6, to4)...); err != nil {
		t.Fatal(err)
	}
	for _, frame := range [][]byte{eth(typeIPv4, summed(from4(protoTCP, tcp(1, 2)))), eth(typeIPv6, summed(from6(protoTCP, tcp(1, 2))))} {
		want := forwarded(frame, defaultPool)
		if _, out, ok := s.Process(frame); !ok || !bytes.Equal(out, want) {
			t.Errorf("other family:\n got %x\nwant %x", out, want)
		}
	}
}

// rewriting makes the entries of a gateway whose VIPs go to one backend each,
// under its own address.
func rewriting(to4, to6 netip.Addr) []*p4v1.TableEntry {
	entries := slices.DeleteFunc(gateway(), func(e *p4v1.TableEntry) bool {
		switch e.GetTableId() {
		case pipeline.TableBackend, pipeline.TableVIPv6, pipeline.TableVPC, pipeline.TableFlowV4, pipeline.TableVMSrcV4, pipeline.TableVMDstV4:
			return true
		}
		return false
	})
	for i, to := range []netip.Addr{to4, to6} {
		id, act := uint64(1+i), pipeline.ActionForwardIPv4
		if to.Is6() {
			act = pipeline.ActionForwardIPv6
		}
		entries = append(entries, tableEntry(pipeline.TableBackend,
			action(act, num(0x0a0000000001), num(0x0b0000000000), num(defaultPool), pipeline.FromAddr(to)), exact(1, num(id))))
	}
	return append(entries, tableEntry(pipeline.TableVIPv6, action(pipeline.ActionSetVIP, num(1), num(2), num(1)),
		exact(1, pipeline.FromAddr(netip.MustParseAddr(vip6)))))
}
