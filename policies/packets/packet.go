package packets

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strings"
)

// Packet is what the pipeline sees of a packet: the outer destination, and the fields
// for tables and hash. For VXLAN these are the inner fields. For other packets, which
// have VNI 0, they are the outer ones, so Dst is the VIP. A VXLAN packet without IP
// inside has no addresses (the zero Addr, looked up as 0.0.0.0) and no protocol. Ports
// are 0 for protocols other than TCP and UDP, and in later fragments.
type Packet struct {
	VIP              netip.Addr
	VNI              uint32 // 24 bits
	Src, Dst         netip.Addr
	Protocol         uint8
	SrcPort, DstPort uint16
}

// isIPv6 tells whether the packet is looked up in the rule tables of IPv6.
func (p Packet) isIPv6() bool { return p.Src.Is6() }

// String describes the packet in words.
func (p Packet) String() string {
	ports := ""
	if p.Protocol == 6 || p.Protocol == 17 {
		ports = fmt.Sprintf(" %d -> %d", p.SrcPort, p.DstPort)
	}
	return fmt.Sprintf("VNI %d, %s -> %s, %s%s, to VIP %s", p.VNI, p.Src, p.Dst, protocolName(int16(p.Protocol)), ports, p.VIP)
}

func protocolName(p int16) string {
	switch p {
	case 1:
		return "icmp"
	case 6:
		return "tcp"
	case 17:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", p)
}

// HashFields is the fields of a packet that select its bucket, or a mask of their bits.
type HashFields struct {
	VNI              uint32 // 24 bits
	Src, Dst         uint32 // IPv6 addresses folded, see fold
	Protocol         uint8
	SrcPort, DstPort uint16
}

// HashFields returns the fields of a packet.
func (p Packet) HashFields() HashFields {
	return HashFields{p.VNI, fold(p.Src), fold(p.Dst), p.Protocol, p.SrcPort, p.DstPort}
}

// fold maps an address to 32 bits: the exclusive or of its 32-bit words. The zero Addr
// is 0.
func fold(a netip.Addr) uint32 {
	b := a.AsSlice()
	var h uint32
	for ; len(b) >= 4; b = b[4:] {
		h ^= binary.BigEndian.Uint32(b)
	}
	return h
}

// Masked returns the bits that are in m too.
func (f HashFields) Masked(m HashFields) HashFields {
	return HashFields{
		f.VNI & m.VNI, f.Src & m.Src, f.Dst & m.Dst,
		f.Protocol & m.Protocol, f.SrcPort & m.SrcPort, f.DstPort & m.DstPort,
	}
}

// Sum is the pipeline's hash: CRC32 (IEEE) over the fields in their order, in network
// byte order. Its lowest bits are the bucket.
func (f HashFields) Sum() uint32 {
	var b [16]byte
	b[0], b[1], b[2] = byte(f.VNI>>16), byte(f.VNI>>8), byte(f.VNI)
	binary.BigEndian.PutUint32(b[3:], f.Src)
	binary.BigEndian.PutUint32(b[7:], f.Dst)
	b[11] = f.Protocol
	binary.BigEndian.PutUint16(b[12:], f.SrcPort)
	binary.BigEndian.PutUint16(b[14:], f.DstPort)
	return crc32.ChecksumIEEE(b[:])
}

// Masks is the bits that are hashed.
func (h Hash) Masks() HashFields {
	var m HashFields
	if h.VNI {
		m.VNI = 1<<24 - 1
	}
	if h.Src {
		m.Src = 1<<32 - 1
	}
	if h.Dst {
		m.Dst = 1<<32 - 1
	}
	if h.Protocol {
		m.Protocol = 1<<8 - 1
	}
	if h.SrcPort {
		m.SrcPort = 1<<16 - 1
	}
	if h.DstPort {
		m.DstPort = 1<<16 - 1
	}
	return m
}

// String names the fields that are hashed.
func (h Hash) String() string {
	var words []string
	for _, f := range []struct {
		name string
		on   bool
	}{{"vni", h.VNI}, {"src", h.Src}, {"dst", h.Dst}, {"protocol", h.Protocol}, {"srcPort", h.SrcPort}, {"dstPort", h.DstPort}} {
		if f.on {
			words = append(words, f.name)
		}
	}
	return strings.Join(words, ", ")
}
