package packets

import (
	"cmp"
	"net/netip"
	"slices"
)

// noClass is the class of boxes that are not merged.
const noClass = -1

// merger merges boxes of one class that differ in only one field and together are a
// box.
type merger struct {
	boxes []Match
	class []int
	dead  []bool                           // boxes that were merged into another
	may   func(i, j int) (at int, ok bool) // whether two boxes may be merged, and which of the two is replaced
}

// The fields in which boxes are merged.
const (
	fieldSrc = iota
	fieldDst
	fieldSrcPort
	fieldDstPort
	fields
)

// run merges until nothing more can be merged.
func (m *merger) run() {
	for changed := true; changed; {
		changed = false
		for field := range fields {
			for _, group := range m.alike(field) {
				if m.mergeGroup(group, field) {
					changed = true
				}
			}
		}
	}
}

// alike groups the boxes that differ in only one field, in a fixed order.
func (m *merger) alike(field int) [][]int {
	type key struct {
		class int
		rest  Match
	}
	numbers := map[key]int{}
	var groups [][]int
	for i, b := range m.boxes {
		if m.dead[i] || m.class[i] == noClass {
			continue
		}
		switch field {
		case fieldSrc:
			if !b.Src.IsValid() {
				continue
			}
			b.Src = netip.Prefix{}
		case fieldDst:
			if !b.Dst.IsValid() {
				continue
			}
			b.Dst = netip.Prefix{}
		case fieldSrcPort:
			b.SrcPort = PortRange{}
		case fieldDstPort:
			b.DstPort = PortRange{}
		}
		k := key{m.class[i], b}
		n, known := numbers[k]
		if !known {
			n = len(groups)
			numbers[k] = n
			groups = append(groups, nil)
		}
		groups[n] = append(groups[n], i)
	}
	return slices.DeleteFunc(groups, func(g []int) bool { return len(g) < 2 })
}

// mergeGroup sorts boxes by a field and merges neighbours. It tells whether any were
// merged.
func (m *merger) mergeGroup(group []int, field int) bool {
	slices.SortFunc(group, func(i, j int) int { return m.compare(i, j, field) })
	var stack []int
	merged := false
	for _, i := range group {
		stack = append(stack, i)
		for len(stack) > 1 {
			a, b := stack[len(stack)-2], stack[len(stack)-1]
			both, ok := m.join(a, b, field)
			if !ok {
				break
			}
			at, ok := m.may(a, b)
			if !ok {
				break
			}
			m.dead[a], m.dead[b] = true, true
			m.boxes[at], m.dead[at] = both, false
			stack = append(stack[:len(stack)-2], at)
			merged = true
		}
	}
	return merged
}

func (m *merger) compare(i, j, field int) int {
	a, b := &m.boxes[i], &m.boxes[j]
	switch field {
	case fieldSrc:
		return comparePrefix(a.Src, b.Src)
	case fieldDst:
		return comparePrefix(a.Dst, b.Dst)
	case fieldSrcPort:
		return compareRange(a.SrcPort, b.SrcPort)
	}
	return compareRange(a.DstPort, b.DstPort)
}

func compareRange(a, b PortRange) int {
	return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi))
}

// join returns the union of two boxes that differ in a field and are in its order, or
// false if it is not a box.
func (m *merger) join(i, j, field int) (Match, bool) {
	both, b := m.boxes[i], &m.boxes[j]
	var ok bool
	switch field {
	case fieldSrc:
		both.Src, ok = joinPrefixes(both.Src, b.Src)
	case fieldDst:
		both.Dst, ok = joinPrefixes(both.Dst, b.Dst)
	case fieldSrcPort:
		both.SrcPort, ok = joinRanges(both.SrcPort, b.SrcPort)
	case fieldDstPort:
		both.DstPort, ok = joinRanges(both.DstPort, b.DstPort)
	}
	return both, ok
}

func joinPrefixes(a, b netip.Prefix) (netip.Prefix, bool) {
	switch {
	case coversPrefix(a, b):
		return a, true
	case a.Bits() > 0 && a.Bits() == b.Bits() && sibling(a) == b:
		return netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked(), true
	}
	return a, false
}

func joinRanges(a, b PortRange) (PortRange, bool) {
	return PortRange{a.Lo, max(a.Hi, b.Hi)}, int(b.Lo) <= int(a.Hi)+1
}
