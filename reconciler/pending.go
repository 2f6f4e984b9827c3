package reconciler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// document is a document of the last good commit, and since when all that comes
// from it is live, or is not.
type document struct {
	name     schema.Name
	at       schema.Position
	ready    flag
	degraded flag          // something is wrong with its servers or endpoints
	reason   string        // in CamelCase
	ailing   string        // which
	held     bool          // it is suspended, and means what it meant before
	needs    []schema.Name // what it goes to
	version  string        // and in which version
}

func (d document) before(e document) bool { return d.name.Compare(e.name) < 0 }

// placed is where a document of a file starts.
type placed struct {
	line int
	name schema.Name
}

// index takes over the documents that a commit changed.
func (r *Reconciler) index(changed []schema.Name, now time.Time) {
	for _, n := range changed {
		was, had := r.docs.Get(document{name: n})
		if had {
			r.places[was.at.Path] = slices.DeleteFunc(r.places[was.at.Path], func(p placed) bool { return p.name == n })
			if len(r.places[was.at.Path]) == 0 {
				delete(r.places, was.at.Path)
			}
		}
		d := r.meaning.set.Get(n)
		if d == nil {
			r.docs.Delete(was)
			continue
		}
		if !had {
			was.name = n
			was.ready.set(r.undone[n] == 0 && r.missing[n] == (lack{}), now)
		}
		was.at, was.held = d.Position, policies.IsSuspended(d)
		was.needs, was.version = needsOf(d)
		r.docs.ReplaceOrInsert(was)
		list := r.places[d.Path]
		i, _ := slices.BinarySearchFunc(list, d.Line, func(p placed, line int) int { return cmp.Compare(p.line, line) })
		r.places[d.Path] = slices.Insert(list, i, placed{d.Line, n})
	}
}

// documentAt is the document that a place lies in; the zero Name where there is
// none.
func (r *Reconciler) documentAt(p schema.Position) schema.Name {
	list := r.places[p.Path]
	i, found := slices.BinarySearchFunc(list, p.Line, func(p placed, line int) int { return cmp.Compare(p.line, line) })
	switch {
	case found:
		return list[i].name
	case i > 0:
		return list[i-1].name
	}
	return schema.Name{}
}

// charge is what a key counts as while it is not as it is to be.
type charge struct {
	doc     schema.Name // the document that causes it; zero: nothing of one is not live
	unit    schema.Name // the Gateway, Service, Switch or Node that it was lowered from; zero: nobody knows, and the target itself
	open    bool        // it differs, is being changed or is to be read back, or is in trouble
	failing bool        // it is in trouble
}

// pending is how many keys of one unit are open at a target.
type pending struct{ open, failing, waiting int }

// charge counts a key anew, which is all that any question about pending work looks
// at.
func (r *Reconciler) charge(t *target, k Key) {
	var now charge
	_, flying := t.flying[k]
	now.failing = t.troubles[k] != nil
	if now.open = t.dirty[k] || flying || t.unproved[k] || now.failing; !now.open {
		r.tally(t, k, now)
		return
	}
	if d := t.desired[k]; d != nil && (t.dirty[k] || now.failing) {
		now.doc = r.documentAt(d.Origin)
	}
	if u := t.unitOf(k); u != nil && k.Kind != KindTarget {
		now.unit = schema.Name{Kind: u.Kind, Name: u.Name}
	}
	r.tally(t, k, now)
}

// tally takes back what a key counted as, and counts it as what it is.
func (r *Reconciler) tally(t *target, k Key, now charge) {
	was := t.charged[k]
	if was == now {
		return
	}
	if t.charged[k] = now; now == (charge{}) {
		delete(t.charged, k)
	}
	if was.doc != now.doc {
		at := time.Now()
		r.count(was.doc, -1, at)
		r.count(now.doc, +1, at)
	}
	t.add(was, -1)
	t.add(now, +1)
}

func (t *target) add(c charge, by int) {
	if !c.open {
		return
	}
	p := t.pending[c.unit]
	if p == nil {
		p = &pending{}
		t.pending[c.unit] = p
	}
	if p.open += by; c.failing {
		p.failing += by
	}
	if p.open == 0 {
		delete(t.pending, c.unit)
	}
}

// count changes how many resources of a document are not as they are to be.
func (r *Reconciler) count(n schema.Name, by int, now time.Time) {
	if n == (schema.Name{}) {
		return
	}
	was := r.undone[n]
	if r.undone[n] = was + by; was+by == 0 {
		delete(r.undone, n)
	}
	r.reckon(n, now)
}

// confirmed is the generation of a rollout that is live at every sink and was read
// back, 0 while something is not.
func (r *Reconciler) confirmed(ro *tracked) uint64 {
	if _, _, behind := r.behind(ro); behind {
		return 0
	}
	return ro.state.Generation
}

// behind tells whether something of a rollout's Gateways and Services is not live as
// it is to be: at which target, and what is pending there (nil where that is not known).
// What others have at the same targets does not matter.
func (r *Reconciler) behind(ro *tracked) (*target, *pending, bool) {
	if ro.last == nil {
		return nil, nil, false
	}
	if ro.places == nil {
		ro.places = r.placesOf(ro.last.Targets)
	}
	for _, name := range ro.places {
		t := r.targets[name]
		if t == nil { // it was given up
			continue
		}
		if t.err != nil || t.observed == nil {
			return t, nil, true
		}
		for _, doc := range ro.last.Targets {
			if p := t.pending[doc]; p != nil {
				return t, p, true
			}
		}
		if p := t.pending[schema.Name{}]; p != nil {
			return t, p, true
		}
	}
	return nil, nil, false
}

// lacks says in words what of a rollout is not live, empty where all is.
func (r *Reconciler) lacks(ro *tracked) string {
	t, p, behind := r.behind(ro)
	switch {
	case !behind:
		return ""
	case t.err != nil:
		return t.name + ": " + firstLine(t.err)
	case t.observed == nil:
		return t.name + " was not read yet"
	case p.failing > 0:
		for _, k := range slices.SortedFunc(maps.Keys(t.troubles), Key.Compare) {
			if t.concerns(k, ro.last.Targets) {
				return fmt.Sprintf("%s: %s", k, firstLine(t.troubles[k].err))
			}
		}
	case len(t.dirty)+len(t.flying) == 0:
		return t.name + " is to be read back"
	}
	return fmt.Sprintf("%d changes are not live yet at %s", p.open, t.name)
}

// watched are the Gateways and Services of which a rollout waits for what is live.
func (r *Reconciler) watched() map[schema.Name]bool {
	docs := map[schema.Name]bool{}
	for _, ro := range r.rollouts {
		if ro.last != nil && ro.watches() {
			for _, n := range ro.last.Targets {
				docs[n] = true
			}
		}
	}
	return docs
}

// placesOf are the targets at which documents are live, sorted.
func (r *Reconciler) placesOf(docs []schema.Name) []string {
	var names []string
	for _, doc := range docs {
		for _, res := range r.meaning.made[policies.Name{Kind: doc.Kind, Name: doc.Name}] {
			if r.targets[res.Target] != nil && !slices.Contains(names, res.Target) {
				names = append(names, res.Target)
			}
		}
	}
	slices.Sort(names)
	return names
}

// concerns tells whether a key is of one of some documents, or may be.
func (t *target) concerns(k Key, docs []schema.Name) bool {
	if k.Kind == KindTarget {
		return true
	}
	unit := t.unitOf(k)
	return unit == nil || slices.Contains(docs, schema.Name{Kind: unit.Kind, Name: unit.Name})
}

// unitOf is the unit that a key was lowered from, nil where nobody knows.
func (t *target) unitOf(k Key) *policies.Name {
	for _, res := range [...]*Resource{t.desired[k], t.observed[k], t.flying[k]} {
		if res != nil && res.unit != nil {
			return res.unit
		}
	}
	return nil
}

// taker is a Body that takes the traffic of a VNI or of an account away from the
// default. Without it they are there again.
type taker interface {
	Takes() (vni uint32, account string)
}

// yield is a rollout that goes back, and what its switches still have to do.
type yield struct {
	docs []schema.Name
	key  Key
}

// yields are the rollouts whose accounts wait for the switches: on a rollback accounts
// go back last. A switch that fails is not waited for.
func (r *Reconciler) yields() (all []yield) {
	for _, ro := range r.rollouts {
		if ro.last == nil || ro.spec != nil && ro.state.Back == 0 {
			continue
		}
		gateways := slices.DeleteFunc(slices.Clone(ro.last.Targets), func(n schema.Name) bool { return n.Kind != schema.KindGateway })
		for _, name := range r.placesOf(gateways) {
			if k, busy := r.targets[name].busy(gateways); busy {
				all = append(all, yield{ro.last.Targets, k})
				break
			}
		}
	}
	return all
}

// busy tells whether something of some documents is going to change.
func (t *target) busy(docs []schema.Name) (Key, bool) {
	if t.err != nil || t.observed == nil {
		return Key{}, false
	}
	for _, doc := range append(slices.Clip(docs), schema.Name{}) {
		if p := t.pending[doc]; p != nil && p.open > p.failing+p.waiting {
			return Key{Target: t.name, Kind: KindTarget}, true
		}
	}
	return Key{}, false
}

// yieldsTo tells whether a change is of an account that waits for a switch.
func (t *target) yieldsTo(c Change, yields []yield) (Key, bool) {
	for _, y := range yields {
		body, takes := c.either().Body.(taker)
		if !takes || !t.concerns(c.Key(), y.docs) {
			continue
		}
		if _, account := body.Takes(); account != "" {
			return y.key, true
		}
	}
	return Key{}, false
}
