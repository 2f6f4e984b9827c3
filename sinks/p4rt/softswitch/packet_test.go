package softswitch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"slices"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// packet is a frame and its egress port, or why it is dropped. The gateway does not look
// at the last rest bytes of the frame.
type packet struct {
	name  string
	frame []byte
	port  uint32
	drop  dropReason
	rest  int
}

func inner4(src, dst string, l4 ...[]byte) []byte {
	return eth(typeIPv4, v4(src, dst, protoTCP, l4...))
}

func inner6(src, dst string, l4 ...[]byte) []byte {
	return eth(typeIPv6, v6(src, dst, protoTCP, l4...))
}

// in4 and in6 carry an inner frame to a VIP.
func in4(vni uint32, inner []byte) []byte {
	return eth(typeIPv4, v4("198.51.100.1", vip4, protoUDP, vxlan(vni, inner)))
}

func in6(vni uint32, inner []byte) []byte {
	return eth(typeIPv6, v6("2001:db8::99", vip6, protoUDP, vxlan(vni, inner)))
}

// packets are frames of every kind that the parser tells apart.
func packets() []packet {
	flow, plain := tcp(40001, 443), tcp(1, 2)
	udpIn := func(dst string, l4 ...[]byte) []byte {
		return eth(typeIPv4, v4("10.0.0.5", dst, protoUDP, l4...))
	}
	return []packet{
		{"flow", in4(1001, inner4("10.0.0.5", "10.0.0.6", flow)), flowPool, 0, 16},
		{"flow, last port", in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40009, 443))), flowPool, 0, 16},
		{"port before the flow", in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(39999, 443))), srcPool, 0, 16},
		{"port after the flow", in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40010, 443))), srcPool, 0, 16},
		{"flow of another protocol", in4(1001, udpIn("10.0.0.6", udp(40001, 443))), srcPool, 0, 4},
		{"source VM before destination VM", in4(1001, inner4("10.0.0.5", "10.0.0.6", plain)), srcPool, 0, 16},
		{"destination VM", in4(1001, inner4("10.0.0.9", "10.0.0.6", plain)), dstPool, 0, 16},
		{"VPC", in4(1001, inner4("10.0.0.9", "10.0.0.8", plain)), vpcPool, 0, 16},
		{"another VPC", in4(1002, inner4("10.0.0.5", "10.0.0.6", flow)), defaultPool, 0, 16},
		{"largest VNI", in4(1<<24-1, inner4("10.0.0.5", "10.0.0.6", flow)), defaultPool, 0, 16},
		{"inner IPv6, flow", in4(1001, inner6("fd00::5", "fd00::6", flow)), flowPool, 0, 16},
		{"inner IPv6, source", in4(1001, inner6("fd00::5", "fd00::6", plain)), srcPool, 0, 16},
		{"inner IPv6, destination", in4(1001, inner6("fd00::1", "fd00::6", plain)), dstPool, 0, 16},
		{"inner IPv6, VPC", in4(1001, inner6("fd00::1", "fd00::2", plain)), vpcPool, 0, 16},
		{"outer IPv6", in6(1001, inner4("10.0.0.5", "10.0.0.6", flow)), flowPool, 0, 16},
		{"both IPv6", in6(1001, inner6("fd00::5", "fd00::6", flow)), flowPool, 0, 16},
		{"inner ARP has its VPC only", in4(1001, eth(0x0806, filled(28, 1))), vpcPool, 0, 28},
		{"inner VLAN has its VPC only", in4(1001, tagged(9, inner4("10.0.0.5", "10.0.0.6", flow))), vpcPool, 0, 44},
		{"inner ICMP has no ports", in4(1001, eth(typeIPv4, v4("10.0.0.5", "10.0.0.6", 1, filled(8, 0)))), srcPool, 0, 8},
		{"inner IPv6 extension has no ports", in4(1001, eth(typeIPv6, v6("fd00::5", "fd00::6", 0, filled(8, 0), flow))), srcPool, 0, 28},
		{"inner options", in4(1001, eth(typeIPv4, options(10, v4("10.0.0.5", "10.0.0.6", protoTCP, flow)))), flowPool, 0, 16},
		{"inner first fragment", in4(1001, eth(typeIPv4, fragment(true, 0, v4("10.0.0.5", "10.0.0.6", protoTCP, flow)))), flowPool, 0, 16},
		{"inner later fragment has no ports", in4(1001, eth(typeIPv4, fragment(true, 185, v4("10.0.0.5", "10.0.0.6", protoTCP, flow)))), srcPool, 0, 20},
		{"inner last fragment of 3 bytes", in4(1001, eth(typeIPv4, fragment(false, 185, v4("10.0.0.5", "10.0.0.6", protoTCP, filled(3, 0))))), srcPool, 0, 3},

		{"VLAN", tagged(100, in4(1001, inner4("10.0.0.5", "10.0.0.6", flow))), flowPool, 0, 16},
		{"VLAN and IPv6", tagged(0xffff, in6(1001, inner6("fd00::5", "fd00::6", flow))), flowPool, 0, 16},
		{"two VLAN tags", tagged(1, tagged(2, in4(1001, inner4("10.0.0.5", "10.0.0.6", flow)))), 0, dropNoVIP, 0},
		{"options", eth(typeIPv4, options(3, v4("198.51.100.1", vip4, protoUDP, vxlan(1001, inner4("10.0.0.5", "10.0.0.6", flow))))), flowPool, 0, 16},
		{"first fragment", eth(typeIPv4, fragment(true, 0, v4("198.51.100.1", vip4, protoUDP, vxlan(1001, inner4("10.0.0.5", "10.0.0.6", flow))))), flowPool, 0, 16},
		{"later fragment is plain", eth(typeIPv4, fragment(true, 1, v4("198.51.100.1", vip4, protoUDP, vxlan(1001, inner4("10.0.0.5", "10.0.0.6", flow))))), defaultPool, 0, 70},
		{"plain UDP", eth(typeIPv4, v4("10.0.0.5", vip4, protoUDP, udp(40001, 443))), defaultPool, 0, 0},
		{"plain TCP", eth(typeIPv4, v4("10.0.0.5", vip4, protoTCP, flow)), defaultPool, 0, 0},
		{"plain ICMP without payload", eth(typeIPv4, v4("10.0.0.5", vip4, 1)), defaultPool, 0, 0},
		{"plain IPv6", eth(typeIPv6, v6("fd00::5", vip6, protoTCP, flow)), defaultPool, 0, 0},
		{"plain ICMPv6", eth(typeIPv6, v6("fd00::5", vip6, protoICMP6, filled(8, 0))), defaultPool, 0, 4},
		{"plain IPv6 without next header", eth(typeIPv6, v6("fd00::5", vip6, 59)), defaultPool, 0, 0},
		{"VXLAN source port is none", eth(typeIPv4, v4("198.51.100.1", vip4, protoUDP, udp(portVXLAN, 9))), defaultPool, 0, 0},

		{"no VIP", eth(typeIPv4, v4("10.0.0.5", "203.0.113.11", protoTCP, flow)), 0, dropNoVIP, 0},
		{"no IPv6 VIP", eth(typeIPv6, v6("fd00::5", "2001:db8::11", protoTCP, flow)), 0, dropNoVIP, 0},
		{"ARP", eth(0x0806, filled(28, 0)), 0, dropNoVIP, 0},
		{"version 5", eth(typeIPv4, bytesOf([]byte{0x55}, v4("10.0.0.5", vip4, protoTCP, flow)[1:])), 0, dropMalformed, 0},
		{"header length 4", eth(typeIPv4, bytesOf([]byte{0x44}, v4("10.0.0.5", vip4, protoTCP, flow)[1:])), 0, dropMalformed, 0},
		{"IPv4 as IPv6", eth(typeIPv6, v4("10.0.0.5", vip4, protoTCP, flow, filled(40, 0))), 0, dropMalformed, 0},
		{"IPv6 as IPv4", eth(typeIPv4, v6("fd00::5", vip6, protoTCP, flow)), 0, dropMalformed, 0},
		{"inner version 0", in4(1001, eth(typeIPv4, filled(20, 0))), 0, dropMalformed, 0},
		{"inner IPv6 of version 4", in4(1001, eth(typeIPv6, filled(40, 0x40))), 0, dropMalformed, 0},
	}
}

// TestPackets sends frames through the gateway: they leave by the right port with their
// next hop set, and are otherwise unchanged.
func TestPackets(t *testing.T) {
	s := New(device)
	if err := s.load(gateway()...); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets() {
		before := s.Stats()
		frame := bytes.Clone(p.frame)
		port, out, ok := s.Process(frame)
		if !ok {
			name := dropNames[p.drop]
			if p.port != 0 || s.Stats().Dropped[name] != before.Dropped[name]+1 {
				t.Errorf("%s: dropped %v, want port %d or reason %q", p.name, s.Stats().Dropped, p.port, name)
			}
			continue
		}
		want := forwarded(p.frame, p.port)
		if port != p.port || !bytes.Equal(out, want) {
			t.Errorf("%s: port %d, want %d\n got %x\nwant %x", p.name, port, p.port, out, want)
		}
	}
}

// forwarded is a frame with its next hop.
func forwarded(frame []byte, port uint32) []byte {
	f := bytes.Clone(frame)
	copy(f, []byte{10, 0, 0, 0, 0, byte(port), 11, 0, 0, 0, 0, 0})
	return f
}

// TestTruncated truncates every frame at every byte. If a header that is read is
// truncated, the frame is dropped and counted; else it leaves as before.
func TestTruncated(t *testing.T) {
	s := New(device)
	if err := s.load(gateway()...); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets() {
		for n := range len(p.frame) {
			before := s.Stats().Dropped
			port, _, ok := s.Process(bytes.Clone(p.frame[:n:n]))
			whole := n >= len(p.frame)-p.rest
			switch {
			case p.port == 0:
				if ok || total(s.Stats().Dropped) != total(before)+1 {
					t.Errorf("%s, %d of %d bytes: port %d, or not counted", p.name, n, len(p.frame), port)
				}
			case whole && (!ok || port != p.port):
				t.Errorf("%s, %d of %d bytes, all headers: port %d, sent %t", p.name, n, len(p.frame), port, ok)
			case !whole && (ok || s.Stats().Dropped["truncated"] != before["truncated"]+1):
				t.Errorf("%s, %d of %d bytes: port %d, sent %t, or not counted", p.name, n, len(p.frame), port, ok)
			}
		}
	}
}

func total(dropped map[string]uint64) (n uint64) {
	for _, v := range dropped {
		n += v
	}
	return n
}

// TestDrops removes one part of the gateway at a time.
func TestDrops(t *testing.T) {
	frame := in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443)))
	without := func(drop func(*p4v1.TableEntry) bool) []*p4v1.TableEntry {
		return slices.DeleteFunc(gateway(), drop)
	}
	ofTable := func(id uint32) []*p4v1.TableEntry {
		return without(func(e *p4v1.TableEntry) bool { return e.GetTableId() == id })
	}
	for name, entries := range map[string][]*p4v1.TableEntry{
		"no VIP":          ofTable(pipeline.TableVIPv4),
		"no hash profile": ofTable(pipeline.TableHashProfile),
		"no pool":         ofTable(pipeline.TablePool),
		"no bucket":       ofTable(pipeline.TableBucket),
		"no backend":      ofTable(pipeline.TableBackend),
		"no port":         gateway(),
	} {
		s := New(device)
		if err := s.load(entries...); err != nil {
			t.Fatal(err)
		}
		if s.Inject(bytes.Clone(frame)) || s.Stats().Dropped[name] != 1 || s.Stats().Forwarded != 0 {
			t.Errorf("%s: %+v", name, s.Stats())
		}
	}
	s := New(device)
	if s.Inject(bytes.Clone(frame)) || s.Stats().Dropped["no pipeline"] != 1 {
		t.Errorf("no pipeline: %+v", s.Stats())
	}
	if err := s.load(gateway()...); err != nil {
		t.Fatal(err)
	}
	if err := s.attach(flowPool, port{send: func(_, _ []byte) error { return fmt.Errorf("too long") }, close: func() error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if s.Inject(bytes.Clone(frame)) || s.Stats().Dropped["not sent"] != 1 || s.Stats().Forwarded != 0 {
		t.Errorf("not sent: %+v", s.Stats())
	}
	if err := s.Attach(flowPool, func([]byte) {}); err == nil {
		t.Error("a port was attached twice")
	}
	if err := s.Attach(vpcPool, func(f []byte) { frame = f }); err != nil {
		t.Fatal(err)
	}
	if !s.Inject(in4(1001, inner4("10.0.0.1", "10.0.0.2", tcp(1, 2)))) || s.Stats().Forwarded != 1 || frame[5] != vpcPool {
		t.Errorf("sent %x, %+v", frame, s.Stats())
	}
}

// TestHash compares the bucket with CRC32 over the fields of a profile.
func TestHash(t *testing.T) {
	s := New(device)
	entries := slices.DeleteFunc(gateway(), func(e *p4v1.TableEntry) bool {
		return e.GetTableId() == pipeline.TableHashProfile || e.GetTableId() == pipeline.TableBucket || e.GetTableId() == pipeline.TablePool
	})
	entries = append(entries,
		tableEntry(pipeline.TableHashProfile, action(pipeline.ActionSetMasks, num(0xffffff), num(0xffffffff), num(0), num(255), num(0), num(0xff)), exact(1, num(1))),
		tableEntry(pipeline.TablePool, action(pipeline.ActionSetGeneration, num(0), num(3)), exact(1, num(defaultPool))))
	for hash := range uint64(4) {
		entries = append(entries, tableEntry(pipeline.TableBucket, action(pipeline.ActionSetBackend, num(hash+1)), exact(1, num(defaultPool)), exact(2, num(0)), exact(3, num(hash))))
	}
	if err := s.load(entries...); err != nil {
		t.Fatal(err)
	}
	seen := map[uint32]int{}
	for i := range uint32(200) {
		src := fmt.Sprintf("10.1.%d.%d", i/7, i)
		port, _, ok := s.Process(in4(2000+i, inner4(src, "10.0.0.6", tcp(uint16(i*31), uint16(i*257)))))
		h := binary.BigEndian.AppendUint32(nil, 2000+i)[1:]
		h = append(h, 10, 1, byte(i/7), byte(i), 0, 0, 0, 0, protoTCP, 0, 0, 0, byte(i*257))
		if want := crc32.ChecksumIEEE(h)&3 + 1; !ok || port != want {
			t.Fatalf("packet %d: port %d, want %d", i, port, want)
		}
		seen[port]++
		// IPv6 addresses are folded to 32 bits.
		v6src := fmt.Sprintf("fd00:1:2:3:4:5:6:%x", i)
		port, _, ok = s.Process(in4(2000+i, inner6(v6src, "fd00::1", tcp(0, 0))))
		h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 2000+i)[1:], 0xfd000001^0x00020003^0x00040005^(0x00060000|i))
		h = append(h, 0, 0, 0, 0, protoTCP, 0, 0, 0, 0)
		if want := crc32.ChecksumIEEE(h)&3 + 1; !ok || port != want {
			t.Fatalf("IPv6 packet %d: port %d, want %d", i, port, want)
		}
	}
	if len(seen) != 4 {
		t.Errorf("ports %v, want all four", seen)
	}
}
