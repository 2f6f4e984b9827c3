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

// maxItems bounds the rules of one cell before they are placed.
const maxItems = 500_000

// item is one entry of a list in which the first match decides.
type item struct {
	box      Match
	version  string
	priority int // of the policy whose band it stands in
	group    *group
	table    Table
	sub      int32 // its place within the band, for flow rules
}

// cell makes the rules of one VNI, or of the packets of any VNI.
//
// The meaning is a list in which the first match decides; the switch instead
// asks the flow table, then source VM, destination VM and VPC. An item stands
// in the cheapest table that holds it, unless a later item of another version
// stands in a table that is asked before and would win: then it becomes a flow
// rule.
func (c *Compiler) cell(n Name, gw *Gateway, claims []claim) *Cell {
	wild := n.Part == anyVNI
	all := claims
	if !wild {
		all = append(slices.Clone(claims), c.claims[Name{n.Kind, n.Name, anyVNI}]...)
	}
	groups := groupClaims(all)
	c.cellConflicts(n, groups)
	items := expand(groups, 0, anyMatch, gw.Default, nil)
	if len(items) > maxItems {
		c.tooMany(n, gw, len(items), "rules before they are placed", maxItems)
		return nil
	}
	items = dropHidden(items)
	if !wild {
		items = dropHidden(narrowWild(items, claims[0].box.VNI)) // a copy may hide what follows
		items = dropIdle(items, gw.Default)
	}
	lift(items)
	if over := rank(items, wild); over {
		c.tooMany(n, gw, halfBand, "overlapping flow rules of one priority", halfBand-1)
		return nil
	}
	return &Cell{Gateway: gw.Name, Rules: rulesOf(items, wild)}
}

func (c *Compiler) tooMany(n Name, gw *Gateway, count int, what string, most int) {
	err := &schema.Error{Position: gw.Origin, Err: fmt.Errorf("its policies make %d %s for %s, the most is %d; match whole networks or fewer flows", count, what, n.Part, most)}
	c.errs[n] = append(c.errs[n], unitError{n.String(), err})
}

// expand lists what the policies from number k on say about a region, in the
// order in which the first match decides. What a policy excludes is decided by
// those below it, above its own matches.
func expand(groups []group, k int, region Match, standard string, band *group) []item {
	var items []item
	for i := k; i < len(groups); i++ {
		g := &groups[i]
		top := band
		if top == nil {
			top = g
		}
		for _, e := range g.exclude {
			x, some := region.intersect(e)
			if !some {
				continue
			}
			for _, m := range g.matches {
				if y, some := x.intersect(m); some && len(items) <= maxItems {
					items = append(items, expand(groups, i+1, y, standard, top)...)
					items = append(items, item{box: y, version: standard, priority: top.spec.Priority, group: g, table: y.table()})
				}
			}
		}
		for _, m := range g.matches {
			if y, some := region.intersect(m); some && len(items) <= maxItems {
				items = append(items, item{box: y, version: g.spec.Version, priority: top.spec.Priority, group: g, table: y.table()})
			}
		}
	}
	return items
}

// cellConflicts reports policies of one priority that want different versions
// for the same packets.
func (c *Compiler) cellConflicts(n Name, groups []group) {
	for i := range groups {
		for j := i + 1; j < len(groups) && groups[j].spec.Priority == groups[i].spec.Priority; j++ {
			a, b := groups[i], groups[j]
			if a.spec.Version == b.spec.Version {
				continue
			}
			if both, some := meet(a, b); some && (n.Part == anyVNI || !both.AnyVNI) {
				c.conflict(n, a, b, both.describe())
			}
		}
	}
}

// meet finds packets that two policies match and neither excludes.
func meet(a, b group) (Match, bool) {
	for _, x := range a.matches {
		for _, y := range b.matches {
			both, some := x.intersect(y)
			if some && !slices.ContainsFunc(a.exclude, func(e Match) bool { return e.covers(both) }) &&
				!slices.ContainsFunc(b.exclude, func(e Match) bool { return e.covers(both) }) {
				return both, true
			}
		}
	}
	return Match{}, false
}

// isVM tells whether an item is one address of a VPC; there can be very many of
// those, and they are looked up rather than compared.
func (it *item) isVM() bool { return it.table == TableVMSrc || it.table == TableVMDst }

// dropHidden leaves out items that an earlier one covers.
func dropHidden(items []item) []item {
	var kept, broad []item
	seen := map[Match]bool{}
	for _, it := range items {
		if seen[it.box] || slices.ContainsFunc(broad, func(b item) bool { return b.box.covers(it.box) }) {
			continue
		}
		seen[it.box] = true
		kept = append(kept, it)
		if !it.isVM() {
			broad = append(broad, it)
		}
	}
	return kept
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
			disagrees = !o.box.AnyVNI && o.version != it.version && o.box.overlaps(it.box)
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
	if !slices.ContainsFunc(items, func(it item) bool { return it.version == standard && !it.box.AnyVNI }) {
		return items
	}
	var kept []item
	for _, it := range slices.Backward(items) {
		idle := it.version == standard && !it.box.AnyVNI &&
			!slices.ContainsFunc(kept, func(o item) bool { return o.version != standard && o.box.overlaps(it.box) })
		if !idle {
			kept = append(kept, it)
		}
	}
	slices.Reverse(kept)
	return kept
}

// lift makes flow rules of items that would lose against a later item of
// another version in a table that is asked before theirs. A lifted item is
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
				later[it.table][it.version] = true
			}
		}
	}
}

// losesToVMs looks at the VM tables that are asked before an item's. Source and
// destination of one VPC always meet in some packet.
func losesToVMs(it *item, later map[Table]map[string]bool) bool {
	for t := TableVMSrc; t < it.table; t++ {
		for version := range later[t] {
			if version != it.version {
				return true
			}
		}
	}
	return false
}

func losesToFlow(it *item, flows []*item) bool {
	return slices.ContainsFunc(flows, func(f *item) bool { return f.version != it.version && f.box.overlaps(it.box) })
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
			Table: it.table, Match: it.box, Version: it.version,
			Policy: it.group.doc.Name.Name, Origin: it.group.origin(),
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
