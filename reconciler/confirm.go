package reconciler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// confirmed is the generation of a rollout that is live at every sink and was read
// back, 0 while something is not; ro.waits then says what.
func (r *Reconciler) confirmed(ro *tracked) uint64 {
	if ro.waits = r.lacks(ro); ro.waits != "" {
		return 0
	}
	return ro.state.Generation
}

// lacks says what of a rollout's targets is not live as it is to be, empty where all
// is. What others have at the same sinks does not matter.
func (r *Reconciler) lacks(ro *tracked) string {
	if ro.last == nil {
		return ""
	}
	if ro.places == nil {
		ro.places = r.placesOf(ro.last.Targets)
	}
	for _, name := range ro.places {
		t := r.targets[name]
		switch {
		case t == nil: // it was given up
			continue
		case t.err != nil:
			return name + ": " + firstLine(t.err)
		case t.observed == nil:
			return name + " was not read yet"
		}
		for _, keys := range []func(func(Key) bool){maps.Keys(t.dirty), maps.Keys(t.flying), maps.Keys(t.troubles), maps.Keys(t.unproved)} {
			for k := range keys {
				if t.concerns(k, ro.last.Targets) {
					return t.lacking(k)
				}
			}
		}
	}
	return ""
}

// lacking says why a key is not as it is to be.
func (t *target) lacking(k Key) string {
	switch tr := t.troubles[k]; {
	case tr != nil:
		return fmt.Sprintf("%s: %s", k, firstLine(tr.err))
	case t.held != nil:
		return t.name + ": " + firstLine(t.held)
	case t.unproved[k] && !t.dirty[k]:
		return t.name + " is to be read back"
	}
	return fmt.Sprintf("%d changes are not live yet at %s", max(len(t.dirty), len(t.flying)), t.name)
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

// returning tells whether all units of a rollout are to be at the default and not
// all sinks have said so.
func (r *Reconciler) returning(ro *tracked) bool {
	return ro.last != nil && ro.state.Empty() && r.lacks(ro) != ""
}

// taker is a Body that takes the traffic of a VNI or of an account away from the
// default. Without it they are there again.
type taker interface {
	Takes() (vni uint32, account string)
}

// returns tells which of the changes take units of rollouts back to the default. They
// are what a rollback is for, and no loss.
func (r *Reconciler) returns() func(*Resource) bool {
	vnis, accounts := map[uint32]bool{}, map[string]bool{}
	for _, ro := range r.rollouts {
		if !r.returning(ro) {
			continue
		}
		for i := range ro.last.Networks {
			vnis[ro.last.Networks[i].VNI] = true
			accounts[ro.last.Networks[i].Account] = true
		}
	}
	delete(vnis, 0)
	delete(accounts, "")
	return func(res *Resource) bool {
		body, takes := res.Body.(taker)
		if !takes {
			return false
		}
		vni, account := body.Takes()
		return vnis[vni] || accounts[account]
	}
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

// busy is a key of some documents that is going to change.
func (t *target) busy(docs []schema.Name) (Key, bool) {
	if t.err != nil || t.held != nil || t.observed == nil {
		return Key{}, false
	}
	for k := range t.dirty {
		if t.concerns(k, docs) && t.troubles[k] == nil && t.waiting[k] == (Key{}) {
			return k, true
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
