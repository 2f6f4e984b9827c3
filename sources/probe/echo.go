package probe

import (
	"encoding/binary"
	"net/netip"
)

// vxlanPort is the UDP port of VXLAN (RFC 7348).
const vxlanPort = 4789

// The sizes of headers and of the content of an echo request, in bytes.
const (
	vxlanHeader = 8
	etherHeader = 14
	ipv4Header  = 20
	ipv6Header  = 40
	icmpHeader  = 8
	tagBytes    = 20
	payload     = 32 // the tag, padded with zeros
	maxFrame    = vxlanHeader + etherHeader + ipv6Header + icmpHeader + payload
)

// The protocol numbers of an echo.
const (
	etherIPv4, etherIPv6     = 0x0800, 0x86dd
	protocolICMP             = 1
	protocolICMPv6           = 58
	echoRequest, echoReply   = 8, 0
	echoRequest6, echoReply6 = 128, 129
)

// tag is the content of an echo request, which a reply must return.
type tag struct {
	run    uint64 // random, so that replies to other runs or processes do not count
	target uint32 // the index of the answer
	sent   int64  // when, in nanoseconds since the run began
}

// echo is an echo request or reply in VXLAN.
type echo struct {
	vni            uint32
	srcMAC, dstMAC [6]byte
	src, dst       netip.Addr // inner, of one family
	sequence       uint16
	tag
}

// append encodes an echo request.
func (e *echo) append(b []byte) []byte {
	b = append(b, 0x08, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, e.vni<<8)
	b = append(b, e.dstMAC[:]...)
	b = append(b, e.srcMAC[:]...)
	icmp, pseudo := byte(echoRequest), uint32(0)
	if e.dst.Is4() {
		b = binary.BigEndian.AppendUint16(b, etherIPv4)
		at := len(b)
		b = append(b, 0x45, 0, 0, ipv4Header+icmpHeader+payload, 0, 0, 0x40, 0, 64, protocolICMP, 0, 0)
		b = append(b, e.src.AsSlice()...)
		b = append(b, e.dst.AsSlice()...)
		binary.BigEndian.PutUint16(b[at+10:], checksum(0, b[at:]))
	} else {
		b = binary.BigEndian.AppendUint16(b, etherIPv6)
		b = append(b, 0x60, 0, 0, 0, 0, icmpHeader+payload, protocolICMPv6, 64)
		at := len(b)
		b = append(b, e.src.AsSlice()...)
		b = append(b, e.dst.AsSlice()...)
		icmp, pseudo = echoRequest6, sum(icmpHeader+payload+protocolICMPv6, b[at:])
	}
	return e.appendICMP(b, icmp, pseudo)
}

// appendICMP encodes only the echo request; pseudo is the sum of everything else that
// its checksum covers.
func (e *echo) appendICMP(b []byte, icmp byte, pseudo uint32) []byte {
	at := len(b)
	b = append(b, icmp, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(e.run))
	b = binary.BigEndian.AppendUint16(b, e.sequence)
	b = binary.BigEndian.AppendUint64(b, e.run)
	b = binary.BigEndian.AppendUint32(b, e.target)
	b = binary.BigEndian.AppendUint64(b, uint64(e.sent))
	b = append(b, make([]byte, payload-tagBytes)...)
	binary.BigEndian.PutUint16(b[at+2:], checksum(pseudo, b[at:]))
	return b
}

// parse decodes an echo reply. Anything else, or damaged, is not ok.
func parse(b []byte) (e echo, ok bool) {
	if len(b) < vxlanHeader+etherHeader || b[0]&0x08 == 0 {
		return e, false
	}
	e.vni = binary.BigEndian.Uint32(b[4:]) >> 8
	b = b[vxlanHeader:]
	copy(e.dstMAC[:], b)
	copy(e.srcMAC[:], b[6:])
	kind := binary.BigEndian.Uint16(b[12:])
	b = b[etherHeader:]
	reply, pseudo := byte(echoReply), uint32(0)
	switch kind {
	case etherIPv4:
		b, ok = e.ipv4(b)
	case etherIPv6:
		reply = echoReply6
		b, pseudo, ok = e.ipv6(b)
	}
	return e, ok && checksum(pseudo, b) == 0 && e.parseICMP(b, reply)
}

// parseICMP decodes only the echo reply. It ignores the identifier, which the kernel
// chooses for unprivileged sockets; the tag takes its place.
func (e *echo) parseICMP(b []byte, reply byte) bool {
	if len(b) < icmpHeader+tagBytes || b[0] != reply || b[1] != 0 {
		return false
	}
	e.sequence = binary.BigEndian.Uint16(b[6:])
	e.run = binary.BigEndian.Uint64(b[8:])
	e.target = binary.BigEndian.Uint32(b[16:])
	e.sent = int64(binary.BigEndian.Uint64(b[20:]))
	return true
}

// ipv4 reads an IPv4 header and returns the payload, without padding.
func (e *echo) ipv4(b []byte) ([]byte, bool) {
	if len(b) < ipv4Header || b[0]>>4 != 4 || b[9] != protocolICMP {
		return nil, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	fragment := binary.BigEndian.Uint16(b[6:]) & 0x3fff
	if header < ipv4Header || total < header || total > len(b) || fragment != 0 || checksum(0, b[:header]) != 0 {
		return nil, false
	}
	e.src, e.dst = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return b[header:total], true
}

// ipv6 reads an IPv6 header and returns the payload, without padding, and the sum of
// its pseudo header.
func (e *echo) ipv6(b []byte) ([]byte, uint32, bool) {
	if len(b) < ipv6Header || b[0]>>4 != 6 || b[6] != protocolICMPv6 {
		return nil, 0, false
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n > len(b)-ipv6Header {
		return nil, 0, false
	}
	e.src, e.dst = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	return b[ipv6Header : ipv6Header+n], sum(uint32(n)+protocolICMPv6, b[8:40]), true
}

// sum adds the 16-bit words of b.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// checksum is the Internet checksum; it is zero for data that includes a correct one.
func checksum(s uint32, b []byte) uint16 {
	s = sum(s, b)
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
