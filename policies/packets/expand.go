package packets

import (
	"cmp"
	"slices"

	"github.com/gray-release/gray/schema"
)

// The bounds of one cell.
const (
	maxItems = 500_000    // items of its list
	maxFlows = 8192       // items that are not a single VM
	maxSteps = 50_000_000 // comparisons
)

// item is one entry of the list in which the first match decides.
type item struct {
	box      Match
	pool     string
	priority int // of the policy whose band it is in
	policy   string
	origin   schema.Position
	table    Table
	sub      int32 // the place of a flow rule in its band
}

// isVM tells whether an item is one address of a VPC. There can be very many of those,
// so they are looked up and not compared.
func (it *item) isVM() bool { return it.table == TableVMSrc || it.table == TableVMDst }

// expansion makes the list of items from policies.
type expansion struct {
	groups []Policy
	base   string // the gateway's default version
	items  []item
	cover  cover
	steps  int  // comparisons made
	over   bool // a bound was reached, so the list is not complete
}

// layer is the share of the buckets that a policy takes of the packets of a region.
type layer struct {
	Share
	policy string
	origin schema.Position
}

// list adds the items for a region, from the policies with index k and up, in the order
// in which the first match decides.
//
// Packets that a policy excludes go to the policies below it; these items come before
// the policy's own matches. If it excludes a share of the buckets, its matches take at
// most the other buckets. If a policy takes a share of the buckets, the policies below
// it decide about the rest, and the item's pool is a blend of both. So each bucket of a
// packet goes to the first policy that takes it. Within a policy the largest share
// wins, as it has all buckets of the smaller ones.
func (x *expansion) list(k int, region Match, above []layer, band *Policy) {
	for i := k; i < len(x.groups) && !x.over; i++ {
		g := &x.groups[i]
		top := cmp.Or(band, g)
		for _, e := range g.Exclude {
			if e.Percent < 100 {
				x.limit(i, region, e, above, top)
				continue
			}
			for _, y := range x.excluded(g, region, e.Box) {
				if !x.over && !x.hides(y) {
					x.pass(i, y, e, above, top)
				}
			}
		}
		for j := 0; j < len(g.Matches) && !x.over; j++ {
			m := &g.Matches[j]
			y, some := region.Intersect(m.Box)
			if !some || x.hides(y) {
				continue
			}
			own := layer{Share{g.Version, m.Percent}, g.Name, m.Origin}
			if outdone(above, own) {
				continue
			}
			if m.Percent < 100 {
				x.list(i+1, y, append(slices.Clip(above), own), top)
			}
			x.add(y, above, own, top)
		}
		if x.cover.seen[region] {
			return // the region is covered
		}
	}
}

// outdone tells whether a layer has all buckets of another.
func outdone(above []layer, own layer) bool {
	return slices.ContainsFunc(above, func(l layer) bool { return l.holds(own.Share) })
}

// pass leaves a region that an entry of policy k excludes to the policies below it.
func (x *expansion) pass(k int, region Match, e Entry, above []layer, band *Policy) {
	x.list(k+1, region, above, band)
	x.add(region, above, layer{Share{x.base, 100}, x.groups[k].Name, e.Origin}, band)
}

// limit adds the items of policy k for an entry that excludes a share of the buckets:
// its matches take at most the others. Matches with larger shares come first, as in
// list.
func (x *expansion) limit(k int, region Match, e Entry, above []layer, band *Policy) {
	g := &x.groups[k]
	region, some := region.Intersect(e.Box)
	for j := 0; some && j < len(g.Matches) && !x.over; j++ {
		x.steps++
		m := &g.Matches[j]
		y, some := region.Intersect(m.Box)
		if !some || x.hides(y) {
			continue
		}
		own := layer{Share{g.Version, min(m.Percent, 100-e.Percent)}, g.Name, e.Origin}
		if outdone(above, own) {
			x.pass(k, y, e, above, band)
			continue
		}
		x.list(k+1, y, append(slices.Clip(above), own), band)
		x.add(y, above, own, band)
	}
}

// excluded returns boxes that cover what a policy matches and excludes in a region. If
// it has few matches there, the boxes are their intersections with the exclude;
// otherwise the exclude itself, as the policy decides nothing within it. Matches that
// name no VNI are counted on their own, as they belong to another cell, which does not
// know the matches of this VNI.
func (x *expansion) excluded(g *Policy, region, exclude Match) []Match {
	const few = 2
	all, some := region.Intersect(exclude)
	if !some {
		return nil
	}
	x.steps += len(g.Matches)
	var wild, own []Match
	for i := range g.Matches {
		if y, some := all.Intersect(g.Matches[i].Box); some && y.AnyVNI {
			wild = append(wild, y)
		} else if some {
			own = append(own, y)
		}
	}
	if len(wild) > few {
		return []Match{all}
	}
	if len(own) > few {
		all, _ = all.Intersect(VNIMatch(own[0].VNI))
		own = []Match{all}
	}
	return append(own, wild...)
}

func (x *expansion) hides(m Match) bool { return x.cover.hides(&item{box: m, table: m.Table()}) }

// add adds an item for what is left of a region.
func (x *expansion) add(box Match, above []layer, own layer, band *Policy) {
	if x.cover.seen[box] { // the policies below cover it
		return
	}
	var shares []Share
	for _, l := range above {
		shares = append(shares, l.Share)
	}
	it := item{
		box: box, pool: poolName(append(shares, own.Share, Share{x.base, 100})), priority: band.Priority,
		policy: own.policy, origin: own.origin, table: box.Table(),
	}
	if len(above) > 0 { // a blend is of the first policy in it
		it.policy, it.origin = above[0].policy, above[0].origin
	}
	x.cover.add(&it)
	x.items = append(x.items, it)
	x.over = len(x.items) > maxItems || len(x.cover.broad) > maxFlows || x.steps+x.cover.steps > maxSteps
}

// Conflict is two policies of one priority that match the same packets with different
// versions, or of which one does so by a rollout. A and B are indices into the policies.
type Conflict struct {
	A, B int
	Both Match // some packets that both match
}

// conflicts finds the conflicts of policies.
func (x *expansion) conflicts(wild bool) (all []Conflict) {
	for i := range x.groups {
		for j := i + 1; j < len(x.groups) && x.groups[j].Priority == x.groups[i].Priority; j++ {
			a, b := &x.groups[i], &x.groups[j]
			if a.Version == b.Version && len(a.Planned)+len(b.Planned) == 0 {
				continue
			}
			if both, some := x.meet(a, b); some && (wild || !both.AnyVNI) {
				all = append(all, Conflict{i, j, both})
			}
		}
	}
	return all
}

// meet finds packets that two policies match, now or as planned, and neither excludes.
func (x *expansion) meet(a, b *Policy) (Match, bool) {
	ours, theirs := slices.Concat(a.Matches, a.Planned), slices.Concat(b.Matches, b.Planned)
	for _, m := range ours {
		x.steps += len(theirs)
		if x.over = x.over || x.steps > maxSteps; x.over {
			break
		}
		for _, o := range theirs {
			both, some := m.Box.Intersect(o.Box)
			if !some {
				continue
			}
			x.steps += len(a.Exclude) + len(b.Exclude)
			excluded := func(e Entry) bool { return e.Percent == 100 && e.Box.Covers(both) }
			if !slices.ContainsFunc(a.Exclude, excluded) && !slices.ContainsFunc(b.Exclude, excluded) {
				return both, true
			}
		}
	}
	return Match{}, false
}
