package demo

import (
	"encoding/binary"
	"net/netip"
)

// vxlanPort is the UDP port of VXLAN.
const vxlanPort = 4789

// The sizes of headers without options, in bytes.
const (
	etherSize = 14
	ipv4Size  = 20
	udpSize   = 8
	vxlanSize = 8
	icmpSize  = 8
)

// The numbers of ICMP.
const (
	protocolICMP = 1
	icmpReply    = 0
	icmpRequest  = 8
)

// outer makes the frame of a UDP packet to the port of VXLAN, without a UDP checksum.
func outer(src, dst netip.Addr, payload []byte) []byte {
	udp := make([]byte, udpSize)
	binary.BigEndian.PutUint16(udp[0:], 49152)
	binary.BigEndian.PutUint16(udp[2:], vxlanPort)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)+len(payload)))
	return append(ethernet([6]byte{2}, [6]byte{2}), ipv4(17, src, dst, append(udp, payload...))...)
}

// vxlan puts a frame into VXLAN.
func vxlan(vni uint32, frame []byte) []byte {
	h := make([]byte, vxlanSize)
	h[0] = 0x08
	binary.BigEndian.PutUint32(h[4:], vni<<8)
	return append(h, frame...)
}

// ethernet makes the header of a frame that carries IPv4.
func ethernet(dst, src [6]byte) []byte {
	h := make([]byte, 0, etherSize)
	h = append(append(h, dst[:]...), src[:]...)
	return append(h, 0x08, 0x00)
}

func ipv4(protocol byte, src, dst netip.Addr, payload []byte) []byte {
	h := make([]byte, ipv4Size)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

// checksum is the Internet checksum; it is zero for data that includes a correct one.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// shardEnd is who sends and receives in a VPC: a VM, the monitor, a tenant.
type shardEnd struct {
	name    string
	address netip.Addr
	mac     [6]byte
	vtep    netip.Addr // its host
}

// shardEcho is an ICMP echo in VXLAN, as hosts exchange it.
type shardEcho struct {
	vni            uint32
	dstMAC, srcMAC [6]byte
	src, dst       netip.Addr
	kind           byte
	icmp           []byte // the whole message
}

// parseEcho reads an echo over IPv4. Anything else, or damaged, is not ok.
func parseEcho(b []byte) (e shardEcho, ok bool) {
	if len(b) < vxlanSize+etherSize+ipv4Size+icmpSize || b[0]&0x08 == 0 {
		return e, false
	}
	e.vni = binary.BigEndian.Uint32(b[4:]) >> 8
	b = b[vxlanSize:]
	e.dstMAC, e.srcMAC = [6]byte(b), [6]byte(b[6:])
	kind, b := binary.BigEndian.Uint16(b[12:]), b[etherSize:]
	if kind != 0x0800 || b[0] != 0x45 || b[9] != protocolICMP || checksum(b[:ipv4Size]) != 0 || int(binary.BigEndian.Uint16(b[2:])) != len(b) {
		return e, false
	}
	e.src, e.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	e.icmp = b[ipv4Size:]
	e.kind = e.icmp[0]
	return e, checksum(e.icmp) == 0
}

// sequence is the number of the echo.
func (e *shardEcho) sequence() uint16 { return binary.BigEndian.Uint16(e.icmp[6:]) }

// encode makes the packet with its checksums.
func (e *shardEcho) encode() []byte {
	icmp := append([]byte{e.kind, 0, 0, 0}, e.icmp[4:]...)
	binary.BigEndian.PutUint16(icmp[2:], checksum(icmp))
	return vxlan(e.vni, append(ethernet(e.dstMAC, e.srcMAC), ipv4(protocolICMP, e.src, e.dst, icmp)...))
}

// reply is the answer to a request.
func (e *shardEcho) reply() []byte {
	return (&shardEcho{vni: e.vni, dstMAC: e.srcMAC, srcMAC: e.dstMAC, src: e.dst, dst: e.src, kind: icmpReply, icmp: e.icmp}).encode()
}

// echoRequest makes a numbered request from one end of a VPC to another.
func echoRequest(vni uint32, from, to shardEnd, sequence uint16) []byte {
	icmp := binary.BigEndian.AppendUint16(make([]byte, 6), sequence)
	return (&shardEcho{vni: vni, dstMAC: to.mac, srcMAC: from.mac, src: from.address, dst: to.address, kind: icmpRequest, icmp: icmp}).encode()
}
