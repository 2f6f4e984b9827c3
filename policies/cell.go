package policies

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/schema"
)

// The priorities of flow rules: a policy's priority gives a band, and within
// it a rule stands above the rules that it overlaps and precedes. Rules of one
// VNI use the upper half of the band, those that name no VNI the lower half.
const (
	bandWidth = 1 << 14
	halfBand  = bandWidth / 2
)

// cell makes the rules of one VNI, or of the packets of any VNI.
//
// The meaning is a list in which the first match decides; the switch instead
// asks the flow table, then source VM, destination VM and VPC. An item stands
// in the cheapest table that holds it, unless a later item of another pool
// stands in a table that is asked before and would win: then it becomes a flow
// rule. The item that holds every packet is no rule: it is what the gateway's
// VIPs point to.
func (c *Compiler) cell(n Name, gw *Gateway, claims []claim) *Cell {
	wild := n.Part == anyVNI
	all := claims
	if !wild {
		all = append(slices.Clone(claims), c.claims[Name{n.Kind, n.Name, anyVNI}]...)
	}
	groups := groupClaims(all)
	c.cellConflicts(n, groups)
	x := expansion{groups: groups, base: gw.Default}
	x.list(0, anyMatch, nil, nil)
	if x.over {
		c.tooMany(n, gw, "makes more entries than can be sorted out")
		return &Cell{}
	}
	items := slices.DeleteFunc(x.items, func(it item) bool { return it.box == anyMatch })
	if !wild {
		items = dropHidden(narrowWild(items, claims[0].box.VNI)) // a copy may hide what follows
		items = dropIdle(items, gw.DefaultPool)
	}
	lift(items)
	if over := rank(items, wild); over {
		c.tooMany(n, gw, fmt.Sprintf("makes more than %d flow rules of one priority that overlap", halfBand-1))
		return &Cell{}
	}
	return &Cell{Gateway: gw.Name, Rules: rulesOf(items, wild)}
}

func (c *Compiler) tooMany(n Name, gw *Gateway, what string) {
	err := &schema.Error{Position: gw.Origin, Err: fmt.Errorf("what its policies say about %s %s; match whole networks or fewer flows", n.Part, what)}
	c.errs[n] = append(c.errs[n], unitError{n.String(), err})
}

// narrowWild copies items that name no VNI into the cell where an item of the
// cell with the same priority follows and disagrees: the cell's half of the band
// lies above theirs. It works upwards, as a copy is an item of the cell in turn.
func narrowWild(items []item, vni uint32) []item {
	var done []item // in reverse
	for _, it := range slices.Backward(items) {
		disagrees := false
		for j := len(done) - 1; it.box.AnyVNI && !disagrees && j >= 0 && done[j].priority == it.priority; j-- {
			o := &done[j]
			disagrees = !o.box.AnyVNI && o.pool != it.pool && o.box.overlaps(it.box)
		}
		done = append(done, it)
		if disagrees {
			it.box, _ = it.box.intersect(vniBox(schema.VNI(vni)))
			it.table = it.box.table()
			done = append(done, it)
		}
	}
	slices.Reverse(done)
	return done
}

// dropIdle leaves out items that keep packets at the default which would go
// there anyway. It works upwards, as an item may be all that one above it is for.
func dropIdle(items []item, standard string) []item {
	if !slices.ContainsFunc(items, func(it item) bool { return it.pool == standard && !it.box.AnyVNI }) {
		return items
	}
	var kept []item
	for _, it := range slices.Backward(items) {
		idle := it.pool == standard && !it.box.AnyVNI &&
			!slices.ContainsFunc(kept, func(o item) bool { return o.pool != standard && o.box.overlaps(it.box) })
		if !idle {
			kept = append(kept, it)
		}
	}
	slices.Reverse(kept)
	return kept
}

// lift makes flow rules of items that would lose against a later item of
// another pool in a table that is asked before theirs. A lifted item is
// asked before others in turn, so it goes on until nothing changes.
func lift(items []item) {
	for changed := true; changed; {
		changed = false
		later := map[Table]map[string]bool{TableVMSrc: {}, TableVMDst: {}}
		var flows []*item
		for i := range slices.Backward(items) {
			it := &items[i]
			if it.table != TableFlow && (losesToVMs(it, later) || losesToFlow(it, flows)) {
				it.table = TableFlow
				changed = true
			}
			if it.table == TableFlow {
				flows = append(flows, it)
			} else if it.isVM() {
				later[it.table][it.pool] = true
			}
		}
	}
}

// losesToVMs looks at the VM tables that are asked before an item's. Source and
// destination of one VPC always meet in some packet.
func losesToVMs(it *item, later map[Table]map[string]bool) bool {
	for t := TableVMSrc; t < it.table; t++ {
		for pool := range later[t] {
			if pool != it.pool {
				return true
			}
		}
	}
	return false
}

func losesToFlow(it *item, flows []*item) bool {
	return slices.ContainsFunc(flows, func(f *item) bool { return f.pool != it.pool && f.box.overlaps(it.box) })
}

// rank gives every flow rule its place within its band, above all rules that it
// precedes and overlaps; true where the band is too narrow.
func rank(items []item, wild bool) bool {
	var below []*item
	for i := range slices.Backward(items) {
		it := &items[i]
		if it.table != TableFlow || it.box.AnyVNI != wild {
			continue
		}
		it.sub = 1
		for _, b := range below {
			if b.priority == it.priority && b.sub >= it.sub && b.box.overlaps(it.box) {
				it.sub = b.sub + 1
			}
		}
		if it.sub >= halfBand {
			return true
		}
		below = append(below, it)
	}
	return false
}

// rulesOf makes rules of the items of a cell, in canonical order.
func rulesOf(items []item, wild bool) []Rule {
	var rules []Rule
	for _, it := range items {
		if it.box.AnyVNI != wild {
			continue
		}
		r := Rule{
			Table: it.table, Match: it.box, Pool: it.pool,
			Policy: it.group.doc.Name.Name, Origin: it.position(),
		}
		families := []bool{false}
		switch it.table {
		case TableFlow:
			r.Priority = int32(it.priority)*bandWidth + it.sub
			if !wild {
				r.Priority += halfBand
			}
			families = it.box.families()
		case TableVMSrc, TableVMDst:
			families = it.box.families()
		}
		for _, r.IPv6 = range families {
			rules = append(rules, r)
		}
	}
	slices.SortFunc(rules, compareRules)
	return rules
}

func compareRules(a, b Rule) int {
	return cmp.Or(
		cmp.Compare(a.Table, b.Table), boolCompare(a.IPv6, b.IPv6), cmp.Compare(b.Priority, a.Priority),
		cmp.Compare(a.Match.VNI, b.Match.VNI), comparePrefix(a.Match.Src, b.Match.Src), comparePrefix(a.Match.Dst, b.Match.Dst),
		cmp.Compare(a.Match.Protocol, b.Match.Protocol),
		cmp.Compare(a.Match.SrcPort.Lo, b.Match.SrcPort.Lo), cmp.Compare(a.Match.SrcPort.Hi, b.Match.SrcPort.Hi),
		cmp.Compare(a.Match.DstPort.Lo, b.Match.DstPort.Lo), cmp.Compare(a.Match.DstPort.Hi, b.Match.DstPort.Hi),
	)
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
