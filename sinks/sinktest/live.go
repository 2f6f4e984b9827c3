package sinktest

import (
	"context"
	"errors"
	"iter"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/reconciler"
)

// testFull applies the base documents to an empty target.
func testFull(t *testing.T, r *Rig) {
	start(t, r)
}

// testNoOp checks that nothing is sent if nothing changes: neither by an empty plan nor
// by Observe.
func testNoOp(t *testing.T, r *Rig) {
	w, desired := start(t, r)
	before := r.Sent()
	if before == 0 {
		t.Fatal("Sent does not count what is sent")
	}
	w.commit(r.Base)
	if changes := plan(w.desired(r), observe(t, r, desired)); len(changes) != 0 {
		t.Errorf("the same documents again change %v", changes)
	}
	if err := r.Sink.Apply(t.Context(), self(r, desired), nil); err != nil {
		t.Errorf("Apply of nothing: %v", err)
	}
	same(t, desired, observe(t, r, desired))
	if n := r.Sent() - before; n != 0 {
		t.Errorf("%d were sent, want none", n)
	}
}

// testAgain applies all changes twice, as after a lost answer: the second time changes
// nothing and is not an error.
func testAgain(t *testing.T, r *Rig) {
	w, base := start(t, r)
	creates := withoutTarget(plan(base, reconciler.State{}))
	if err := applyPlan(t.Context(), r, base, creates); err != nil {
		t.Fatalf("creates of existing resources: %v", err)
	}
	same(t, base, observe(t, r, base))
	w.commit(r.Changed)
	changed := w.desired(r)
	changes := plan(changed, observe(t, r, base))
	for range 2 {
		if err := applyPlan(t.Context(), r, changed, changes); err != nil {
			t.Fatalf("the same changes: %v", err)
		}
		same(t, changed, observe(t, r, changed))
	}
}

func withoutTarget(changes []reconciler.Change) []reconciler.Change {
	var rest []reconciler.Change
	for _, c := range changes {
		if !isTarget(c) {
			rest = append(rest, c)
		}
	}
	return rest
}

// testUpdate goes to the later documents and back.
func testUpdate(t *testing.T, r *Rig) {
	w, base := start(t, r)
	w.commit(r.Changed)
	converge(t, r, w.desired(r))
	w.commit(r.Base)
	converge(t, r, base)
}

// testDelete deletes everything but the target itself.
func testDelete(t *testing.T, r *Rig) {
	_, desired := start(t, r)
	left := reconciler.State{}
	if s := self(r, desired); s != nil {
		left[s.Key] = s
	}
	converge(t, r, left)
	converge(t, r, desired)
}

// testRestart checks that a new sink observes what the last one left, and sends nothing.
// A target that forgets is filled again.
func testRestart(t *testing.T, r *Rig) {
	need(t, r.Restart != nil, "restart the sink")
	_, desired := start(t, r)
	r.Sink = r.Restart()
	if r.Forgets {
		same(t, reconciler.State{}, observe(t, r, desired))
		converge(t, r, desired)
		return
	}
	before := r.Sent()
	same(t, desired, observe(t, r, desired))
	if n := r.Sent() - before; n != 0 {
		t.Errorf("the restarted sink sent %d, want nothing", n)
	}
}

// testLeftover restarts with other documents: resources that this process never desired
// are observed, so that they can be deleted, or are gone.
func testLeftover(t *testing.T, r *Rig) {
	need(t, r.Restart != nil, "restart the sink")
	w, base := start(t, r)
	w.commit(r.Changed)
	changed := w.desired(r)
	r.Sink = r.Restart()
	observed := observe(t, r, changed)
	found := 0
	for k := range base {
		if changed[k] == nil {
			found++
			if observed[k] == nil && !r.Forgets {
				t.Errorf("%s is still live and is not observed", k)
			}
		}
	}
	if found == 0 {
		t.Fatal("the changed documents delete nothing")
	}
	converge(t, r, changed)
}

// testForeign adds foreign resources to the target: they are drift, and are deleted.
func testForeign(t *testing.T, r *Rig) {
	need(t, r.Foreign != nil, "add resources without the sink")
	for _, c := range correct(t, r, r.Foreign) {
		if c.Op() != reconciler.Delete {
			t.Errorf("foreign resources are corrected by %s", c)
		}
	}
}

// testDamage changes resources without the sink: that is drift, and is corrected.
func testDamage(t *testing.T, r *Rig) {
	need(t, r.Damage != nil, "change resources without the sink")
	correct(t, r, r.Damage)
}

// correct makes drift and corrects it, and returns the changes that did so.
func correct(t *testing.T, r *Rig, drift func()) []reconciler.Change {
	t.Helper()
	_, desired := start(t, r)
	drift()
	changes := plan(desired, observe(t, r, desired))
	if len(changes) == 0 {
		t.Fatal("the drift is not observed")
	}
	for _, c := range changes {
		oneLine(t, c.Key(), "the change", c.String())
	}
	converge(t, r, desired)
	return changes
}

// testRefused has the target refuse one of several resources: that is an error of its
// key, and the others are live.
func testRefused(t *testing.T, r *Rig) {
	need(t, r.Refused != nil, "refuse a resource")
	w, desired := start(t, r)
	w.commit(r.Changed)
	changed := w.desired(r)
	unit, key := r.Refused(w.ir)
	bad, err := r.Sink.Lower(w.ir, unit)
	if err != nil {
		t.Fatalf("Lower: %v", err)
	}
	wanted := maps.Clone(changed)
	for _, res := range bad {
		wanted[res.Key] = res
	}
	if wanted[key] == nil {
		t.Fatalf("%s is not lowered to %s", unit, key)
	}
	failed := applyPlan(t.Context(), r, wanted, plan(wanted, observe(t, r, desired)))
	if failed == nil || len(failed.Keys) != 1 || failed.Keys[key] == nil {
		t.Fatalf("failed: %v; want only %s", failed.Or(), key)
	}
	oneLine(t, key, "the error", failed.Keys[key].Error())
	for _, res := range bad {
		if res.Key != key {
			changed[res.Key] = res
		}
	}
	same(t, changed, observe(t, r, changed))
}

// testDead kills the target: Apply returns an error, and Observe an error or what is
// still live.
func testDead(t *testing.T, r *Rig) {
	need(t, r.Kill != nil, "die")
	w, base := start(t, r)
	w.commit(r.Changed)
	changed := w.desired(r)
	changes := plan(changed, observe(t, r, base))
	r.Kill()
	next, stop := iter.Pull(reconciler.Stages(changes))
	defer stop()
	stage, _ := next()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := r.Sink.Apply(ctx, self(r, changed), stage)
	if err == nil {
		t.Fatal("Apply to a dead target returns no error")
	}
	if partial, ok := errors.AsType[*reconciler.PartialError](err); ok && len(partial.Keys) != len(stage) {
		t.Errorf("Apply of %d changes to a dead target: %v", len(stage), err)
	}
	oneLine(t, changes[0].Key(), "the error", strings.TrimSpace(err.Error()))
	observed, err := r.Sink.Observe(ctx, r.Target, self(r, changed))
	if err == nil {
		same(t, base, observed)
	}
}

// testCancelled calls Apply and Observe with contexts that have ended, or end meanwhile:
// they return promptly, and the changes that did not fail are made.
func testCancelled(t *testing.T, r *Rig) {
	w, base := start(t, r)
	w.commit(r.Changed)
	changed := w.desired(r)
	for try := range 20 {
		from, to := base, changed
		if try%2 == 1 {
			from, to = changed, base
		}
		changes := plan(to, from)
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(try)*200*time.Microsecond)
		began := time.Now()
		failed := applyPlan(ctx, r, to, changes)
		_, _ = r.Sink.Observe(ctx, r.Target, self(r, to))
		if took := time.Since(began); took > patience/2 {
			t.Errorf("it took %s", took)
		}
		cancel()
		observed := observe(t, r, to)
		for _, c := range changes {
			if o := observed[c.Key()]; failed != nil && failed.Keys[c.Key()] != nil {
				continue
			} else if (o == nil) != (c.New == nil) || o != nil && !o.Body.Equal(c.New.Body) {
				t.Errorf("try %d: did not fail, but was not made: %s", try, c)
			}
		}
		converge(t, r, to)
	}
}

// testStalled cancels an Apply to a target that does not answer.
func testStalled(t *testing.T, r *Rig) {
	need(t, r.Stall != nil, "stop answering")
	w, base := start(t, r)
	w.commit(r.Changed)
	changed := w.desired(r)
	changes := plan(changed, observe(t, r, base))
	r.Stall()
	before := r.Sent()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = applyPlan(ctx, r, changed, changes)
	}()
	for end := time.Now().Add(patience); r.Sent() == before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("Apply sends nothing")
		}
	}
	select {
	case <-done:
		t.Error("Apply does not wait for the target's answer")
	default:
	}
	cancel()
	select {
	case <-done:
	case <-time.After(patience / 2):
		t.Fatal("Apply does not return when its context ends")
	}
}
