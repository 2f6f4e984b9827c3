package softswitch

import (
	"encoding/binary"
	"net/netip"
	"slices"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Frames are put together from the inside out: each function puts its header
// before what it carries.

func bytesOf(parts ...[]byte) []byte { return slices.Concat(parts...) }

func eth(etherType uint16, payload ...[]byte) []byte {
	h := make([]byte, 14)
	copy(h, []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2})
	binary.BigEndian.PutUint16(h[12:], etherType)
	return bytesOf(h, bytesOf(payload...))
}

// tagged puts a VLAN tag into a frame.
func tagged(tci uint16, frame []byte) []byte {
	tag := binary.BigEndian.AppendUint16([]byte{0x81, 0}, tci)
	return bytesOf(frame[:12], tag, frame[12:])
}

// v4 is an IPv4 header; its checksum is left wrong, as nobody looks at it. See
// summed for one that is right.
func v4(src, dst string, protocol uint8, payload ...[]byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	a, b := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(h[12:], a[:])
	copy(h[16:], b[:])
	p := bytesOf(payload...)
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(p)))
	return bytesOf(h, p)
}

// options puts so many words of options into an IPv4 packet.
func options(words int, packet []byte) []byte {
	p := bytesOf(packet[:20], filled(words*4, 1), packet[20:])
	p[0] = 0x40 | byte(5+words)
	return p
}

// fragment sets the more-fragments flag and the offset, in units of 8 bytes.
func fragment(more bool, offset uint16, packet []byte) []byte {
	if more {
		offset |= 0x2000
	}
	binary.BigEndian.PutUint16(packet[6:], offset)
	return packet
}

func v6(src, dst string, next uint8, payload ...[]byte) []byte {
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, next, 64
	a, b := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(h[8:], a[:])
	copy(h[24:], b[:])
	p := bytesOf(payload...)
	binary.BigEndian.PutUint16(h[4:], uint16(len(p)))
	return bytesOf(h, p)
}

func udp(src, dst uint16, payload ...[]byte) []byte {
	h := make([]byte, 8)
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
	h[6], h[7] = 0xbe, 0xef
	return bytesOf(h, bytesOf(payload...))
}

func tcp(src, dst uint16) []byte {
	h := make([]byte, 20)
	binary.BigEndian.PutUint16(h, src)
	binary.BigEndian.PutUint16(h[2:], dst)
	return h
}

// vxlan carries a frame in the VPC of a VNI, with its UDP header.
func vxlan(vni uint32, frame []byte) []byte {
	h := make([]byte, 8)
	h[0] = 8
	binary.BigEndian.PutUint32(h[4:], vni<<8)
	return udp(50000, portVXLAN, h, frame)
}

func filled(n int, v byte) []byte { return slices.Repeat([]byte{v}, n) }

// The gateway that the packets are for.
const (
	vip4 = "203.0.113.10"
	vip6 = "2001:db8::10"
	// Pools 1 to 5 have one backend each, which leaves by the port of that number.
	defaultPool, flowPool, srcPool, dstPool, vpcPool = 1, 2, 3, 4, 5
)

// gateway makes the entries of a gateway with VIPs of both families: VPC 1001 is
// gray, its address .5 as source and .6 as destination go elsewhere, and so does
// TCP from ports 40000 to 40009 to 443.
func gateway() []*p4v1.TableEntry {
	var all []*p4v1.TableEntry
	for pool := uint64(1); pool <= 5; pool++ {
		all = append(all,
			tableEntry(pipeline.TableBackend, action(pipeline.ActionForwardMAC, num(0x0a0000000000+pool), num(0x0b0000000000), num(pool)), exact(1, num(pool))),
			tableEntry(pipeline.TablePool, action(pipeline.ActionSetGeneration, num(1), num(3)), exact(1, num(pool))))
		for hash := range uint64(4) {
			all = append(all, tableEntry(pipeline.TableBucket, action(pipeline.ActionSetBackend, num(pool)), exact(1, num(pool)), exact(2, num(1)), exact(3, num(hash))))
		}
	}
	all = append(all,
		tableEntry(pipeline.TableHashProfile, action(pipeline.ActionSetMasks, num(1<<24-1), num(1<<32-1), num(1<<32-1), num(255), num(65535), num(65535)), exact(1, num(1))),
		vpc(1, 1001, vpcPool))
	families := []struct {
		vip, flow, src, dst uint32
		addr, a, b          string
		bits                int
	}{
		{pipeline.TableVIPv4, pipeline.TableFlowV4, pipeline.TableVMSrcV4, pipeline.TableVMDstV4, vip4, "10.0.0.5", "10.0.0.6", 32},
		{pipeline.TableVIPv6, pipeline.TableFlowV6, pipeline.TableVMSrcV6, pipeline.TableVMDstV6, vip6, "fd00::5", "fd00::6", 128},
	}
	for _, f := range families {
		addr := func(s string) []byte { return pipeline.FromAddr(netip.MustParseAddr(s)) }
		rule := tableEntry(f.flow, action(ruleAction(f.flow), num(flowPool)),
			exact(1, num(1)), ternary(2, num(1001), num(1<<24-1)), ternary(3, addr(f.a), pipeline.Ones(f.bits)), ternary(5, num(6), num(255)),
			between(6, num(40000), num(40009)), between(7, num(443), num(443)))
		rule.Priority = 10
		all = append(all, rule,
			tableEntry(f.vip, action(pipeline.ActionSetVIP, num(1), num(defaultPool), num(1)), exact(1, addr(f.addr))),
			tableEntry(f.src, action(ruleAction(f.src), num(srcPool)), exact(1, num(1)), exact(2, num(1001)), exact(3, addr(f.a))),
			tableEntry(f.dst, action(ruleAction(f.dst), num(dstPool)), exact(1, num(1)), exact(2, num(1001)), exact(3, addr(f.b))))
	}
	return all
}

// ruleAction is the one action that entries of a rule table have.
func ruleAction(table uint32) uint32 {
	for id, a := range pipeline.Index().Tables[table].Actions {
		if !a.DefaultOnly {
			return id
		}
	}
	return 0
}

// load puts entries on the switch without a server.
func (s *Switch) load(entries ...*p4v1.TableEntry) error {
	p := newProgram(&p4v1.ForwardingPipelineConfig{P4Info: pipeline.V1Model().P4Info})
	for _, e := range entries {
		if err := p.update(insert(e)); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.commit(p)
	s.mu.Unlock()
	return nil
}
