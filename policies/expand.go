package policies

import (
	"cmp"
	"slices"

	"github.com/gray-release/gray/schema"
)

// Bounds of the work on one cell.
const (
	maxItems = 500_000     // entries of its list
	maxFlows = 8192        // entries among them that are no single VM
	maxSteps = 200_000_000 // comparisons
)

// item is one entry of a list in which the first match decides.
type item struct {
	box      Match
	pool     string
	priority int // of the policy whose band it stands in
	group    *group
	line     int
	table    Table
	sub      int32 // its place within the band, for flow rules
}

// isVM tells whether an item is one address of a VPC; there can be very many of
// those, and they are looked up rather than compared.
func (it *item) isVM() bool { return it.table == TableVMSrc || it.table == TableVMDst }

func (it *item) position() schema.Position {
	return schema.Position{Path: it.group.doc.Path, Line: it.line}
}

// expansion lists what policies say about packets.
type expansion struct {
	groups []group
	base   string // the gateway's default version
	items  []item
	cover  cover
	over   bool // a bound is reached, and the list is not whole
}

// layer is what a policy's share of the buckets takes of the packets that a
// region holds.
type layer struct {
	Share
	group *group
	line  int
}

// list adds what the policies from number k on say about a region, in the order
// in which the first match decides.
//
// What a policy excludes is decided by those below it, above its own matches.
// Where a policy has only a share of the buckets, those below it decide about
// the rest: the entry sends to a blend of what is above and what they say. So
// does every packet get the first policy that takes it, bucket by bucket.
// Within a policy the largest share counts, as the shares of one version hold
// one another.
func (x *expansion) list(k int, region Match, above []layer, band *group) {
	for i := k; i < len(x.groups) && !x.over; i++ {
		g := &x.groups[i]
		top := cmp.Or(band, g)
		for _, e := range g.exclude {
			r, some := region.intersect(e.box)
			for j := 0; some && j < len(g.matches) && !x.over; j++ {
				if y, both := r.intersect(g.matches[j].box); both && !x.cover.hides(y) {
					x.list(i+1, y, above, top)
					x.add(y, above, layer{Share{x.base, 100}, g, e.line}, top)
				}
			}
		}
		for j := 0; j < len(g.matches) && !x.over; j++ {
			m := &g.matches[j]
			y, some := region.intersect(m.box)
			if !some || x.cover.hides(y) {
				continue
			}
			own := layer{Share{g.spec.Version, m.percent}, g, m.line}
			if m.percent < 100 {
				x.list(i+1, y, append(slices.Clip(above), own), top)
			}
			x.add(y, above, own, top)
		}
		if x.cover.seen[region] {
			return // nothing of the region is left
		}
	}
}

// add adds an entry for all that is left of a region.
func (x *expansion) add(box Match, above []layer, own layer, band *group) {
	if x.cover.seen[box] { // the policies below left nothing of it
		return
	}
	var shares []Share
	for _, l := range above {
		shares = append(shares, l.Share)
	}
	it := item{
		box: box, pool: poolName(append(shares, own.Share, Share{x.base, 100})), priority: band.spec.Priority,
		group: own.group, line: own.line, table: box.table(),
	}
	if len(above) > 0 { // who comes first answers for the blend
		it.group, it.line = above[0].group, above[0].line
	}
	x.cover.add(box)
	x.items = append(x.items, it)
	x.over = len(x.items) > maxItems || len(x.cover.broad) > maxFlows || x.cover.steps > maxSteps
}

// cover is what the entries of a list hold so far.
type cover struct {
	seen  map[Match]bool
	broad []Match // those that are no single VM
	steps int     // comparisons made
}

// hides tells whether one entry holds all of a match. A single VM is held by
// itself or by something broad.
func (c *cover) hides(m Match) bool {
	c.steps += len(c.broad) + 1
	return c.seen[m] || slices.ContainsFunc(c.broad, func(b Match) bool { return b.covers(m) })
}

func (c *cover) add(m Match) {
	if c.seen == nil {
		c.seen = map[Match]bool{}
	}
	c.seen[m] = true
	if t := m.table(); t != TableVMSrc && t != TableVMDst {
		c.broad = append(c.broad, m)
	}
}

// dropHidden leaves out items that an earlier one covers.
func dropHidden(items []item) []item {
	var c cover
	return slices.DeleteFunc(items, func(it item) bool {
		if c.hides(it.box) {
			return true
		}
		c.add(it.box)
		return false
	})
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
			both, some := x.box.intersect(y.box)
			excluded := func(e entry) bool { return e.box.covers(both) }
			if some && !slices.ContainsFunc(a.exclude, excluded) && !slices.ContainsFunc(b.exclude, excluded) {
				return both, true
			}
		}
	}
	return Match{}, false
}
