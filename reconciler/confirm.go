package reconciler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

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
