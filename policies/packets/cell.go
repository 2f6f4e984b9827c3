package packets

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/schema"
)

// The priorities of flow rules. Each priority of a policy is a band of them. Within a
// band a rule has a higher priority than the rules that it overlaps and precedes.
// Rules of a VNI use the upper half of the band, those that name no VNI the lower half.
const (
	bandWidth = 1 << 14
	halfBand  = bandWidth / 2
)

// Scope is the packets of a cell: those of one VNI, or of any VNI.
type Scope struct {
	Wild bool // the rules that name no VNI
	VNI  uint32
	VMs  []netip.Addr // of the VNI, sorted
}

// Cell is the rules of a gateway for one VNI, or those that name no VNI.
type Cell struct {
	Gateway string
	Rules   []Rule // in canonical order: by table, then by key
}

// TooMany is the error if policies need too many rules.
type TooMany struct {
	Most int // the index of the policy with most entries
	What string
}

// Error says which bound is exceeded.
func (e *TooMany) Error() string { return e.What }

// NewCell makes the rules of one VNI, or those that name no VNI, from policies in order
// of precedence. For a VNI the policies include the entries that name no VNI. It also
// returns the conflicts. The error is a *TooMany.
//
// The policies mean a list in which the first match decides. A switch instead looks in
// the flow table, then in those of source VM, destination VM and VPC. So an item goes
// into the cheapest table that can hold it, unless a later item of another pool is in
// a table that is looked up before and would win. Then it becomes a flow rule. An item
// that matches all packets is not a rule but the pool that the gateway's VIPs point to.
func NewCell(gw *Gateway, in Scope, policies []Policy) (*Cell, []Conflict, error) {
	x := expansion{groups: slices.Clone(policies), base: gw.Default}
	for i := range x.groups {
		g := &x.groups[i]
		g.Matches, g.Exclude = mergeEntries(g.Matches), mergeEntries(g.Exclude)
	}
	conflicts := x.conflicts(in.Wild)
	if !x.over && !slices.ContainsFunc(x.groups, func(p Policy) bool { return p.speaksOf(in) }) {
		return &Cell{}, conflicts, nil
	}
	x.list(0, AnyMatch, nil, nil)
	if x.over {
		return &Cell{}, conflicts, x.tooMany("need too many entries")
	}
	items := slices.DeleteFunc(x.items, func(it item) bool { return it.box == AnyMatch })
	if in.Wild {
		items = dropUnseen(items)
	} else {
		items = byVPC(items, in.VNI, in.VMs, gw.DefaultPool)
		items = dropIdle(dropUnseen(items), gw.DefaultPool)
		items = dropHidden(narrowWild(items, in.VNI)) // a copy may hide later items
	}
	lift(items)
	items = mergeFlows(items, in.Wild)
	if over := rank(items, in.Wild); over {
		return &Cell{}, conflicts, x.tooMany(fmt.Sprintf("need more than %d flow rules", maxFlows-1))
	}
	return &Cell{Gateway: gw.Name, Rules: rulesOf(items, in.Wild)}, conflicts, nil
}

// speaksOf tells whether a policy has entries for a scope, apart from planned ones.
func (p Policy) speaksOf(in Scope) bool {
	return slices.ContainsFunc(slices.Concat(p.Matches, p.Exclude), func(e Entry) bool { return e.Box.AnyVNI == in.Wild })
}

// tooMany blames the policy with most entries.
func (x *expansion) tooMany(what string) error {
	most := 0
	for i, p := range x.groups {
		if len(p.Matches)+len(p.Exclude) > len(x.groups[most].Matches)+len(x.groups[most].Exclude) {
			most = i
		}
	}
	return &TooMany{most, what}
}

// SetDefault works out the pool that the VIPs of a gateway point to from policies in
// order of precedence, of which only the entries with the box AnyMatch are given.
func (g *Gateway) SetDefault(policies []Policy) {
	x := expansion{groups: policies, base: g.Default}
	x.list(0, AnyMatch, nil, nil)
	g.DefaultPool, g.DefaultPolicy, g.DefaultOrigin = g.Default, "", g.Origin
	for _, it := range x.items { // at most one
		g.DefaultPool, g.DefaultPolicy, g.DefaultOrigin = it.pool, it.policy, it.origin
	}
}

// narrowWild copies an item that names no VNI into the cell if a later item of the cell
// with the same priority overlaps it and has another pool. Otherwise that one would
// win, as the cell has the upper half of the band. It works upwards, as a copy is an
// item of the cell too.
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
			it.box, _ = it.box.Intersect(VNIMatch(vni))
			it.table = it.box.Table()
			done = append(done, it)
		}
	}
	slices.Reverse(done)
	return done
}

// lift makes flow rules of items that would lose against a later item of another pool
// in a table that is looked up before theirs. It works upwards, as a lifted item is
// itself looked up before others.
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

// losesToVMs looks at the VM tables that are looked up before an item's table. There is
// always a packet with both the source of one item and the destination of another.
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

// rank gives every flow rule its place in its band, above all rules that it precedes
// and overlaps. It returns true if there are too many rules.
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

// rulesOf makes the rules of a cell from its items, in canonical order.
func rulesOf(items []item, wild bool) []Rule {
	var rules []Rule
	for _, it := range items {
		if it.box.AnyVNI != wild {
			continue
		}
		r := Rule{
			Table: it.table, Match: it.box, Pool: it.pool,
			Policy: it.policy, Origin: it.origin,
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

// Policy is what one policy says about packets.
type Policy struct {
	Name             string
	Priority         int
	Version          string
	Origin           schema.Position // of the first match, for messages
	Matches, Exclude []Entry
	Planned          []Entry // what its rollout is going to match
}

// Entry is one set of packets that a policy matches or excludes.
type Entry struct {
	Box     Match
	Percent int // the share of the buckets, 1 to 100
	Origin  schema.Position
}

// SortPolicies sorts policies in order of precedence: by priority, then by name. The
// name only fixes the order, as policies of equal priority must not conflict. The
// entries of a policy are sorted by share, the largest first.
func SortPolicies(all []Policy) {
	for i := range all {
		for _, entries := range [][]Entry{all[i].Matches, all[i].Exclude} {
			slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(b.Percent, a.Percent) })
		}
	}
	slices.SortFunc(all, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), strings.Compare(a.Name, b.Name))
	})
}
