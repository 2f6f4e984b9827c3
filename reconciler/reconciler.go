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
	Always    map[string]Sink // targets that are there without a document, and what stale there is goes
	Store     *Store          // nil: nothing outlives the process
	Hints     *Hints          // what the sinks add to
	Health    *Health         // nil: no servers are checked
	Discovery *Discovery      // nil: nothing is looked up in etcd
	Probes    *Probes         // nil: batches that are to be tested wait
	Follow    *Follow         // another daemon moves the rollouts; nil: this one does
	Events    func(Event)     // told of every transition of a rollout; it does not wait
	Drift     time.Duration   // how often live state is read again; 0: never
	MaxDelete int             // per cent of a target's live resources that one plan may delete
	Confirm   string          // the revision whose plans may delete more
	Log       *slog.Logger
}

// Reconciler is the one loop. All its state belongs to the goroutine of Run;
// others reach it through do.
type Reconciler struct {
	cfg     Config
	meaning *meaning
	targets map[string]*target
	refs    map[Key][]Key        // what a key refers to at other targets
	links   map[Key]map[Key]bool // the same seen from there

	revision string // the last good one
	seen     string // the last fetched one
	settled  bool   // whether seen needs no second look: it is in force, or refused for good
	fetchErr error  // of the last Fetch
	badErr   error  // why seen is not in force
	warned   map[string]bool
	former   []*policies.Switch  // switches of the last process, until the first good commit
	lookups  []policies.Lookup   // of the last good commit
	rollouts map[string]*tracked // by policy
	held     map[string]bool     // policies of which it is stored what they stand for
	audited  uint64              // the number of the last record in the audit log

	fetching bool
	refetch  backoff
	fetched  chan fetched
	finished chan result
	do       chan func()
	jobs     sync.WaitGroup
	waiters  []*waiter

	docs   *btree.BTreeG[document] // of the last good commit; copies share what they have in common
	places map[string][]placed     // the same by path, in order of lines
	undone map[schema.Name]int     // how many resources of a document are not as they are to be

	ready, reconciling, stalled flag
}

// fetched is what a Fetch returned.
type fetched struct {
	snapshot *schema.Snapshot
	err      error
}

// New returns a reconciler that has not fetched anything yet.
func New(cfg Config) (*Reconciler, error) {
	r := &Reconciler{
		cfg: cfg, targets: map[string]*target{}, refs: map[Key][]Key{}, links: map[Key]map[Key]bool{}, warned: map[string]bool{},
		fetched: make(chan fetched), finished: make(chan result), do: make(chan func()),
		docs: btree.NewG(32, document.before), places: map[string][]placed{}, undone: map[schema.Name]int{},
		rollouts: map[string]*tracked{}, held: map[string]bool{},
	}
	ids := policies.NewIDs()
	if cfg.Store != nil {
		err := cfg.Store.Load(bucketIDs, ids.Read)
		if err != nil {
			return nil, fmt.Errorf("the numbers in the --state file cannot be read: %w", err)
		}
		if r.former, err = cfg.Store.switches(); err != nil {
			return nil, fmt.Errorf("the switches in the --state file cannot be read: %w", err)
		}
	}
	r.meaning = newMeaning(cfg.Sinks, policies.NewCompiler(ids), nil)
	if cfg.Discovery != nil {
		r.meaning.compiler.SetEndpoints(cfg.Discovery.Endpoints())
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
			r.heed()
		case <-r.cfg.Discovery.Woken():
			r.hear()
		case <-r.cfg.Probes.Woken():
		case <-r.cfg.Follow.Woken():
			r.heedLeader()
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
	r.roll(now)
	for _, name := range slices.Sorted(maps.Keys(r.targets)) {
		t := r.targets[name]
		if r.revision == "" || t.running || !t.poked && now.Before(t.next) {
			continue
		}
		t.poked = false
		r.work(ctx, t, now)
	}
	r.stand(now)
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
	changes := r.differences(t)
	if r.guard(t, changes); t.held != nil {
		changes = nil
	}
	able, unsure, next := r.sift(t, changes, now)
	switch {
	case len(able) > 0:
		r.start(ctx, t, able)
	case unsure:
		r.start(ctx, t, nil)
	}
	if t.next = next; r.cfg.Drift > 0 && t.readAt.Add(r.cfg.Drift).Before(next) {
		t.next = t.readAt.Add(r.cfg.Drift)
	}
}

// differences is what has to change at a target, in order. What is to stay, but
// has lost what it refers to at another target, goes until that is back.
func (r *Reconciler) differences(t *target) []Change {
	if len(t.dirty) == 0 {
		return nil
	}
	want, copied := t.desired, false
	for k := range t.dirty {
		if t.observed[k] == nil || r.supported(t.desired[k]) {
			continue
		}
		if !copied {
			want, copied = maps.Clone(t.desired), true
		}
		delete(want, k)
	}
	return Diff(want, t.observed, maps.Keys(t.dirty))
}

// guard refuses a plan that would delete more of what is live than the set
// share. What describes the target itself carries no traffic and does not count.
func (r *Reconciler) guard(t *target, changes []Change) {
	self := Key{Target: t.name, Kind: KindTarget}
	live, deletes := len(t.observed), 0
	if t.observed[self] != nil {
		live--
	}
	for _, c := range changes {
		if k := c.Key(); c.Op() == Delete && t.desired[k] == nil && k != self && !t.inherited(c.Old) {
			deletes++
		}
	}
	was := t.held
	t.held = nil
	if deletes*100 <= live*r.cfg.MaxDelete || r.cfg.Confirm == r.revision {
		return
	}
	returns := r.returns()
	for _, c := range changes {
		if k := c.Key(); c.Op() == Delete && t.desired[k] == nil && k != self && !t.inherited(c.Old) && returns(c.Old) {
			deletes--
		}
	}
	if deletes*100 <= live*r.cfg.MaxDelete {
		return
	}
	t.held = fmt.Errorf("the plan would delete %d of %d live resources, more than --max-delete %d%%; check the commit, then restart with --confirm-delete %s",
		deletes, live, r.cfg.MaxDelete, r.revision)
	if was == nil || was.Error() != t.held.Error() {
		r.cfg.Log.Error("target held", "target", t.name, "error", t.held)
	}
}

// sift takes out of changes, which are in order, those that can be made now. What
// failed waits for its next try, before which the target is read anew (unsure
// where that is all that is left to do), and what depends on it or on another
// target waits too. Next is when the first of them is due.
func (r *Reconciler) sift(t *target, changes []Change, now time.Time) (able []Change, unsure bool, next time.Time) {
	t.waiting = map[Key]Key{}
	next = now.Add(time.Hour)
	var g gate
	yields := r.yields()
	for _, c := range changes {
		k := c.Key()
		why, wait := g.blocks(c)
		if !wait {
			why, wait = r.waitsFor(c)
		}
		if !wait {
			why, wait = t.yieldsTo(c, yields)
		}
		switch tr := t.troubles[k]; {
		case wait:
			t.waiting[k] = why
		case tr != nil && now.Before(tr.retry.until):
			if tr.retry.until.Before(next) {
				next = tr.retry.until
			}
		case tr != nil && tr.reads == t.reads:
			unsure = true
		case c.turn() == turnTarget: // it may take all else with it, so that is read anew first
			return []Change{c}, false, next
		default:
			able = append(able, c)
			continue
		}
		g.shut(c)
	}
	return able, unsure, next
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
