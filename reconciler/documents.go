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
		was.at, was.held = d.Position, policies.IsHeld(d)
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

// charge counts a key at the document that it comes from while it is not as it is
// to be, or in trouble.
func (r *Reconciler) charge(t *target, k Key) {
	var to schema.Name
	if d := t.desired[k]; d != nil && (t.dirty[k] || t.troubles[k] != nil) {
		to = r.documentAt(d.Origin)
	}
	from := t.charged[k]
	if from == to {
		return
	}
	now := time.Now()
	r.count(from, -1, now)
	r.count(to, +1, now)
	if t.charged[k] = to; to == (schema.Name{}) {
		delete(t.charged, k)
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
