package reconciler

import (
	"cmp"
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
	degraded flag   // something is wrong with its servers or endpoints
	reason   string // in CamelCase
	ailing   string // which
	held     bool   // it is suspended, and stands for what it was before
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
			was.ready.set(r.undone[n] == 0, now)
		}
		was.at, was.held = d.Position, policies.IsSuspended(d)
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
	if d, ok := r.docs.Get(document{name: n}); ok && d.ready.on != (was+by == 0) {
		d.ready.set(was+by == 0, now)
		r.docs.ReplaceOrInsert(d)
	}
}
