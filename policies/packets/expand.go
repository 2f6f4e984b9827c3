package packets

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
	policy   string
	origin   schema.Position
	table    Table
	sub      int32 // its place within the band, for flow rules
}

// isVM tells whether an item is one address of a VPC; there can be very many of
// those, and they are looked up rather than compared.
func (it *item) isVM() bool { return it.table == TableVMSrc || it.table == TableVMDst }

// expansion lists what policies say about packets.
type expansion struct {
	groups []Policy
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
	policy string
	origin schema.Position
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
			if held(above, own) {
				continue
			}
			if m.Percent < 100 {
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
func (x *expansion) pass(k int, region Match, e Entry, above []layer, band *Policy) {
	x.list(k+1, region, above, band)
	x.add(region, above, layer{Share{x.base, 100}, x.groups[k].Name, e.Origin}, band)
}

// limit adds what policy number k takes where an entry excludes a share of the
// buckets: no more than the rest. What one of its matches holds with a larger
// share comes first, as in the list of all its matches.
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

// add adds an entry for all that is left of a region.
func (x *expansion) add(box Match, above []layer, own layer, band *Policy) {
	if x.cover.seen[box] { // the policies below left nothing of it
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
	if len(above) > 0 { // who comes first answers for the blend
		it.policy, it.origin = above[0].policy, above[0].origin
	}
	x.cover.add(&it)
	x.items = append(x.items, it)
	x.over = len(x.items) > maxItems || len(x.cover.broad) > maxFlows || x.steps+x.cover.steps > maxSteps
}

// Conflict is two policies of one priority that want different versions for the
// same packets. A and B are indices into the policies.
type Conflict struct {
	A, B int
	Both Match // packets that both match
}

// conflicts finds the policies of one priority that disagree.
func (x *expansion) conflicts(wild bool) (all []Conflict) {
	for i := range x.groups {
		for j := i + 1; j < len(x.groups) && x.groups[j].Priority == x.groups[i].Priority; j++ {
			a, b := &x.groups[i], &x.groups[j]
			if a.Version == b.Version {
				continue
			}
			if both, some := x.meet(a, b); some && (wild || !both.AnyVNI) {
				all = append(all, Conflict{i, j, both})
			}
		}
	}
	return all
}

// meet finds packets that two policies match, or will, and neither excludes.
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
