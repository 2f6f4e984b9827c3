package reconciler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// Source is where documents come from.
type Source interface {
	// Fetch returns the newest snapshot. After an error the last one stays good.
	Fetch(context.Context) (*schema.Snapshot, error)
	// Changed gets a value when a Fetch may return something new. It is a hint
	// that coalesces.
	Changed() <-chan struct{}
}

// Config is what a Reconciler works with.
type Config struct {
	Source    Source
	Sinks     []Sink
	Store     *Store        // nil: nothing outlives the process
	Hints     *Hints        // what the sinks add to
	Drift     time.Duration // how often live state is read again
	MaxDelete int           // per cent of a target's live resources that one plan may delete
	Confirm   string        // the revision whose plans may delete more
	Log       *slog.Logger
}

// Reconciler is the one loop. All its state belongs to the goroutine of Run;
// others reach it through do.
type Reconciler struct {
	cfg      Config
	set      *schema.Set
	compiler *policies.Compiler
	ir       *policies.IR
	keys     map[policies.Name][]Key // what each unit was lowered to
	targets  map[string]*target
	revision string // the last good one
	seen     string // the last fetched one
	since    time.Time
	fetchErr error // of the last Fetch
	badErr   error // what is wrong with seen, where it is not good
	savedIDs int
	fetching bool
	fetched  chan fetched
	finished chan result
	do       chan func()
	settled  chan struct{} // closed and replaced whenever the loop has nothing to do
}

// fetched is what a Fetch returned.
type fetched struct {
	snapshot *schema.Snapshot
	err      error
}

// New returns a reconciler that has not fetched anything yet.
func New(cfg Config) (*Reconciler, error) {
	ids := policies.NewIDs()
	if cfg.Store != nil {
		err := cfg.Store.Load("ids", func(_ string, v []byte) error { return json.Unmarshal(v, ids) })
		if err != nil {
			return nil, fmt.Errorf("the numbers in the --state file cannot be read: %w", err)
		}
	}
	return &Reconciler{
		cfg: cfg, set: schema.NewSet(), compiler: policies.NewCompiler(ids), keys: map[policies.Name][]Key{},
		targets: map[string]*target{}, fetched: make(chan fetched), finished: make(chan result), do: make(chan func()),
		since: time.Now(), settled: make(chan struct{}),
	}, nil
}

// Run reconciles until ctx ends: a commit becomes desired state, what is live is
// read, what differs is applied, what fails is tried again.
func (r *Reconciler) Run(ctx context.Context) error {
	r.fetch(ctx)
	for {
		r.step(ctx)
		timer := time.NewTimer(r.untilNext())
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-r.changed():
			r.fetch(ctx)
		case f := <-r.fetched:
			r.adopt(f)
		case <-r.cfg.Hints.Woken():
			r.lookAgain(r.cfg.Hints.Take())
		case res := <-r.finished:
			r.finish(res)
		case f := <-r.do:
			f()
		case <-timer.C:
		}
		timer.Stop()
	}
}

// inLoop runs f in the loop's goroutine and waits for it.
func (r *Reconciler) inLoop(ctx context.Context, f func()) error {
	done := make(chan struct{})
	select {
	case r.do <- func() { f(); close(done) }:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changed is the source's hints. While a fetch runs, which may have looked too
// early, a hint waits.
func (r *Reconciler) changed() <-chan struct{} {
	if r.fetching {
		return nil
	}
	return r.cfg.Source.Changed()
}

// fetch asks the source, one request at a time.
func (r *Reconciler) fetch(ctx context.Context) {
	r.fetching = true
	go func() {
		s, err := r.cfg.Source.Fetch(ctx)
		select {
		case r.fetched <- fetched{s, err}:
		case <-ctx.Done():
		}
	}()
}

// adopt makes a snapshot the desired state if all of it is good; else the last
// good one stays.
func (r *Reconciler) adopt(f fetched) {
	r.fetching = false
	r.fetchErr = f.err
	if f.err != nil {
		r.cfg.Log.Error("fetch failed, the last good commit stays", "error", f.err, "revision", r.revision)
		return
	}
	if f.snapshot.Revision == r.seen {
		return
	}
	r.seen = f.snapshot.Revision
	changed := r.set.Update(f.snapshot)
	ir, units, err := r.compiler.Compile(r.set, changed)
	if err == nil {
		err = r.lower(ir, units)
	}
	r.badErr = err
	if err != nil {
		r.cfg.Log.Error("commit refused, the last good one stays", "refused", r.seen, "revision", r.revision, "error", err)
		return
	}
	for _, w := range r.compiler.Warnings() {
		r.cfg.Log.Warn("odd", "warning", w)
	}
	if err := r.saveIDs(); err != nil {
		r.badErr = err
		r.cfg.Log.Error("cannot write the --state file", "error", err)
		return
	}
	r.revision, r.since = r.seen, time.Now()
	r.cfg.Log.Info("commit adopted", "revision", r.revision, "documents", r.set.Len(), "units", len(units))
}

// saveIDs keeps the numbers before anything that uses them is applied.
func (r *Reconciler) saveIDs() error {
	if r.cfg.Store == nil || r.compiler.IDsChanged() == r.savedIDs {
		return nil
	}
	b, err := json.Marshal(r.compiler.IDs())
	if err != nil {
		return err
	}
	r.savedIDs = r.compiler.IDsChanged()
	return r.cfg.Store.Write("ids", map[string][]byte{"table": b}, nil)
}

// lower makes desired resources of the units that changed.
func (r *Reconciler) lower(ir *policies.IR, units []policies.Name) error {
	fresh, err := lowerUnits(r.cfg.Sinks, ir, units)
	if err != nil {
		return err
	}
	r.ir = ir
	for _, n := range units {
		gone := r.keys[n]
		delete(r.keys, n)
		for _, k := range gone {
			t := r.target(k.Target, nil)
			t.set(k, nil)
		}
	}
	for _, l := range fresh {
		keys := make([]Key, len(l.resources))
		for i, res := range l.resources {
			keys[i] = res.Key
			r.target(res.Target, l.sink).set(res.Key, res)
		}
		r.keys[l.unit] = append(r.keys[l.unit], keys...)
	}
	for _, t := range r.targets {
		t.backoff, t.retryAt = 0, time.Time{}
	}
	return nil
}

// lowered is what a sink makes of a unit.
type lowered struct {
	unit      policies.Name
	sink      Sink
	resources []*Resource
}

// lowerUnits asks every sink about every unit, and touches no state.
func lowerUnits(sinks []Sink, ir *policies.IR, units []policies.Name) ([]lowered, error) {
	var all []lowered
	for _, n := range units {
		for _, s := range sinks {
			resources, err := s.Lower(ir, n)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", n, err)
			}
			if len(resources) > 0 {
				all = append(all, lowered{n, s, resources})
			}
		}
	}
	return all, nil
}

// target returns the target of a name, which is new where a sink lowers to it
// for the first time.
func (r *Reconciler) target(name string, sink Sink) *target {
	t := r.targets[name]
	if t == nil {
		t = newTarget(name, sink)
		r.targets[name] = t
	}
	return t
}

// lookAgain has targets read again.
func (r *Reconciler) lookAgain(names []string) {
	for _, n := range names {
		if t := r.targets[n]; t != nil {
			t.stale = true
			t.backoff, t.retryAt = 0, time.Time{}
		}
	}
}

// step starts whatever can be done now: for each idle target, a read if one is
// due, else an Apply of what differs.
func (r *Reconciler) step(ctx context.Context) {
	now := time.Now()
	busy := r.fetching
	for _, name := range slices.Sorted(maps.Keys(r.targets)) {
		t := r.targets[name]
		if !t.running && r.revision != "" {
			r.work(ctx, t, now)
		}
		busy = busy || t.running
	}
	if !busy {
		close(r.settled)
		r.settled = make(chan struct{})
	}
}

// work gives an idle target its next job, if there is one.
func (r *Reconciler) work(ctx context.Context, t *target, now time.Time) {
	if now.Before(t.retryAt) {
		return
	}
	if t.observed == nil || t.stale || r.cfg.Drift > 0 && now.Sub(t.observedAt) >= r.cfg.Drift {
		t.stale = false
		r.start(ctx, t, job{})
		return
	}
	changes := t.diff()
	if len(changes) == 0 {
		return
	}
	if err := guard(changes, len(t.observed), r.cfg.MaxDelete); err != nil && r.cfg.Confirm != r.revision {
		t.refuse(err, r.cfg.Log)
		return
	}
	r.start(ctx, t, job{changes: changes})
}

// guard refuses a plan that would delete more of what is live than the set
// share.
func guard(changes []Change, live, maxDelete int) error {
	deletes := 0
	for _, c := range changes {
		if c.Op() == Delete {
			deletes++
		}
	}
	if deletes*100 <= live*maxDelete {
		return nil
	}
	return fmt.Errorf("the plan would delete %d of %d live resources, more than --max-delete %d%%; check the commit, then restart with --confirm-delete and its revision", deletes, live, maxDelete)
}

// untilNext is the time until some target is due.
func (r *Reconciler) untilNext() time.Duration {
	next := time.Hour
	now := time.Now()
	for _, t := range r.targets {
		switch {
		case t.running:
		case t.retryAt.After(now):
			next = min(next, t.retryAt.Sub(now))
		case r.cfg.Drift > 0 && t.observed != nil:
			next = min(next, max(0, r.cfg.Drift-now.Sub(t.observedAt)))
		}
	}
	return next
}
