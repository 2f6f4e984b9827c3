package policies

import (
	"cmp"
	"slices"

	"github.com/gray-release/gray/schema"
)

// Bounds of the work on one cell.
const (
	maxItems = 500_000    // entries of its list
	maxFlows = 8192       // entries among them that are no single VM
	maxSteps = 50_000_000 // comparisons
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
	steps  int  // comparisons made
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
// What a policy excludes is decided by those below it, above its own matches. Of
// what it excludes a share of, its matches have at most the other buckets.
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
			if e.percent < 100 {
				x.limit(i, region, e, above, top)
				continue
			}
			for _, y := range x.excluded(g, region, e.box) {
				if !x.over && !x.hides(y) {
					x.pass(i, y, e, above, top)
				}
			}
		}
		for j := 0; j < len(g.matches) && !x.over; j++ {
			m := &g.matches[j]
			y, some := region.intersect(m.box)
			if !some || x.hides(y) {
				continue
			}
			own := layer{Share{g.spec.Version, m.percent}, g, m.line}
			if held(above, own) {
				continue
			}
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

// held tells whether layers take all buckets that another takes.
func held(above []layer, own layer) bool {
	return slices.ContainsFunc(above, func(l layer) bool { return l.holds(own.Share) })
}

// pass leaves a region to the policies below number k, as an entry says that
// excludes it.
func (x *expansion) pass(k int, region Match, e entry, above []layer, band *group) {
	x.list(k+1, region, above, band)
	x.add(region, above, layer{Share{x.base, 100}, &x.groups[k], e.line}, band)
}

// limit adds what policy number k takes where an entry excludes a share of the
// buckets: no more than the rest. What one of its matches holds with a larger
// share comes first, as in the list of all its matches.
func (x *expansion) limit(k int, region Match, e entry, above []layer, band *group) {
	g := &x.groups[k]
	region, some := region.intersect(e.box)
	for j := 0; some && j < len(g.matches) && !x.over; j++ {
		x.steps++
		m := &g.matches[j]
		y, some := region.intersect(m.box)
		if !some || x.hides(y) {
			continue
		}
		own := layer{Share{g.spec.Version, min(m.percent, 100-e.percent)}, g, e.line}
		if held(above, own) {
			x.pass(k, y, e, above, band)
			continue
		}
		x.list(k+1, y, append(slices.Clip(above), own), band)
		x.add(y, above, own, band)
	}
}

// excluded is boxes that together hold what a policy excludes of a region, and
// nothing that it matches and does not exclude. Where it has but few matches
// there, those are cut out; else it is all that the exclude holds, as the policy
// has no say in any of it. What names no VNI is looked at on its own: its entries
// are those of another cell, which knows nothing of this VNI's matches.
func (x *expansion) excluded(g *group, region, exclude Match) []Match {
	const few = 2
	all, some := region.intersect(exclude)
	if !some {
		return nil
	}
	x.steps += len(g.matches)
	var wild, own []Match
	for i := range g.matches {
		if y, some := all.intersect(g.matches[i].box); some && y.AnyVNI {
			wild = append(wild, y)
		} else if some {
			own = append(own, y)
		}
	}
	if len(wild) > few {
		return []Match{all}
	}
	if len(own) > few {
		all, _ = all.intersect(vniBox(schema.VNI(own[0].VNI)))
		own = []Match{all}
	}
	return append(own, wild...)
}

func (x *expansion) hides(m Match) bool { return x.cover.hides(&item{box: m, table: m.table()}) }

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
	x.cover.add(&it)
	x.items = append(x.items, it)
	x.over = len(x.items) > maxItems || len(x.cover.broad) > maxFlows || x.steps+x.cover.steps > maxSteps
}

// cellConflicts reports policies of one priority that want different versions
// for the same packets.
func (c *Compiler) cellConflicts(n Name, x *expansion) {
	for i := range x.groups {
		for j := i + 1; j < len(x.groups) && x.groups[j].spec.Priority == x.groups[i].spec.Priority; j++ {
			a, b := x.groups[i], x.groups[j]
			if a.spec.Version == b.spec.Version {
				continue
			}
			if both, some := x.meet(a, b); some && (n.Part == anyVNI || !both.AnyVNI) {
				c.conflict(n, a.side(), b.side(), both.describe())
			}
		}
	}
}

// meet finds packets that two policies match, or will, and neither excludes.
func (x *expansion) meet(a, b group) (Match, bool) {
	ours, theirs := slices.Concat(a.matches, a.planned), slices.Concat(b.matches, b.planned)
	for _, m := range ours {
		x.steps += len(theirs)
		if x.over = x.over || x.steps > maxSteps; x.over {
			break
		}
		for _, o := range theirs {
			both, some := m.box.intersect(o.box)
			if !some {
				continue
			}
			x.steps += len(a.exclude) + len(b.exclude)
			excluded := func(e entry) bool { return e.percent == 100 && e.box.covers(both) }
			if !slices.ContainsFunc(a.exclude, excluded) && !slices.ContainsFunc(b.exclude, excluded) {
				return both, true
			}
		}
	}
	return Match{}, false
}
