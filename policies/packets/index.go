package packets

import (
	"math"
	"net/netip"
	"slices"
)

// index finds the items of a list that overlap a single VM without looking at the
// others, as there can be very many of both. Items must be added by descending number.
// Of each pool, the item with the lowest number is found.
type index struct {
	sides [2]map[netip.Prefix]*meeting // by source and destination prefix; the zero Prefix is any
	bits  [2][2][]int                  // the lengths of these prefixes, by family
}

// meeting is the items with one prefix.
type meeting struct {
	some [2][]poolAt // by family: items with some packets of a VM in the prefix
	all  []poolAt    // items with all packets of the VM
}

// poolAt is the pool and the number of an item.
type poolAt struct {
	pool   string
	number int
}

// none is the number if there is no item.
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

// vm returns the side, 0 for source and 1 for destination, and the address of a box
// that is a single VM.
func (m Match) vm() (side int, a netip.Addr) {
	if m.Src.IsValid() {
		return 0, m.Src.Addr()
	}
	return 1, m.Dst.Addr()
}

// each calls f for every prefix of an item that has the VM's address.
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

// other is the lowest number of an item of another pool with some packets of a VM, or
// none.
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

// whole is the item with the lowest number that has all packets of a VM, of one pool
// or, if that is empty, of any. Its number is none if there is no such item.
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
