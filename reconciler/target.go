package reconciler

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"
)

// The pauses between tries at what failed.
const (
	backoffFirst = time.Second
	backoffMost  = time.Minute
)

// target is one place that resources live at, and where the loop stands with it.
type target struct {
	name       string
	sink       Sink
	self       *Resource // of KindTarget; kept after its document is gone, to clean up
	desired    State
	observed   State         // nil until the first good Observe
	dirty      map[Key]bool  // keys where the two may differ
	errs       map[Key]error // what failed last, or is in trouble
	err        error         // what keeps the whole target from being worked on
	stale      bool          // a hint came: read again
	running    bool
	observedAt time.Time
	retryAt    time.Time
	backoff    time.Duration
	since      time.Time // of the last change of its standing
}

func newTarget(name string, sink Sink) *target {
	return &target{
		name: name, sink: sink, desired: State{}, dirty: map[Key]bool{}, errs: map[Key]error{}, since: time.Now(),
	}
}

// set changes one desired resource; nil takes it away.
func (t *target) set(k Key, res *Resource) {
	if res == nil {
		delete(t.desired, k)
	} else {
		t.desired[k] = res
		if k.Kind == KindTarget {
			if t.self != nil && !t.self.Body.Equal(res.Body) || t.self == nil || t.self.Body.String() != res.Body.String() {
				t.stale = true
			}
			t.self = res
		}
	}
	t.dirty[k] = true
}

// diff compares the keys that may differ and forgets those that do not.
func (t *target) diff() []Change {
	if len(t.dirty) == 0 {
		return nil
	}
	changes := Diff(t.desired, t.observed, maps.Keys(t.dirty))
	differs := make(map[Key]bool, len(changes))
	for _, c := range changes {
		differs[c.Key()] = true
	}
	for k := range t.dirty {
		if !differs[k] {
			delete(t.dirty, k)
			if t.desired[k] != nil && t.observed[k] != nil {
				t.observed[k] = t.desired[k] // equal, and it knows its document
			}
		}
	}
	return changes
}

// job is one piece of I/O at a target: an Apply of changes, or an Observe where
// there are none.
type job struct{ changes []Change }

// result is how a job ended.
type result struct {
	target   *target
	job      job
	observed State
	failed   map[Key]error // by key
	err      error         // of an Observe as a whole
}

// start runs a job beside the loop.
func (r *Reconciler) start(ctx context.Context, t *target, j job) {
	t.running = true
	sink, self := t.sink, t.self
	go func() {
		res := result{target: t, job: j}
		if j.changes == nil {
			res.observed, res.err = sink.Observe(ctx, t.name, self)
		} else {
			res.failed = apply(ctx, sink, self, j.changes)
		}
		select {
		case r.finished <- res:
		case <-ctx.Done():
		}
	}()
}

// finish takes a job's result into the state.
func (r *Reconciler) finish(res result) {
	t := res.target
	t.running = false
	if res.job.changes == nil {
		r.finishObserve(t, res)
	} else {
		r.finishApply(t, res)
	}
	if t.self != nil && t.desired[t.self.Key] == nil && len(t.desired) == 0 && len(t.observed) == 0 && t.observed != nil {
		delete(r.targets, t.name) // its document is gone and so is everything on it
	}
}

func (r *Reconciler) finishObserve(t *target, res result) {
	partial, isPartial := errors.AsType[*PartialError](res.err)
	if res.err != nil && !isPartial {
		t.refuse(res.err, r.cfg.Log)
		t.pause()
		return
	}
	first := t.observed == nil
	last := t.observed
	t.observed, t.observedAt = res.observed, time.Now()
	t.settle(nil)
	clear(t.errs)
	if isPartial {
		for k, err := range partial.Keys {
			t.errs[k] = err
			r.cfg.Log.Error("in trouble", "target", t.name, "resource", k.String(), "document", t.origin(k), "error", err)
		}
	}
	for k := range Union(t.desired, t.observed) {
		d, o := t.desired[k], t.observed[k]
		switch {
		case d == nil || o == nil || !d.Body.Equal(o.Body):
			if o != nil && last[k] != nil && o.Body.Equal(last[k].Body) {
				t.observed[k] = last[k] // it knows its document
			}
			drifted := !first && !t.dirty[k]
			t.dirty[k] = true
			if drifted {
				change := Change{Old: d, New: o}
				r.cfg.Log.Warn("drift", "target", t.name, "found", change.String())
			}
		default:
			t.observed[k] = d
		}
	}
	t.backoff, t.retryAt = 0, time.Time{}
}

func (r *Reconciler) finishApply(t *target, res result) {
	clear(t.errs)
	done := make([]Change, 0, len(res.job.changes))
	for _, c := range res.job.changes {
		k := c.Key()
		if err := res.failed[k]; err != nil {
			t.errs[k] = err
			t.dirty[k] = true
			continue
		}
		done = append(done, c)
		if c.New == nil {
			delete(t.observed, k)
		} else {
			t.observed[k] = c.New
		}
		if t.desired[k] == c.New {
			delete(t.dirty, k)
		}
	}
	if len(done) > 0 {
		plan := Plan{Revision: r.revision, Changes: done}
		r.cfg.Log.Info("applied", "target", t.name, "revision", r.revision, "changes", len(done), "plan", plan.String())
	}
	if len(t.errs) == 0 {
		t.settle(nil)
		t.backoff, t.retryAt = 0, time.Time{}
		return
	}
	for _, k := range slices.SortedFunc(maps.Keys(t.errs), Key.Compare) {
		r.cfg.Log.Error("not applied, will try again", "resource", k.String(), "document", t.origin(k), "error", t.errs[k])
	}
	t.settle(fmt.Errorf("%d of %d changes failed", len(t.errs), len(res.job.changes)))
	t.stale = true // what really is there is read before the next try
	t.pause()
}

// origin is the document that a key comes from.
func (t *target) origin(k Key) string {
	for _, s := range []State{t.desired, t.observed} {
		if s[k] != nil && s[k].Origin.Path != "" {
			return s[k].Origin.String()
		}
	}
	return ""
}

// settle records how the target stands.
func (t *target) settle(err error) {
	if (t.err == nil) != (err == nil) {
		t.since = time.Now()
	}
	t.err = err
}

// refuse records why nothing is done at the target, and says so once.
func (t *target) refuse(err error, log *slog.Logger) {
	if t.err == nil || t.err.Error() != err.Error() {
		log.Error("target held", "target", t.name, "error", err)
	}
	t.settle(err)
	t.retryAt = time.Now().Add(backoffMost)
}

// pause puts off the next try, longer each time.
func (t *target) pause() {
	t.backoff = min(max(2*t.backoff, backoffFirst), backoffMost)
	t.retryAt = time.Now().Add(t.backoff)
}

// apply makes changes stage by stage. A change waits where something that it
// refers to failed, and a delete where something that failed still refers to
// it. Creates that failed are tried once more after the deletes, which may have
// made room.
func apply(ctx context.Context, sink Sink, self *Resource, changes []Change) map[Key]error {
	failed := map[Key]error{}
	for stage := range stages(changes) {
		try, held := split(stage, failed, changes)
		maps.Copy(failed, held)
		if len(try) == 0 {
			continue
		}
		maps.Copy(failed, failures(sink.Apply(ctx, self, try), try))
	}
	if len(failed) == 0 || !slices.ContainsFunc(changes, func(c Change) bool { return c.Op() == Delete }) {
		return failed
	}
	for stage := range stages(changes) {
		var again []Change
		for _, c := range stage {
			if failed[c.Key()] != nil && c.Op() != Delete {
				again = append(again, c)
				delete(failed, c.Key())
			}
		}
		try, held := split(again, failed, changes)
		maps.Copy(failed, held)
		if len(try) > 0 {
			maps.Copy(failed, failures(sink.Apply(ctx, self, try), try))
		}
	}
	return failed
}

// split parts a stage into what can be tried and what has to wait.
func split(stage []Change, failed map[Key]error, all []Change) (try []Change, held map[Key]error) {
	held = map[Key]error{}
	if len(failed) == 0 {
		return stage, held
	}
	inUse := map[Key]Key{}
	for _, c := range all {
		if failed[c.Key()] != nil && c.Old != nil {
			for _, ref := range c.Old.Refs {
				inUse[ref] = c.Key()
			}
		}
	}
	for _, c := range stage {
		if blocker, blocked := blockedBy(c, failed, inUse); blocked {
			held[c.Key()] = fmt.Errorf("waits for %s %s, which failed", blocker.Kind, blocker.Name)
			continue
		}
		try = append(try, c)
	}
	return try, held
}

func blockedBy(c Change, failed map[Key]error, inUse map[Key]Key) (Key, bool) {
	if c.Op() == Delete {
		user, used := inUse[c.Key()]
		return user, used
	}
	for _, ref := range c.New.Refs {
		if failed[ref] != nil {
			return ref, true
		}
	}
	return Key{}, false
}
