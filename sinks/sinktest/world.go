package sinktest

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// world compiles commits one after the other, as the reconciler does.
type world struct {
	t        *testing.T
	set      *schema.Set
	compiler *policies.Compiler
	ir       *policies.IR
	units    []policies.Name // of the IR
}

func newWorld(t *testing.T, ids *policies.IDs, documents map[string]string) *world {
	t.Helper()
	w := &world{t: t, set: schema.NewSet(), compiler: policies.NewCompiler(ids, nil)}
	w.commit(documents)
	return w
}

func (w *world) commit(documents map[string]string) {
	w.t.Helper()
	var files []*schema.File
	for path, text := range documents {
		files = append(files, &schema.File{Path: path, ID: text, Data: []byte(text)})
	}
	ir, changed, err := w.compiler.Compile(w.set, w.set.Update(&schema.Snapshot{Files: schema.NewFiles(files...)}), policies.Facts{})
	if err != nil {
		w.t.Fatalf("cannot compile the documents: %v", err)
	}
	w.ir = ir
	for _, n := range changed {
		i := slices.Index(w.units, n)
		switch have := ir.Get(n) != nil; {
		case have && i < 0:
			w.units = append(w.units, n)
		case !have && i >= 0:
			w.units = slices.Delete(w.units, i, i+1)
		}
	}
}

// desired is the desired state of the target.
func (w *world) desired(r *Rig) reconciler.State {
	w.t.Helper()
	state := w.lower(r.Sink)
	maps.DeleteFunc(state, func(k reconciler.Key, _ *reconciler.Resource) bool { return k.Target != r.Target })
	if len(state) == 0 {
		w.t.Fatalf("nothing is lowered to target %s", r.Target)
	}
	return state
}

// everywhere is the desired state of the target and of the targets of Elsewhere.
func (w *world) everywhere(r *Rig) reconciler.State {
	w.t.Helper()
	state := w.desired(r)
	for _, sink := range r.Elsewhere {
		maps.Copy(state, w.lower(sink))
	}
	return state
}

// lower lowers all units by a sink, in random order.
func (w *world) lower(sink reconciler.Sink) reconciler.State {
	w.t.Helper()
	state := reconciler.State{}
	units := slices.Clone(w.units)
	rand.Shuffle(len(units), func(i, j int) { units[i], units[j] = units[j], units[i] })
	for _, n := range units {
		resources, err := sink.Lower(w.ir, n)
		if err != nil {
			w.t.Fatalf("Lower of %s: %v", n, err)
		}
		for _, res := range resources {
			if state[res.Key] != nil {
				w.t.Errorf("%s and another unit are lowered to %s", n, res.Key)
			}
			state[res.Key] = res
		}
	}
	return state
}

// start makes the base documents live, and returns their world and desired state.
func start(t *testing.T, r *Rig) (*world, reconciler.State) {
	t.Helper()
	w := newWorld(t, policies.NewIDs(), r.Base)
	desired := w.desired(r)
	converge(t, r, desired)
	return w, desired
}

// self is the resource that describes the target.
func self(r *Rig, desired reconciler.State) *reconciler.Resource {
	return desired[reconciler.Key{Target: r.Target, Kind: reconciler.KindTarget}]
}

func observe(t *testing.T, r *Rig, desired reconciler.State) reconciler.State {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	state, err := r.Sink.Observe(ctx, r.Target, self(r, desired))
	if err != nil {
		t.Fatalf("Observe: %v", err)
	}
	for k, res := range state {
		if k != res.Key || res.Body == nil {
			t.Errorf("Observe returns %s under the key %s", res.Key, k)
		}
	}
	return state
}

// plan lists the changes from observed to desired.
func plan(desired, observed reconciler.State) []reconciler.Change {
	return reconciler.Diff(desired, observed, reconciler.Union(desired, observed))
}

// applyPlan makes changes stage by stage, as the reconciler does.
func applyPlan(ctx context.Context, r *Rig, desired reconciler.State, changes []reconciler.Change) *reconciler.PartialError {
	var failed *reconciler.PartialError
	for stage := range reconciler.Stages(changes) {
		err := r.Sink.Apply(ctx, self(r, desired), stage)
		partial, isPartial := errors.AsType[*reconciler.PartialError](err)
		for _, c := range stage {
			switch {
			case isPartial:
				failed = failed.Add(c.Key(), partial.Keys[c.Key()])
			case err != nil:
				failed = failed.Add(c.Key(), err)
			}
		}
	}
	return failed
}

// converge takes the target to a state, and checks that it is observed.
func converge(t *testing.T, r *Rig, desired reconciler.State) {
	t.Helper()
	changes := plan(desired, observe(t, r, desired))
	if slices.ContainsFunc(changes, isTarget) { // the rest is observed only once this is live
		if err := applyPlan(t.Context(), r, desired, slices.DeleteFunc(slices.Clone(changes), func(c reconciler.Change) bool { return !isTarget(c) })); err != nil {
			t.Fatalf("Apply: %v", err)
		}
		changes = plan(desired, observe(t, r, desired))
	}
	if err := applyPlan(t.Context(), r, desired, changes); err != nil {
		t.Fatalf("Apply: %v", err)
	}
	same(t, desired, observe(t, r, desired))
}

func isTarget(c reconciler.Change) bool { return c.Key().Kind == reconciler.KindTarget }

// same checks that the observed state equals the desired one, compared in both
// directions.
func same(t *testing.T, desired, observed reconciler.State) {
	t.Helper()
	for _, k := range slices.SortedFunc(maps.Keys(desired), reconciler.Key.Compare) {
		d, o := desired[k], observed[k]
		switch {
		case o == nil:
			t.Errorf("%s is not observed", k)
		case !d.Body.Equal(o.Body) || !o.Body.Equal(d.Body):
			t.Errorf("%s is %s, want %s", k, o.Body, d.Body)
		case d.Rank != o.Rank:
			t.Errorf("%s has rank %d, want %d", k, o.Rank, d.Rank)
		case !slices.Equal(refsElsewhere(d), refsElsewhere(o)):
			t.Errorf("%s refers to %v at other targets, want %v", k, refsElsewhere(o), refsElsewhere(d))
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(observed), reconciler.Key.Compare) {
		if desired[k] == nil {
			t.Errorf("%s is observed and not desired: %s", k, observed[k].Body)
		}
	}
	if changes := plan(desired, observed); len(changes) != 0 {
		t.Errorf("a second plan is not empty: %v", changes)
	}
}

// refsElsewhere lists the references of a resource to other targets.
func refsElsewhere(res *reconciler.Resource) []reconciler.Key {
	return slices.DeleteFunc(slices.Clone(res.Refs), func(ref reconciler.Key) bool { return ref.Target == res.Target })
}
