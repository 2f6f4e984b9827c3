package reconciler

import (
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// meaning says what the documents mean to a set of sinks. It follows a
// repository from commit to commit, at a cost that follows what changed; a first
// commit is the full pass. What a commit changes is in force only once it was
// accepted. Until then it is not lost: any later delta brings it along, or undoes
// it where the documents did.
type meaning struct {
	sinks    []Sink
	set      *schema.Set
	compiler *policies.Compiler
	spoken   map[string]*schema.Document   // by policy: the document that it means, of those in force
	made     map[policies.Name][]*Resource // what the units in force were lowered to
	units    map[policies.Name]bool        // changed since the last commit in force
	docs     map[schema.Name]bool          // likewise
	good     *schema.Snapshot              // the one in force; nil before the first
}

// newMeaning returns the meaning of no documents. The compiler, of an empty
// repository, is the meaning's from now on.
func newMeaning(sinks []Sink, compiler *policies.Compiler) *meaning {
	return &meaning{
		sinks: sinks, set: schema.NewSet(), compiler: compiler,
		spoken: map[string]*schema.Document{}, made: map[policies.Name][]*Resource{}, units: map[policies.Name]bool{}, docs: map[schema.Name]bool{},
	}
}

// delta is what a commit changes of the one in force.
type delta struct {
	snapshot *schema.Snapshot
	facts    policies.Facts
	ir       *policies.IR
	units    []policies.Name // sorted
	fresh    []lowered       // what is made of them now
	docs     []schema.Name   // new, changed or gone; sorted
}

// lowered is what a sink makes of a unit.
type lowered struct {
	unit      policies.Name
	sink      Sink // nil: no sink's, but what a source of facts acts on
	resources []*Resource
}

// read says what a snapshot and facts change of what is in force. Reading them again
// gives the same delta. The error is schema.Errors where the documents are at fault.
func (m *meaning) read(s *schema.Snapshot, facts policies.Facts) (*delta, error) {
	changed := m.set.Update(s)
	for _, n := range changed {
		m.docs[n] = true
	}
	facts = m.suspend(facts)
	ir, units, err := m.compiler.Compile(m.set, changed, facts)
	if err != nil {
		return nil, err
	}
	for _, n := range units {
		m.units[n] = true
	}
	d := &delta{
		snapshot: s, facts: facts, ir: ir,
		units: slices.SortedFunc(maps.Keys(m.units), policies.Name.Compare), docs: slices.SortedFunc(maps.Keys(m.docs), schema.Name.Compare),
	}
	d.fresh, err = lowerUnits(m.sinks, ir, d.units)
	return d, err
}

// accept puts a delta in force and returns what the changed units had been
// lowered to before.
func (m *meaning) accept(d *delta) (gone []*Resource) {
	for _, n := range d.units {
		gone = append(gone, m.made[n]...)
		delete(m.made, n)
	}
	for _, l := range d.fresh {
		m.made[l.unit] = append(slices.Clip(m.made[l.unit]), l.resources...)
	}
	for _, n := range d.docs {
		if n.Kind == schema.KindPolicy {
			m.speak(n.Name)
		}
	}
	m.good = d.snapshot
	m.units, m.docs = map[policies.Name]bool{}, map[schema.Name]bool{}
	return gone
}

// lowerUnits says what every unit is at every sink and to the sources of facts, and touches no state.
func lowerUnits(sinks []Sink, ir *policies.IR, units []policies.Name) ([]lowered, error) {
	var all []lowered
	for _, n := range units {
		for _, s := range sinks {
			resources, err := s.Lower(ir, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", n, err)
			}
			for _, res := range resources {
				res.unit = &n
			}
			if len(resources) > 0 {
				all = append(all, lowered{n, s, resources})
			}
		}
		if resources := wishes(ir, n); len(resources) > 0 {
			all = append(all, lowered{n, nil, resources})
		}
	}
	return all, nil
}
