package softswitch

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

const (
	typeIPv4   = 0x0800
	typeIPv6   = 0x86dd
	typeVLAN   = 0x8100
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
	portVXLAN  = 4789
)

// lookup has the fields that the tables match: the inner ones, or the outer ones with
// VNI 0 if the packet is not VXLAN. IPv4 addresses are in the first bytes.
type lookup struct {
	outer    int // offset of the outer IP header
	outer6   bool
	sum      int // offset of the checksum over the outer addresses, 0 if there is none
	v6       bool
	vni      uint32
	src, dst [16]byte
	protocol uint8
	srcPort  uint16
	dstPort  uint16
}

// parse reads a frame as the pipeline's parser does.
func parse(b []byte, l *lookup) (dropReason, bool) {
	if len(b) < 14 {
		return dropTruncated, false
	}
	etherType, at := binary.BigEndian.Uint16(b[12:]), 14
	if etherType == typeVLAN {
		if len(b) < 18 {
			return dropTruncated, false
		}
		etherType, at = binary.BigEndian.Uint16(b[16:]), 18
	}
	l.outer, l.outer6 = at, etherType == typeIPv6
	l4, reason, ok := parseIP(b, at, etherType, l)
	switch {
	case !ok:
		return reason, false
	case l.outer6 && l.protocol == protoICMP6:
		if l.sum = at + 40 + 2; len(b) < l.sum+2 {
			return dropTruncated, false
		}
		return 0, true
	case l4 == 0:
		return 0, true
	}
	if l.protocol == protoTCP {
		l.sum = l4 + 16
		return ports(b, l4, 20, l)
	}
	if reason, ok := ports(b, l4, 8, l); !ok {
		return reason, false
	}
	if b[l4+6]|b[l4+7] != 0 { // 0 is no checksum
		l.sum = l4 + 6
	}
	if l.dstPort != portVXLAN {
		return 0, true
	}
	return parseInner(b, l4+8, l)
}

// ports reads the ports of a header that must have at least size bytes.
func ports(b []byte, at, size int, l *lookup) (dropReason, bool) {
	if len(b) < at+size {
		return dropTruncated, false
	}
	l.srcPort, l.dstPort = binary.BigEndian.Uint16(b[at:]), binary.BigEndian.Uint16(b[at+2:])
	return 0, true
}

// parseInner reads what a VXLAN header carries.
func parseInner(b []byte, at int, l *lookup) (dropReason, bool) {
	if len(b) < at+8+14 {
		return dropTruncated, false
	}
	l.vni = binary.BigEndian.Uint32(b[at+4:]) >> 8
	l.v6, l.src, l.dst, l.protocol, l.srcPort, l.dstPort = false, [16]byte{}, [16]byte{}, 0, 0, 0
	etherType := binary.BigEndian.Uint16(b[at+8+12:])
	if etherType != typeIPv4 && etherType != typeIPv6 {
		return 0, true
	}
	l4, reason, ok := parseIP(b, at+8+14, etherType, l)
	if !ok || l4 == 0 {
		return reason, ok
	}
	return ports(b, l4, 4, l)
}

// parseIP reads an IP header into the lookup fields and returns the offset of the TCP
// or UDP header, 0 if none follows.
func parseIP(b []byte, at int, etherType uint16, l *lookup) (int, dropReason, bool) {
	next := 0
	switch etherType {
	case typeIPv4:
		if len(b) < at+20 {
			return 0, dropTruncated, false
		}
		size := int(b[at]&15) * 4
		switch {
		case b[at]>>4 != 4 || size < 20:
			return 0, dropMalformed, false
		case len(b) < at+size:
			return 0, dropTruncated, false
		}
		l.v6, l.protocol = false, b[at+9]
		copy(l.src[:], b[at+12:at+16])
		copy(l.dst[:], b[at+16:at+20])
		if binary.BigEndian.Uint16(b[at+6:])&0x1fff == 0 {
			next = at + size
		}
	case typeIPv6:
		if len(b) < at+40 {
			return 0, dropTruncated, false
		}
		if b[at]>>4 != 6 {
			return 0, dropMalformed, false
		}
		l.v6, l.protocol = true, b[at+6]
		copy(l.src[:], b[at+8:at+24])
		copy(l.dst[:], b[at+24:at+40])
		next = at + 40
	default:
		return 0, dropNoVIP, false
	}
	if l.protocol != protoTCP && l.protocol != protoUDP {
		next = 0
	}
	return next, 0, true
}

// Process runs a frame through the pipeline. It returns the egress port and the frame,
// rewritten in place, or false if the packet is dropped, which is counted by reason.
func (s *Switch) Process(frame []byte) (uint32, []byte, bool) {
	var l lookup
	if reason, ok := parse(frame, &l); !ok {
		s.stats.drop(reason)
		return 0, nil, false
	}
	p := s.plane.Load()
	if p == nil || !p.gray {
		s.stats.drop(dropNoPipeline)
		return 0, nil, false
	}
	p.mu.RLock()
	b, reason, ok := p.choose(frame, &l)
	p.mu.RUnlock()
	if !ok {
		s.stats.drop(reason)
		return 0, nil, false
	}
	b.entry.count(len(frame))
	rewrite(frame, &l, &b)
	return b.port, frame, true
}

// choose finds the backend of a packet: VIP, rules, hash, pool, bucket.
func (p *plane) choose(frame []byte, l *lookup) (backendData, dropReason, bool) {
	vip, ok := p.vips[outerDestination(frame, l)]
	if !ok {
		return backendData{}, dropNoVIP, false
	}
	pool := vip.pool
	if candidate := p.candidate(vip.vip, l, len(frame)); candidate != 0 {
		pool = candidate
	}
	m, ok := p.profiles[vip.profile]
	if !ok {
		return backendData{}, dropNoProfile, false
	}
	g, ok := p.pools[pool]
	if !ok {
		return backendData{}, dropNoPool, false
	}
	bucket := uint16(l.hash(m)) & g.mask
	table := p.buckets[bucketKey{pool, g.number}]
	if table == nil || table[bucket] == 0 {
		return backendData{}, dropNoBucket, false
	}
	b, ok := p.backends[uint16(table[bucket]-1)]
	return b, dropNoBackend, ok
}

func outerDestination(frame []byte, l *lookup) netip.Addr {
	if l.outer6 {
		return netip.AddrFrom16([16]byte(frame[l.outer+24 : l.outer+40]))
	}
	return netip.AddrFrom4([4]byte(frame[l.outer+16 : l.outer+20]))
}

// candidate returns the pool that the rule tables choose; 0: the default. Every table
// with a matching entry counts the packet, as a switch looks them all up.
func (p *plane) candidate(vip uint8, l *lookup, size int) uint8 {
	family, src, dst := 0, netip.AddrFrom4([4]byte(l.src[:4])), netip.AddrFrom4([4]byte(l.dst[:4]))
	if l.v6 {
		family, src, dst = 1, netip.AddrFrom16(l.src), netip.AddrFrom16(l.dst)
	}
	var found [4]poolData
	for i := range p.flows[family] {
		if f := &p.flows[family][i]; f.matches(vip, l) {
			found[0] = f.poolData
			break
		}
	}
	vpc := vpcKey{vip, l.vni}
	found[1] = p.vms[family][vmKey{vpc, false, src}]
	found[2] = p.vms[family][vmKey{vpc, true, dst}]
	found[3] = p.vpcs[vpc]
	var pool uint8
	for _, f := range found {
		if f.entry == nil {
			continue
		}
		f.entry.count(size)
		if pool == 0 {
			pool = f.pool
		}
	}
	return pool
}

// hash is the CRC32 of the masked fields.
func (l *lookup) hash(m masks) uint32 {
	var b [16]byte
	vni := l.vni & m.vni
	b[0], b[1], b[2] = byte(vni>>16), byte(vni>>8), byte(vni)
	binary.BigEndian.PutUint32(b[3:], fold(&l.src, l.v6)&m.src)
	binary.BigEndian.PutUint32(b[7:], fold(&l.dst, l.v6)&m.dst)
	b[11] = l.protocol & m.protocol
	binary.BigEndian.PutUint16(b[12:], l.srcPort&m.srcPort)
	binary.BigEndian.PutUint16(b[14:], l.dstPort&m.dstPort)
	crc := ^uint32(0)
	for _, x := range b { // crc32.ChecksumIEEE would move b to the heap
		crc = crc32.IEEETable[byte(crc)^x] ^ crc>>8
	}
	return ^crc
}

// fold reduces an address to 32 bits.
func fold(a *[16]byte, v6 bool) uint32 {
	h := binary.BigEndian.Uint32(a[0:])
	if v6 {
		h ^= binary.BigEndian.Uint32(a[4:]) ^ binary.BigEndian.Uint32(a[8:]) ^ binary.BigEndian.Uint32(a[12:])
	}
	return h
}

// rewrite makes a frame ready for its backend. If that has an address, it becomes the
// outer destination, and the checksums over it are updated by the difference (RFC
// 1624). An address of the other family is not written.
func rewrite(b []byte, l *lookup, to *backendData) {
	copy(b[0:6], to.dstMAC[:])
	copy(b[6:12], to.srcMAC[:])
	if !to.address.IsValid() || to.address.Is6() != l.outer6 {
		return
	}
	full := to.address.As16() // an IPv4 address is in the last bytes
	at, address, protocol := l.outer+16, full[12:], b[l.outer+9]
	if l.outer6 {
		at, address, protocol = l.outer+24, full[:], b[l.outer+6]
	}
	var change uint32
	for i := 0; i < len(address); i += 2 {
		change += uint32(^binary.BigEndian.Uint16(b[at+i:])) + uint32(binary.BigEndian.Uint16(address[i:]))
	}
	copy(b[at:], address)
	if !l.outer6 {
		adjust(b[l.outer+10:], change)
	}
	if l.sum == 0 {
		return
	}
	adjust(b[l.sum:], change)
	if protocol == protoUDP && b[l.sum]|b[l.sum+1] == 0 {
		b[l.sum], b[l.sum+1] = 0xff, 0xff // 0 would be no checksum (RFC 768)
	}
}

// adjust updates the checksum at the start of b by a change of its sum.
func adjust(b []byte, change uint32) {
	sum := uint32(^binary.BigEndian.Uint16(b)) + change
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	binary.BigEndian.PutUint16(b, ^uint16(sum))
}
