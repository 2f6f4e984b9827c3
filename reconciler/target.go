package reconciler

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// Limits of trying again.
const (
	backoffFirst = time.Second // the first pause after a failure; each next one is twice as long
	backoffMost  = time.Minute
	giveUp       = time.Hour // how long a target without a document is tried that cannot be reached
)

// backoff is when to try again what failed.
type backoff struct {
	pause time.Duration
	until time.Time
}

// failed puts off the next try, longer each time.
func (b *backoff) failed(now time.Time) {
	b.pause = min(max(2*b.pause, backoffFirst), backoffMost)
	b.until = now.Add(b.pause)
}

// soon lets the next try be at once; a failure still makes the pause longer.
func (b *backoff) soon() { b.until = time.Time{} }

// flag is something that is so or not, and since when.
type flag struct {
	on    bool
	since time.Time
}

func (f *flag) set(on bool, now time.Time) {
	if f.on != on || f.since.IsZero() {
		f.on, f.since = on, now
	}
}

// target is one place that resources live at, and its state in the loop.
type target struct {
	identity
	desired  State
	observed State // nil until the first good read; changes between jobs only
	keys
	pending map[schema.Name]*pending // how many of the open keys there are, by unit
	err     error                    // why the target as a whole is not worked on
	reason  string                   // the reason of err, in CamelCase
	retry   backoff                  // after err
	work

	programmed, reconciling, stalled flag
}

// identity is which target it is.
type identity struct {
	name   string
	sink   Sink
	always bool          // it is there without a document
	unit   policies.Name // that self is made of
	self   *Resource     // of KindTarget; kept after its document is gone, to clean up
	record string        // the key of the switch in the store that it is made of; empty: there is none
	was    string        // the target's name before its Switch was given another address; empty: it was not
	moved  bool          // it is another device than before, which nothing relies on yet
	after  *target       // it goes on at the same device once the job that is under way has ended
}

// keys is the keys of a target at which something is to be done or known.
type keys struct {
	dirty    map[Key]bool      // where desired and observed differ, or may
	troubles map[Key]*trouble  // what failed, or is said to be in trouble
	waiting  map[Key]Key       // changes that wait, and for which key
	unproved map[Key]bool      // applied and not read back yet; the target itself, what others refer to, and what rollouts wait for
	charged  map[Key]charge    // the keys that are open
	absent   int               // of troubles: those of ReasonNotConnected
	flying   map[Key]*Resource // what an Apply is making of keys, or may have made where it broke off; nil: deletes them
	later    map[Key]bool      // keys to look at again when the job has ended
}

// work is the state of the jobs of a target.
type work struct {
	stale   bool      // read it before anything else
	running bool      // a job is under way
	reading bool      // it is a read
	poked   bool      // something happened; see whether there is work
	next    time.Time // when to see again without having been poked
	reads   int       // finished ones, also those that failed
	readAt  time.Time // when the last good read ended
}

// trouble is what is wrong with a key.
type trouble struct {
	err   error
	since time.Time
	retry backoff
	reads int // of the target when it failed
}

func newTarget(name string, sink Sink) *target {
	return &target{
		identity: identity{name: name, sink: sink}, desired: State{}, pending: map[schema.Name]*pending{}, work: work{poked: true},
		keys: keys{
			dirty: map[Key]bool{}, troubles: map[Key]*trouble{}, unproved: map[Key]bool{}, charged: map[Key]charge{}, later: map[Key]bool{}, waiting: map[Key]Key{},
		},
	}
}

// want changes one desired resource; nil takes it away. What had failed of another
// one is forgotten.
func (t *target) want(k Key, res *Resource) {
	was := t.desired[k]
	// The new one is asked: it may be known by now what it is to be.
	if was == nil || res == nil || !res.Body.Equal(was.Body) {
		delete(t.troubles, k)
	}
	if res == nil {
		delete(t.desired, k)
		return
	}
	t.desired[k] = res
	if k.Kind == KindTarget {
		t.self, t.stale = res, true // it may be another switch
	}
}

// wakeUp has everything that waits for its next try be tried now.
func (t *target) wakeUp() {
	t.poked = true
	t.retry.soon()
	for _, tr := range t.troubles {
		tr.retry.soon()
	}
}

// differs tells whether a key's desired and live resource differ, or may.
func (t *target) differs(k Key) bool {
	d, o := t.desired[k], t.observed[k]
	return t.observed == nil || d != o && (d == nil || o == nil || !d.Body.Equal(o.Body))
}

// resets tells whether the target itself is to become another one, which takes
// what is on it: another pipeline is to be loaded.
func (t *target) resets() bool {
	self := Key{Target: t.name, Kind: KindTarget}
	return t.differs(self) && takesAll(Change{t.observed[self], t.desired[self]})
}

// takesAll tells whether a change of a target itself takes what is on it.
func takesAll(c Change) bool {
	if c.Old == nil || c.New == nil {
		return false
	}
	body, may := c.New.Body.(interface{ Resets(old Body) bool })
	return !may || body.Resets(c.Old.Body)
}

// waits notes which changes wait for other keys.
func (t *target) waits(waiting []Wait) {
	clear(t.waiting)
	for _, p := range t.pending {
		p.waiting = 0
	}
	for _, w := range waiting {
		if w.For == (Key{}) {
			continue
		}
		t.waiting[w.Key] = w.For
		if p := t.pending[t.charged[w.Key].unit]; p != nil {
			p.waiting++
		}
	}
}

// unsure tells whether something that failed is due, before which the target is to be
// read.
func (t *target) unsure(now time.Time) bool {
	for k, tr := range t.troubles {
		if t.dirty[k] && tr.reads == t.reads && !now.Before(tr.retry.until) {
			return true
		}
	}
	return false
}

// idle tells whether a target has no work that it will go on with by itself.
func (t *target) idle() bool {
	if t.running || t.poked || t.stale || t.observed == nil || t.err != nil {
		return false
	}
	return len(t.dirty) == len(t.waiting)
}

// over tells whether a target has nothing left that it is there for.
func (t *target) over(now time.Time) bool {
	if t.always || len(t.desired) > 0 {
		return false
	}
	return t.observed != nil && len(t.observed) == 0 || t.err != nil && t.stalled.on && now.Sub(t.stalled.since) >= giveUp
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

// recordState records the conditions of the target.
func (t *target) recordState(now time.Time) {
	bad := t.err != nil || len(t.troubles) > 0
	todo := t.observed == nil || len(t.dirty) > 0
	t.programmed.set(!bad && !todo, now)
	t.reconciling.set(todo, now)
	t.stalled.set(bad, now)
}

// job is one piece of I/O at a target: an Apply of changes, or a read where there
// are none.
type job struct {
	revision string
	changes  []Change
}

// result is how a job ended.
type result struct {
	target   *target
	job      job
	observed State         // of a read
	changed  []Key         // what the read found to be other than it was
	done     []Change      // of an Apply
	failed   map[Key]error // by key
	err      error         // of the whole
}

// start runs a job beside the loop.
func (r *Reconciler) start(ctx context.Context, t *target, changes []Change) {
	t.running, t.reading = true, changes == nil
	if t.reading {
		t.stale = false
	} else {
		t.flying = make(map[Key]*Resource, len(changes))
	}
	for _, c := range changes {
		t.flying[c.Key()] = c.New
	}
	sink, self, last, j := t.sink, t.self, t.observed, job{r.revision, changes}
	r.jobs.Go(func() {
		res := result{target: t, job: j}
		if changes == nil {
			res.observed, res.err = sink.Observe(ctx, t.name, self)
			res.changed = merge(last, res.observed)
		} else {
			res.done, res.failed, res.err = apply(ctx, sink, self, changes)
		}
		select {
		case r.finished <- res:
		case <-ctx.Done():
		}
	})
}

// merge takes what did not change over from the last state, as it knows its
// documents, and returns the keys that did.
func merge(last, now State) []Key {
	var changed []Key
	for k, res := range now {
		if was := last[k]; was != nil && was.Body.Equal(res.Body) {
			now[k] = was
			continue
		}
		changed = append(changed, k)
	}
	for k := range last {
		if now[k] == nil {
			changed = append(changed, k)
		}
	}
	slices.SortFunc(changed, Key.Compare)
	return changed
}

// finish takes a job's result into the state.
func (r *Reconciler) finish(res result) {
	t, now := res.target, time.Now()
	if t.after != nil {
		for t.after != nil {
			t = t.after
		}
		t.running, t.poked = false, true
		return
	}
	t.running, t.reading, t.poked = false, false, true
	if res.job.changes == nil {
		r.finishRead(t, res, now)
	} else {
		r.finishApply(t, res, now)
	}
	for k := range t.later {
		r.touch(t, k)
	}
	for _, other := range r.targets { // which may have waited for this one without a reference
		other.poked = other.poked || len(r.rollouts) > 0 && len(other.waiting) > 0
	}
	t.later = map[Key]bool{}
	r.shrink(t)
}

// shrink gives back what maps that are empty had grown to: a map keeps its size.
func (r *Reconciler) shrink(t *target) {
	if len(t.dirty) == 0 {
		t.dirty = map[Key]bool{}
	}
	if len(t.charged) == 0 {
		t.charged = map[Key]charge{}
	}
	if len(r.undone) == 0 {
		r.undone = map[schema.Name]int{}
	}
}

func (r *Reconciler) finishRead(t *target, res result, now time.Time) {
	t.reads++
	partial, isPartial := errors.AsType[*PartialError](res.err)
	if res.err != nil && !isPartial {
		r.fail(t, "Unreachable", res.err, now)
		return
	}
	first, last, unproved, flying := t.observed == nil, t.observed, t.unproved, t.flying
	t.observed, t.readAt, t.unproved, t.flying = res.observed, now, map[Key]bool{}, nil
	for k := range flying {
		r.touch(t, k)
	}
	reset := unproved[Key{Target: t.name, Kind: KindTarget}] // which took what was there
	for _, k := range res.changed {
		r.touch(t, k)
		if _, ours := flying[k]; !first && !reset && !ours && !unproved[k] && t.differs(k) {
			found := Change{Old: t.desired[k], New: t.observed[k]}
			r.cfg.Log.Warn("drift", "target", t.name, "found", found.String())
		}
	}
	lost := map[Key]error{}
	for k := range unproved {
		switch o := t.observed[k]; {
		case last[k] == nil && o != nil:
			lost[k] = errors.New("it was deleted without an error, and is there when it is read back")
		case last[k] != nil && (o == nil || !o.Body.Equal(last[k].Body)):
			lost[k] = errors.New("it was taken without an error, and is not there when it is read back")
		}
		r.touch(t, k)
	}
	r.failed(t, lost, now)
	if first { // until now all keys might have differed
		for k := range t.dirty {
			r.touch(t, k)
		}
	}
	for k := range t.troubles {
		if !t.dirty[k] && (!isPartial || partial.Keys[k] == nil) {
			delete(t.troubles, k)
			r.charge(t, k)
		}
	}
	if isPartial {
		r.trouble(t, "in trouble", partial.Keys, now)
	}
	r.countAbsent(t)
	if t.reason == "Unreachable" || len(t.dirty) == 0 {
		r.stirred = r.stirred || t.err != nil
		t.err, t.retry = nil, backoff{}
	}
}

func (r *Reconciler) finishApply(t *target, res result, now time.Time) {
	if res.err == nil {
		t.flying = nil
	}
	watched := r.watched()
	for _, c := range res.done {
		k := c.Key()
		delete(t.troubles, k)
		if u := c.either().unit; u != nil && watched[schema.Name{Kind: u.Kind, Name: u.Name}] {
			t.unproved[k], t.stale = true, true
		}
		if c.New == nil {
			delete(t.observed, k)
			continue
		}
		t.observed[k] = c.New
		if k.Kind == KindTarget || len(r.users[k]) > 0 { // a new pipeline may have taken entries with it
			t.unproved[k], t.stale = true, true
		}
	}
	if len(res.done) > 0 {
		plan := Plan{Revision: res.job.revision, Changes: res.done}
		r.cfg.Log.Info("applied", "target", t.name, "revision", plan.Revision, "changes", len(res.done), "plan", plan.String())
	}
	r.failed(t, res.failed, now)
	for _, c := range res.job.changes {
		r.touch(t, c.Key())
	}
	if res.err != nil {
		r.fail(t, "ApplyFailed", res.err, now)
		return
	}
	r.stirred = r.stirred || t.err != nil
	t.err, t.retry = nil, backoff{}
}

// failed records changes that failed, to be tried again.
func (r *Reconciler) failed(t *target, errs map[Key]error, now time.Time) {
	r.trouble(t, "not applied, will try again", errs, now)
	for k := range errs {
		tr := t.troubles[k]
		tr.reads = t.reads
		tr.retry.failed(now)
		t.stale = true // some of it may be made, which a commit that takes it back has to know
	}
}

// mostLogged bounds how many keys of one result are logged.
const mostLogged = 20

// trouble records what is wrong with keys, and says so where it is new.
func (r *Reconciler) trouble(t *target, what string, errs map[Key]error, now time.Time) {
	said := 0
	for _, k := range slices.SortedFunc(maps.Keys(errs), Key.Compare) {
		tr := t.troubles[k]
		if tr == nil {
			tr = &trouble{since: now}
			t.troubles[k] = tr
		}
		news := tr.err == nil || tr.err.Error() != errs[k].Error()
		tr.err = errs[k]
		r.charge(t, k)
		if !news {
			continue
		}
		if said++; said <= mostLogged {
			r.cfg.Log.Error(what, "target", t.name, "resource", k.String(), "document", t.origin(k), "error", tr.err)
		}
	}
	if said > mostLogged {
		r.cfg.Log.Error(what, "target", t.name, "more", said-mostLogged)
	}
}

// fail records why nothing can be done at a target, and says so where it is new.
func (r *Reconciler) fail(t *target, reason string, err error, now time.Time) {
	if t.err == nil || t.err.Error() != err.Error() {
		r.cfg.Log.Error("target failed, will try again", "target", t.name, "reason", reason, "error", err)
	}
	t.err, t.reason, t.stale = err, reason, true
	r.stirred = true
	t.retry.failed(now)
}
