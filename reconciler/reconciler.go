// Package reconciler keeps the live state at what the last good commit means.
//
// It stands between the IR of package policies and the sinks: sinks lower the
// IR to Resources (the desired State), Observe tells what is live, Diff and
// Plan say what differs, Apply does it. The planner is pure; all I/O is in
// sources and sinks; one loop owns all state. What a Plan prints is the value
// that is applied.
package reconciler

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler/board"
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
	Source     Source
	Sinks      []Sink
	Always     map[string]Sink         // targets that are there without a document, and what stale there is goes
	Store      *Store                  // nil: nothing outlives the process
	TableSizes policies.ReadTableSizes // of pipelines of the repository; nil: there are none
	Hints      *board.Hints            // what the sinks add to
	Health     *board.Health           // nil: no servers are checked
	Discovery  *board.Discovery        // nil: nothing is looked up in etcd
	Probes     *board.Probes           // nil: batches that are to be tested wait
	Follow     *board.Follow           // another daemon moves the rollouts; nil: this one does
	Events     func(Event)             // told of transitions of rollouts, and of what is wrong or right again; it does not wait
	Drift      time.Duration           // how often live state is read again; 0: never
	MaxDelete  int                     // per cent of a target's live resources that one plan may delete
	Confirm    string                  // the revision whose plans may delete more
	Log        *slog.Logger
}

// Reconciler is the one loop. All its state belongs to the goroutine of Run;
// others reach it through do.
type Reconciler struct {
	cfg     Config
	meaning *meaning
	facts   policies.Facts // known, and in force as far as they could be compiled and stored
	targets map[string]*target
	links
	standing
	ledger
	serving
	engine
	intake
	lookups []policies.Lookup // of the commit in force

	finished chan result
	do       chan func()
	jobs     sync.WaitGroup
	waiters  []*waiter
}

// intake is the state of fetching.
type intake struct {
	fetching bool
	refetch  backoff
	fetched  chan fetched
}

// links is what resources refer to at other targets.
type links struct {
	refs   map[Key][]Key        // what a key refers to
	users  map[Key]map[Key]bool // the same seen from there
	relied map[Key]string       // what is live and refers to a device that is left: the target that cleans it
}

// standing is the state of commits in the loop.
type standing struct {
	revision string            // in force: desired at every target
	seen     string            // the last fetched one
	settled  bool              // whether seen needs no second look: it is in force, or refused for good
	admitted bool              // revision passed the guard, so that targets may be changed
	fetchErr error             // of the last Fetch
	badErr   error             // why seen is not in force
	warned   map[string]bool   // the warnings of the commit in force; replaced, never changed
	live     map[string]int    // how many resources the commit in force asks for, by target
	told     map[string]plight // what is wrong and was told of
	stored

	ready, reconciling, stalled flag
}

// stored is what the store holds of commits.
type stored struct {
	last       board.Commit
	unrecorded bool                        // the commit in force is not in last yet
	former     map[string]*policies.Switch // of the last process, until the first good commit
	switches   map[string][]byte           // the records of switches
	held       map[string]bool             // policies of which it is stored what they go on to mean
}

// ledger is the documents in force and what of them is not live.
type ledger struct {
	docs   *btree.BTreeG[document] // copies share what they have in common
	places map[string][]placed     // the same by path, in order of lines
	undone map[schema.Name]int     // by document that causes them: resources that are not as they are to be
}

// engine is the rollouts by policy.
type engine struct {
	rollouts map[string]*tracked
	audited  uint64 // the number of the last record in the audit log
}

// fetched is what a Fetch returned.
type fetched struct {
	snapshot *schema.Snapshot
	err      error
}

// New returns a reconciler that has not fetched anything yet.
func New(cfg Config) (*Reconciler, error) {
	r := &Reconciler{
		cfg: cfg, targets: map[string]*target{}, links: links{map[Key][]Key{}, map[Key]map[Key]bool{}, map[Key]string{}},
		standing: standing{warned: map[string]bool{}, live: map[string]int{}, stored: stored{switches: map[string][]byte{}, held: map[string]bool{}}},
		ledger:   ledger{btree.NewG(32, document.before), map[string][]placed{}, map[schema.Name]int{}},
		serving:  serving{serves: map[schema.Name]any{}, dead: map[schema.Name]map[string]string{}},
		engine:   engine{rollouts: map[string]*tracked{}},
		intake:   intake{fetched: make(chan fetched)}, finished: make(chan result), do: make(chan func()),
	}
	if cfg.Health == nil {
		r.cfg.Health = board.NewHealth()
	}
	if cfg.Probes == nil {
		r.cfg.Probes = board.NewProbes()
	}
	ids := policies.NewIDs()
	if cfg.Store != nil {
		err := cfg.Store.Load(bucketIDs, ids.Read)
		if err != nil {
			return nil, fmt.Errorf("the IDs in the --state file cannot be read: %w", err)
		}
		if r.former, r.switches, err = cfg.Store.switches(); err != nil {
			return nil, fmt.Errorf("the switches in the --state file cannot be read: %w", err)
		}
	}
	r.meaning = newMeaning(cfg.Sinks, policies.NewCompiler(ids, cfg.TableSizes))
	if cfg.Discovery != nil {
		r.facts.Endpoints = cfg.Discovery.Endpoints()
	}
	if err := r.loadRollouts(); err != nil {
		return nil, err
	}
	for name, sink := range cfg.Always {
		r.target(name, sink).always = true
	}
	return r, nil
}

// Run reconciles until ctx ends: a commit becomes desired state, what is live is
// read, what differs is applied, what fails is tried again.
func (r *Reconciler) Run(ctx context.Context) error {
	defer r.jobs.Wait()
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
		case <-r.cfg.Health.Woken():
			r.takeHealth()
		case <-r.cfg.Discovery.Woken():
			r.takeEndpoints()
		case <-r.cfg.Probes.Woken():
		case <-r.cfg.Follow.Woken():
			r.takeLeader()
		case res := <-r.finished:
			r.finish(res)
		case f := <-r.do:
			f()
		case <-timer.C:
		}
		timer.Stop()
	}
}

// step starts whatever can be done now: a Fetch that is due, and for each idle
// target a read if it needs one, else an Apply of what differs.
func (r *Reconciler) step(ctx context.Context) {
	now := time.Now()
	if !r.fetching && !r.refetch.until.IsZero() && !now.Before(r.refetch.until) {
		r.fetch(ctx)
	}
	r.admit()
	r.roll(now)
	for _, name := range slices.Sorted(maps.Keys(r.targets)) {
		t := r.targets[name]
		if r.revision == "" || t.running || !t.poked && now.Before(t.next) {
			continue
		}
		t.poked = false
		r.work(ctx, t, now)
	}
	r.record()
	r.recordState(now)
	r.tellPlights(now)
	r.answer()
}

// work gives an idle target its next job, if there is one.
func (r *Reconciler) work(ctx context.Context, t *target, now time.Time) {
	switch {
	case t.over(now):
		r.drop(t)
		return
	case now.Before(t.retry.until):
		t.next = t.retry.until
		return
	case t.observed == nil || t.stale || r.cfg.Drift > 0 && now.Sub(t.readAt) >= r.cfg.Drift:
		r.start(ctx, t, nil)
		return
	}
	plan, next := r.plan(t, now)
	able := plan.Able()
	switch {
	case len(able) > 0 && able[0].turn() == turnTarget: // it may take all else with it, so that is read anew first
		r.start(ctx, t, able[:1])
	case len(able) > 0:
		r.start(ctx, t, able)
	case t.unsure(now):
		r.start(ctx, t, nil)
	}
	if t.next = next; r.cfg.Drift > 0 && t.readAt.Add(r.cfg.Drift).Before(next) {
		t.next = t.readAt.Add(r.cfg.Drift)
	}
}

// plan is what has to change at a target and what of it has to wait, and when to look
// again without news.
func (r *Reconciler) plan(t *target, now time.Time) (p *Plan, next time.Time) {
	next = now.Add(time.Hour)
	if len(t.dirty) == 0 || !r.admitted {
		t.waits(nil)
		return &Plan{Revision: r.revision}, next
	}
	desired := t.desired
	for k := range t.dirty { // what has lost what it refers to elsewhere goes until that is back
		if t.observed[k] == nil || r.supported(t.desired[k]) {
			continue
		}
		if len(desired) == len(t.desired) {
			desired = maps.Clone(desired)
		}
		delete(desired, k)
	}
	yields := r.yields()
	p = MakePlan(desired, t.observed, View{Revision: r.revision, Keys: maps.Keys(t.dirty), Blocked: func(c Change) (Wait, bool) {
		k := c.Key()
		if why, wait := r.waitsFor(c); wait {
			return Wait{For: why}, true
		}
		if why, wait := t.yieldsTo(c, yields); wait {
			return Wait{For: why}, true
		}
		tr := t.troubles[k]
		if tr == nil || !now.Before(tr.retry.until) && tr.reads != t.reads {
			return Wait{}, false
		}
		if now.Before(tr.retry.until) && tr.retry.until.Before(next) {
			next = tr.retry.until
		}
		return Wait{Why: firstLine(tr.err) + "; it is tried again"}, true
	}})
	t.waits(p.Waiting)
	return p, next
}

// untilNext is the time until something is due.
func (r *Reconciler) untilNext() time.Duration {
	now := time.Now()
	next := time.Hour
	if !r.refetch.until.IsZero() && !r.fetching {
		next = r.refetch.until.Sub(now)
	}
	for _, t := range r.targets {
		switch {
		case t.running || r.revision == "":
		case t.poked:
			return 0
		default:
			next = min(next, t.next.Sub(now))
		}
	}
	return max(min(next, r.nextRollout(now)), 0)
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

// drop forgets a target: its document is gone, and so is everything on it, or it
// could not be reached for so long that nobody can tell.
func (r *Reconciler) drop(t *target) {
	if len(t.observed) > 0 || t.observed == nil {
		r.cfg.Log.Error("target given up, what is on it stays", "target", t.name, "resources", len(t.observed), "error", t.err)
	}
	last := t.observed
	t.observed = State{}
	for k := range last {
		r.touch(t, k)
	}
	delete(r.targets, t.name)
	r.forget(t)
}

// lookAgain has targets read again.
func (r *Reconciler) lookAgain(names []string) {
	for _, n := range names {
		if t := r.targets[n]; t != nil {
			t.stale, t.poked = true, true
			t.retry.soon()
		}
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
	r.jobs.Go(func() {
		s, err := r.cfg.Source.Fetch(ctx)
		select {
		case r.fetched <- fetched{s, err}:
		case <-ctx.Done():
		}
	})
}
