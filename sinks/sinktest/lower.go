package sinktest

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// testLower checks that Lower is pure: equal inputs give equal resources, whatever was
// lowered before and in any order. References exist, and those within the target are to
// lower ranks.
func testLower(t *testing.T, r *Rig) {
	ids := policies.NewIDs()
	again := newWorld(t, ids.Clone(), r.Base)
	w := newWorld(t, ids, r.Base)
	for range 3 {
		identical(t, w.desired(r), again.desired(r))
	}
	checkRefs(t, w.desired(r), w.everywhere(r))
	idsNow := w.compiler.IDs()
	w.commit(r.Changed)
	checkRefs(t, w.desired(r), w.everywhere(r))
	identical(t, w.desired(r), newWorld(t, idsNow, r.Changed).desired(r)) // as after a restart
	w.commit(r.Base)
	identical(t, w.desired(r), again.desired(r))

	for _, kind := range []string{schema.KindService, schema.KindGateway, schema.KindNode, schema.KindSwitch} {
		resources, err := r.Sink.Lower(w.ir, policies.Name{Kind: kind, Name: "nobody"})
		if err != nil || len(resources) != 0 {
			t.Errorf("Lower of a %s that does not exist: %v, error %v", kind, resources, err)
		}
	}
}

// identical checks that all fields of two states are the same.
func identical(t *testing.T, a, b reconciler.State) {
	t.Helper()
	for k := range reconciler.Union(a, b) {
		x, y := a[k], b[k]
		switch {
		case x == nil || y == nil:
			t.Errorf("%s is lowered in one run and not in another", k)
		case x.Rank != y.Rank || x.Origin != y.Origin || !slices.Equal(x.Refs, y.Refs):
			t.Errorf("%s has %d %v %v in one run and %d %v %v in another", k, x.Rank, x.Origin, x.Refs, y.Rank, y.Origin, y.Refs)
		case !x.Body.Equal(y.Body) || !y.Body.Equal(x.Body) || x.Body.String() != y.Body.String():
			t.Errorf("%s is %s in one run and %s in another", k, x.Body, y.Body)
		}
	}
}

func checkRefs(t *testing.T, state, everywhere reconciler.State) {
	t.Helper()
	for _, k := range slices.SortedFunc(maps.Keys(state), reconciler.Key.Compare) {
		res := state[k]
		if res.Origin.Path == "" || res.Origin.Line == 0 {
			t.Errorf("%s has no origin: %v", k, res.Origin)
		}
		if k.Kind == "" || k.Name == "" && k.Kind != reconciler.KindTarget {
			t.Errorf("%s is not a complete key", k)
		}
		for _, ref := range res.Refs {
			to := everywhere[ref]
			switch {
			case to == nil:
				t.Errorf("%s refers to %s, which does not exist", k, ref)
			case ref.Target == k.Target && to.Rank >= res.Rank:
				t.Errorf("%s of rank %d refers to %s of rank %d", k, res.Rank, ref, to.Rank)
			}
		}
	}
}

// testLines checks that bodies print as one line, and that bodies of different kinds can
// be compared and are not equal.
func testLines(t *testing.T, r *Rig) {
	w := newWorld(t, policies.NewIDs(), r.Base)
	base := w.desired(r)
	w.commit(r.Changed)
	changed := w.desired(r)
	var bodies []reconciler.Body
	kinds := map[string]bool{}
	for _, k := range slices.SortedFunc(maps.Keys(base), reconciler.Key.Compare) {
		oneLine(t, k, "String", base[k].Body.String())
		if changed[k] != nil && !changed[k].Body.Equal(base[k].Body) {
			oneLine(t, k, "Delta", changed[k].Body.Delta(base[k].Body))
		}
		if !base[k].Body.Equal(base[k].Body) {
			t.Errorf("%s is not equal to itself", k)
		}
		if !kinds[k.Kind] {
			kinds[k.Kind] = true
			bodies = append(bodies, base[k].Body)
		}
	}
	for i, a := range bodies {
		for j, b := range bodies {
			if (i == j) != a.Equal(b) {
				t.Errorf("%T equal to %T: %t", a, b, a.Equal(b))
			}
			if text := a.Delta(b); strings.ContainsAny(text, "\n\r") {
				t.Errorf("Delta of %T to %T is not one line: %q", a, b, text)
			}
		}
	}
}

func oneLine(t *testing.T, k reconciler.Key, what, text string) {
	t.Helper()
	if text == "" || strings.ContainsAny(text, "\n\r") || strings.TrimSpace(text) != text {
		t.Errorf("%s of %s is not one line: %q", what, k, text)
	}
}

// testOrder checks that plans make before they break: a resource is created after those
// that it refers to, and deleted before them.
func testOrder(t *testing.T, r *Rig) {
	w := newWorld(t, policies.NewIDs(), r.Base)
	base, all := w.desired(r), w.everywhere(r)
	w.commit(r.Changed)
	changed, allChanged := w.desired(r), w.everywhere(r)
	checkOrder(t, all, reconciler.State{})
	checkOrder(t, allChanged, all)
	checkOrder(t, all, allChanged)
	checkOrder(t, reconciler.State{}, all)
	var ops [3]int
	for _, c := range plan(changed, base) {
		ops[strings.IndexByte("+~-", byte(c.Op()))]++
	}
	if slices.Contains(ops[:], 0) {
		t.Fatalf("the changed documents create, update and delete %v resources; want some of each", ops)
	}
}

// checkOrder makes the plans of all targets, each in its order, and checks that no change
// leaves a dangling reference. A change that has to wait for another target blocks its
// own target until then, and no two targets wait for each other.
func checkOrder(t *testing.T, desired, observed reconciler.State) {
	t.Helper()
	live := maps.Clone(observed)
	for left := plan(desired, observed); len(left) > 0; {
		blocked := map[string]bool{}
		i := slices.IndexFunc(left, func(c reconciler.Change) bool {
			target := c.Key().Target
			blocked[target] = blocked[target] || waits(c, desired, live)
			return !blocked[target]
		})
		if i < 0 {
			t.Errorf("%d changes wait for each other forever, the first is %s", len(left), left[0])
			return
		}
		makeChange(t, left[i], live)
		left = slices.Delete(left, i, i+1)
	}
}

// waits tells whether a change has to wait for another target: until what it refers to
// there is live, or until nothing there refers to what it deletes.
func waits(c reconciler.Change, desired, live reconciler.State) bool {
	if c.New != nil {
		return slices.ContainsFunc(refsElsewhere(c.New), func(ref reconciler.Key) bool {
			return live[ref] == nil || desired[ref] == nil || !live[ref].Body.Equal(desired[ref].Body)
		})
	}
	for _, res := range live {
		if slices.Contains(refsElsewhere(res), c.Key()) {
			return true
		}
	}
	return false
}

// makeChange makes one change, and checks that it leaves no dangling reference.
func makeChange(t *testing.T, c reconciler.Change, live reconciler.State) {
	t.Helper()
	if c.New != nil {
		live[c.Key()] = c.New
		for _, ref := range c.New.Refs {
			if live[ref] == nil {
				t.Errorf("%s is created before %s, to which it refers", c.Key(), ref)
			}
		}
		return
	}
	delete(live, c.Key())
	for k, res := range live {
		if slices.Contains(res.Refs, c.Key()) {
			t.Errorf("%s is deleted while %s refers to it", c.Key(), k)
		}
	}
}
