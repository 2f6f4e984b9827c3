package packets

import (
	"fmt"
	"net/netip"
	"strings"
)

// AnyMatch is all packets.
var AnyMatch = Match{AnyVNI: true, Protocol: -1, SrcPort: PortRange{0, 65535}, DstPort: PortRange{0, 65535}}

// Intersect returns the packets that are in both sets, or false if there are none.
func (m Match) Intersect(o Match) (Match, bool) {
	var ok1, ok2, ok3, ok4 bool
	r := Match{AnyVNI: m.AnyVNI && o.AnyVNI, VNI: m.VNI, Protocol: m.Protocol}
	switch {
	case m.AnyVNI:
		r.VNI = o.VNI
	case !o.AnyVNI && m.VNI != o.VNI:
		return r, false
	}
	if m.Protocol < 0 {
		r.Protocol = o.Protocol
	} else if o.Protocol >= 0 && m.Protocol != o.Protocol {
		return r, false
	}
	r.Src, ok1 = intersectPrefix(m.Src, o.Src)
	r.Dst, ok2 = intersectPrefix(m.Dst, o.Dst)
	r.SrcPort, ok3 = m.SrcPort.intersect(o.SrcPort)
	r.DstPort, ok4 = m.DstPort.intersect(o.DstPort)
	return r, ok1 && ok2 && ok3 && ok4 && r.oneFamily()
}

// oneFamily tells whether source and destination are of one family.
func (m Match) oneFamily() bool {
	return !m.Src.IsValid() || !m.Dst.IsValid() || m.Src.Addr().Is4() == m.Dst.Addr().Is4()
}

// Covers tells whether m has every packet of o.
func (m Match) Covers(o Match) bool {
	return (m.AnyVNI || !o.AnyVNI && m.VNI == o.VNI) &&
		(m.Protocol < 0 || m.Protocol == o.Protocol) &&
		coversPrefix(m.Src, o.Src) && coversPrefix(m.Dst, o.Dst) &&
		m.SrcPort.covers(o.SrcPort) && m.DstPort.covers(o.DstPort)
}

// overlaps tells whether some packet is in both sets.
func (m *Match) overlaps(o *Match) bool {
	return m.SrcPort.Lo <= o.SrcPort.Hi && o.SrcPort.Lo <= m.SrcPort.Hi &&
		m.DstPort.Lo <= o.DstPort.Hi && o.DstPort.Lo <= m.DstPort.Hi &&
		(m.AnyVNI || o.AnyVNI || m.VNI == o.VNI) && (m.Protocol < 0 || o.Protocol < 0 || m.Protocol == o.Protocol) &&
		prefixesMeet(m.Src, o.Src) && prefixesMeet(m.Dst, o.Dst) && prefixesOfOneFamily(m.Src, o.Dst) && prefixesOfOneFamily(m.Dst, o.Src)
}

func prefixesMeet(a, b netip.Prefix) bool { return !a.IsValid() || !b.IsValid() || a.Overlaps(b) }

func prefixesOfOneFamily(a, b netip.Prefix) bool {
	return !a.IsValid() || !b.IsValid() || a.Addr().Is4() == b.Addr().Is4()
}

// subtract returns boxes that together are m without o, or false if no boxes can
// express that.
func (m Match) subtract(o Match) ([]Match, bool) {
	if !m.overlaps(&o) {
		return []Match{m}, true
	}
	if !o.AnyVNI && m.AnyVNI || o.Protocol >= 0 && m.Protocol < 0 ||
		o.Src.IsValid() && !m.Src.IsValid() || o.Dst.IsValid() && !m.Dst.IsValid() {
		return nil, false // a complement in these fields is not a box
	}
	var left []Match
	cut := func(rest Match) { left = append(left, rest) }
	m.Src = cutPrefix(m.Src, o.Src, func(p netip.Prefix) { rest := m; rest.Src = p; cut(rest) })
	m.Dst = cutPrefix(m.Dst, o.Dst, func(p netip.Prefix) { rest := m; rest.Dst = p; cut(rest) })
	m.SrcPort = cutRange(m.SrcPort, o.SrcPort, func(r PortRange) { rest := m; rest.SrcPort = r; cut(rest) })
	cutRange(m.DstPort, o.DstPort, func(r PortRange) { rest := m; rest.DstPort = r; cut(rest) })
	return left, true
}

// cutPrefix calls rest for the parts of p that are not in o, and returns the part that
// is in both.
func cutPrefix(p, o netip.Prefix, rest func(netip.Prefix)) netip.Prefix {
	if coversPrefix(o, p) {
		return p
	}
	for bits := o.Bits(); bits > p.Bits(); bits-- {
		rest(sibling(netip.PrefixFrom(o.Addr(), bits).Masked()))
	}
	return o
}

// sibling is the other half of the prefix with one bit less.
func sibling(p netip.Prefix) netip.Prefix {
	b := p.Addr().AsSlice()
	bit := p.Bits() - 1
	b[bit/8] ^= 0x80 >> (bit % 8)
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, p.Bits())
}

// cutRange is cutPrefix for ports.
func cutRange(r, o PortRange, rest func(PortRange)) PortRange {
	if r.Lo < o.Lo {
		rest(PortRange{r.Lo, o.Lo - 1})
		r.Lo = o.Lo
	}
	if r.Hi > o.Hi {
		rest(PortRange{o.Hi + 1, r.Hi})
		r.Hi = o.Hi
	}
	return r
}

// Contains tells whether a packet with these fields is in the set.
func (m Match) Contains(vni uint32, src, dst netip.Addr, protocol uint8, ports [2]uint16) bool {
	return (m.AnyVNI || m.VNI == vni) && (m.Protocol < 0 || uint8(m.Protocol) == protocol) &&
		(!m.Src.IsValid() || m.Src.Contains(src)) && (!m.Dst.IsValid() || m.Dst.Contains(dst)) &&
		m.SrcPort.Lo <= ports[0] && ports[0] <= m.SrcPort.Hi && m.DstPort.Lo <= ports[1] && ports[1] <= m.DstPort.Hi
}

func intersectPrefix(a, b netip.Prefix) (netip.Prefix, bool) {
	switch {
	case coversPrefix(a, b):
		return b, true
	case coversPrefix(b, a):
		return a, true
	}
	return netip.Prefix{}, false
}

func coversPrefix(a, b netip.Prefix) bool {
	return !a.IsValid() || b.IsValid() && a.Bits() <= b.Bits() && a.Contains(b.Addr())
}

func (r PortRange) intersect(o PortRange) (PortRange, bool) {
	i := PortRange{max(r.Lo, o.Lo), min(r.Hi, o.Hi)}
	return i, i.Lo <= i.Hi
}

func (r PortRange) covers(o PortRange) bool { return r.Lo <= o.Lo && o.Hi <= r.Hi }

// Table is the cheapest table that can hold a match.
func (m Match) Table() Table {
	if m.AnyVNI || m.Protocol >= 0 || !m.SrcPort.Any() || !m.DstPort.Any() {
		return TableFlow
	}
	src, dst := m.Src.IsValid(), m.Dst.IsValid()
	switch {
	case !src && !dst:
		return TableVPC
	case src && !dst && m.Src.IsSingleIP():
		return TableVMSrc
	case dst && !src && m.Dst.IsSingleIP():
		return TableVMDst
	}
	return TableFlow
}

// families lists the IP versions of a match.
func (m Match) families() []bool { // true is IPv6
	switch {
	case m.Src.IsValid():
		return []bool{m.Src.Addr().Is6()}
	case m.Dst.IsValid():
		return []bool{m.Dst.Addr().Is6()}
	}
	return []bool{false, true}
}

// String describes the set in words.
func (m Match) String() string {
	var words []string
	if !m.AnyVNI {
		words = append(words, fmt.Sprintf("VNI %d", m.VNI))
	}
	if m.Src.IsValid() {
		words = append(words, "source "+m.Src.String())
	}
	if m.Dst.IsValid() {
		words = append(words, "destination "+m.Dst.String())
	}
	if m.Protocol >= 0 {
		words = append(words, protocolName(m.Protocol))
	}
	for _, p := range []struct {
		name string
		r    PortRange
	}{{"source", m.SrcPort}, {"destination", m.DstPort}} {
		switch {
		case p.r.Any():
		case p.r.Lo == p.r.Hi:
			words = append(words, fmt.Sprintf("%s port %d", p.name, p.r.Lo))
		default:
			words = append(words, fmt.Sprintf("%s ports %d-%d", p.name, p.r.Lo, p.r.Hi))
		}
	}
	if len(words) == 0 {
		return "all traffic"
	}
	return strings.Join(words, ", ")
}

// VNIMatch returns all packets of a VNI.
func VNIMatch(vni uint32) Match {
	m := AnyMatch
	m.AnyVNI, m.VNI = false, vni
	return m
}
