package packets

import (
	"net/netip"
	"slices"
)

// maxPieces bounds the boxes that are left when others are subtracted from a match.
// Beyond it the match stays as it is.
const maxPieces = 64

// byVPC adds an item for a whole VPC after those of its VMs if all VMs, as source and as
// destination, go to one pool other than the default. The VMs' items are then not
// needed. An address that is not in the route table is no VM's and goes where the VPC
// goes.
func byVPC(items []item, vni uint32, vms []netip.Addr, standard string) []item {
	if len(vms) == 0 {
		return items
	}
	var x index
	for i := range slices.Backward(items) {
		x.add(&items[i], i)
	}
	var last poolAt
	for _, a := range vms {
		for side := range 2 {
			first := x.whole(side, a, "")
			if first.number == none || last.pool != "" && first.pool != last.pool {
				return items
			}
			last.pool, last.number = first.pool, max(last.number, first.number)
		}
	}
	if last.pool == standard {
		return items
	}
	it := items[last.number]
	it.box, it.table = VNIMatch(vni), TableVPC
	return dropHidden(slices.Insert(items, last.number+1, it))
}

// dropHidden drops items that an earlier one covers.
func dropHidden(items []item) []item {
	var c cover
	return slices.DeleteFunc(items, func(it item) bool {
		if c.hides(&it) {
			return true
		}
		c.add(&it)
		return false
	})
}

// cover is the packets of the items so far.
type cover struct {
	seen  map[Match]bool
	broad []Match // those that are not a single VM
	vms   index   // items with all packets of a VM
	steps int     // comparisons made
}

// hides tells whether one of the items covers another.
func (c *cover) hides(it *item) bool {
	if it.isVM() {
		c.steps++
		side, a := it.box.vm()
		return c.vms.whole(side, a, "").number != none
	}
	if c.seen[it.box] {
		return true
	}
	c.steps += len(c.broad)
	return slices.ContainsFunc(c.broad, func(b Match) bool { return b.Covers(it.box) })
}

func (c *cover) add(it *item) {
	if c.seen == nil {
		c.seen = map[Match]bool{}
	}
	c.seen[it.box] = true
	c.vms.add(it, 0)
	if !it.isVM() {
		c.broad = append(c.broad, it.box)
	}
}

// dropUnseen drops items that several earlier ones cover together.
func dropUnseen(items []item) []item {
	drop := make([]bool, len(items))
	var above []*item
	for i := range items {
		it := &items[i]
		if it.isVM() {
			continue
		}
		left := []Match{it.box}
		for j := 0; j < len(above) && len(left) > 0; j++ {
			if above[j].box.overlaps(&it.box) {
				left = takeAway(left, above[j].box)
			}
		}
		if drop[i] = len(left) == 0; !drop[i] {
			above = append(above, it)
		}
	}
	return keep(items, drop)
}

// takeAway subtracts a match from boxes, unless that leaves too many boxes.
func takeAway(boxes []Match, m Match) []Match {
	var left []Match
	for _, b := range boxes {
		parts, ok := b.subtract(m)
		if !ok {
			parts = []Match{b}
		}
		if left = append(left, parts...); len(left) > maxPieces {
			return boxes
		}
	}
	return left
}

func keep(items []item, drop []bool) []item {
	i := -1
	return slices.DeleteFunc(items, func(item) bool { i++; return drop[i] })
}

// dropIdle drops items of a VNI whose packets go to the same pool without them. It
// works upwards, as an item may only be needed because of one below it. Items that
// name no VNI stay, as they are those of another cell.
func dropIdle(items []item, standard string) []item {
	below := below{standard: standard}
	drop := make([]bool, len(items))
	for i := range slices.Backward(items) {
		it := &items[i]
		if drop[i] = !it.box.AnyVNI && below.replaces(it); !drop[i] {
			below.add(it, i)
		}
	}
	return keep(items, drop)
}

// below is the items below an item.
type below struct {
	standard string
	meets    index    // all of them, for items that are a single VM
	broad    []*item  // those that are not a single VM; the nearest is the last
	numbers  []int    // of broad
	vms      []poolAt // the nearest single VM of each pool
}

func (b *below) add(it *item, number int) {
	b.meets.add(it, number)
	if it.isVM() {
		b.vms = set(b.vms, it.pool, number)
		return
	}
	b.broad, b.numbers = append(b.broad, it), append(b.numbers, number)
}

// replaces tells whether the items below send all packets of an item to its pool.
func (b *below) replaces(it *item) bool {
	if it.isVM() {
		side, a := it.box.vm()
		other, same := b.meets.other(side, a, it.pool), b.meets.whole(side, a, it.pool).number
		return same < other || other == none && it.pool == b.standard
	}
	vm := none // the nearest VM of another pool
	for _, p := range b.vms {
		if p.pool != it.pool {
			vm = min(vm, p.number)
		}
	}
	left := []Match{it.box}
	for j, o := range slices.Backward(b.broad) {
		if !o.box.overlaps(&it.box) || !slices.ContainsFunc(left, func(m Match) bool { return m.overlaps(&o.box) }) {
			continue
		}
		if o.pool != it.pool || b.numbers[j] > vm {
			return false
		}
		if left = takeAway(left, o.box); len(left) == 0 {
			return true
		}
	}
	return vm == none && it.pool == b.standard
}

// mergeEntries merges the boxes of a policy.
func mergeEntries(entries []Entry) []Entry {
	m := merger{dead: make([]bool, len(entries)), may: func(i, j int) (int, bool) { return min(i, j), true }}
	for i, e := range entries {
		m.boxes = append(m.boxes, e.Box)
		m.class = append(m.class, e.Percent)
		if e.Box.Table() != TableFlow {
			m.class[i] = noClass
		}
	}
	m.run()
	var left []Entry
	for i, e := range entries {
		if !m.dead[i] {
			e.Box = m.boxes[i]
			left = append(left, e)
		}
	}
	return left
}

// mergeFlows merges flow rules of the cell: two of one band and one pool that differ in
// only one field become one if together they are a prefix or a range. One of them moves
// to the place of the other, if it overlaps no rule of another pool on the way.
func mergeFlows(items []item, wild bool) []item {
	m := merger{dead: make([]bool, len(items))}
	type key struct {
		pool string
		band int
	}
	classes := map[key]int{}
	for _, it := range items {
		c := noClass
		if it.table == TableFlow && it.box.AnyVNI == wild {
			k := key{it.pool, it.priority}
			if _, known := classes[k]; !known {
				classes[k] = len(classes)
			}
			c = classes[k]
		}
		m.boxes, m.class = append(m.boxes, it.box), append(m.class, c)
	}
	steps := 0
	free := func(from, to, moves int) bool {
		steps += to - from
		for k := from + 1; k < to; k++ {
			if m.class[k] != noClass && !m.dead[k] && items[k].pool != items[moves].pool && m.boxes[k].overlaps(&m.boxes[moves]) {
				return false
			}
		}
		return steps < maxSteps
	}
	m.may = func(i, j int) (int, bool) {
		first, last := min(i, j), max(i, j)
		if free(first, last, last) {
			return first, true
		}
		return last, free(first, last, first)
	}
	m.run()
	for i := range items {
		items[i].box = m.boxes[i]
	}
	return keep(items, m.dead)
}
