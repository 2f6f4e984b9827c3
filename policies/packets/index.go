package packets

import (
	"math"
	"net/netip"
	"slices"
)

// index finds the items of a list that meet a single VM, without a look at the
// others: there can be very many of both. Items are added by falling number; of
// one pool the one with the lowest number is found.
type index struct {
	sides [2]map[netip.Prefix]*meeting // by source and destination prefix; the zero Prefix is any
	bits  [2][2][]int                  // the lengths of those prefixes, by family
}

// meeting is the items with one prefix.
type meeting struct {
	some [2][]poolAt // by family: they hold some packets of a VM in the prefix
	all  []poolAt    // they hold all
}

// poolAt is an item's pool and number.
type poolAt struct {
	pool   string
	number int
}

// none is the number of an item that is not there.
const none = math.MaxInt

func set(list []poolAt, pool string, number int) []poolAt {
	for i := range list {
		if list[i].pool == pool {
			list[i].number = number
			return list
		}
	}
	return append(list, poolAt{pool, number})
}

func familyOf(a netip.Addr) int {
	if a.Is6() {
		return 1
	}
	return 0
}

// add adds an item.
func (x *index) add(it *item, number int) {
	m := &it.box
	wide := m.Protocol < 0 && m.SrcPort.Any() && m.DstPort.Any()
	for side, p := range [2]netip.Prefix{m.Src, m.Dst} {
		other := [2]netip.Prefix{m.Dst, m.Src}[side]
		if x.sides[side] == nil {
			x.sides[side] = map[netip.Prefix]*meeting{}
		}
		at := x.sides[side][p]
		if at == nil {
			at = new(meeting)
			x.sides[side][p] = at
			if f := familyOf(p.Addr()); p.IsValid() && !slices.Contains(x.bits[side][f], p.Bits()) {
				x.bits[side][f] = append(x.bits[side][f], p.Bits())
			}
		}
		for _, v6 := range m.families() {
			f := 0
			if v6 {
				f = 1
			}
			at.some[f] = set(at.some[f], it.pool, number)
		}
		if wide && !other.IsValid() {
			at.all = set(at.all, it.pool, number)
		}
	}
}

// vm is the side and address of a box that is a single VM.
func (m Match) vm() (side int, a netip.Addr) {
	if m.Src.IsValid() {
		return 0, m.Src.Addr()
	}
	return 1, m.Dst.Addr()
}

// each calls f for every prefix with items that a VM is in.
func (x *index) each(side int, a netip.Addr, f func(*meeting)) {
	if at := x.sides[side][netip.Prefix{}]; at != nil {
		f(at)
	}
	for _, bits := range x.bits[side][familyOf(a)] {
		p, err := a.Prefix(bits)
		if err != nil {
			continue // not of this family
		}
		if at := x.sides[side][p]; at != nil {
			f(at)
		}
	}
}

// other is the lowest number of an item of another pool that holds some packets
// of a VM, or none.
func (x *index) other(side int, a netip.Addr, pool string) int {
	first := none
	x.each(side, a, func(at *meeting) {
		for _, p := range at.some[familyOf(a)] {
			if p.pool != pool {
				first = min(first, p.number)
			}
		}
	})
	return first
}

// whole is the item of the lowest number that holds all packets of a VM; of one
// pool, or of any where that is empty. Its number is none where there is none.
func (x *index) whole(side int, a netip.Addr, pool string) poolAt {
	first := poolAt{number: none}
	x.each(side, a, func(at *meeting) {
		for _, p := range at.all {
			if p.number < first.number && (pool == "" || p.pool == pool) {
				first = p
			}
		}
	})
	return first
}
