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
	x := expansion{groups: groupClaims(all), base: gw.Default}
	for i := range x.groups {
		g := &x.groups[i]
		g.matches, g.exclude = mergeEntries(g.matches), mergeEntries(g.exclude)
	}
	c.cellConflicts(n, &x)
	if !x.over && !slices.ContainsFunc(claims, func(cl claim) bool { return !cl.planned }) {
		return &Cell{}
	}
	x.list(0, anyMatch, nil, nil)
	if x.over {
		c.tooMany(n, x.groups, "makes more entries than can be sorted out")
		return &Cell{}
	}
	items := slices.DeleteFunc(x.items, func(it item) bool { return it.box == anyMatch })
	if wild {
		items = dropUnseen(items)
	} else {
		vni := claims[0].box.VNI
		items = byVPC(items, vni, c.vms[vni], gw.DefaultPool)
		items = dropIdle(dropUnseen(items), gw.DefaultPool)
		items = dropHidden(narrowWild(items, vni)) // a copy may hide what follows
	}
	lift(items)
	items = mergeFlows(items, wild)
	if over := rank(items, wild); over {
		c.tooMany(n, x.groups, fmt.Sprintf("makes more than %d flow rules", maxFlows-1))
		return &Cell{}
	}
	return &Cell{Gateway: gw.Name, Rules: rulesOf(items, wild)}
}

// tooMany reports at the policy that has most to say.
func (c *Compiler) tooMany(n Name, groups []group, what string) {
	most := slices.MaxFunc(groups, func(a, b group) int {
		return cmp.Compare(len(a.matches)+len(a.exclude), len(b.matches)+len(b.exclude))
	})
	err := &schema.Error{Position: most.origin(), Err: fmt.Errorf("what the policies say about %s of Gateway %s %s; match whole networks or fewer flows", n.Part, n.Name, what)}
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
			disagrees = !o.box.AnyVNI && o.pool != it.pool && o.box.overlaps(&it.box)
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

// lift makes flow rules of items that would lose against a later item of
// another pool in a table that is asked before theirs. It works upwards, as a
// lifted item is asked before others in turn.
func lift(items []item) {
	later := map[Table][]poolAt{} // single VMs in their tables
	var flows []*item
	var meets index
	for i := range slices.Backward(items) {
		it := &items[i]
		if it.table != TableFlow && (losesToVMs(it, later) || losesToFlow(it, flows, &meets)) {
			it.table = TableFlow
		}
		switch {
		case it.table == TableFlow:
			flows = append(flows, it)
			meets.add(it, i)
		case it.isVM():
			later[it.table] = set(later[it.table], it.pool, i)
		}
	}
}

// losesToVMs looks at the VM tables that are asked before an item's. Source and
// destination of one VPC always meet in some packet.
func losesToVMs(it *item, later map[Table][]poolAt) bool {
	for t := TableVMSrc; t < it.table; t++ {
		if slices.ContainsFunc(later[t], func(p poolAt) bool { return p.pool != it.pool }) {
			return true
		}
	}
	return false
}

func losesToFlow(it *item, flows []*item, meets *index) bool {
	if it.isVM() {
		side, a := it.box.vm()
		return meets.other(side, a, it.pool) != none
	}
	return slices.ContainsFunc(flows, func(f *item) bool { return f.pool != it.pool && f.box.overlaps(&it.box) })
}

// rank gives every flow rule its place within its band, above all rules that it
// precedes and overlaps; true where there are more rules than can be ranked.
func rank(items []item, wild bool) bool {
	var band []*item
	count := 0
	for i := range slices.Backward(items) {
		it := &items[i]
		if it.table != TableFlow || it.box.AnyVNI != wild {
			continue
		}
		if len(band) > 0 && band[0].priority != it.priority {
			band = band[:0]
		}
		it.sub = 1
		for _, b := range band {
			if b.sub >= it.sub && b.box.overlaps(&it.box) {
				it.sub = b.sub + 1
			}
		}
		band = append(band, it)
		if count++; count > maxFlows || it.sub >= halfBand {
			return true
		}
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
