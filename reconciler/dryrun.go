package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// DefaultMaxDelete is how much, in per cent, of what is live at a target a commit may
// delete where nothing else is said.
const DefaultMaxDelete = 30

// Offline compiles snapshots without touching anything.
type Offline struct {
	Sinks      []Sink
	TableSizes policies.ReadTableSizes // nil: no Switch has a pipeline of the repository
}

// Compiled is what a snapshot means to a set of sinks.
type Compiled struct {
	Desired  State
	IDs      *policies.IDs // the numbers as they are after it
	Warnings schema.Errors
	Objects  int // documents
	Rollouts map[string]*rollout.Spec
	docs     *schema.Set
}

// Nothing is what an empty repository means.
func Nothing() *Compiled { return &Compiled{Desired: State{}, IDs: policies.NewIDs()} }

// Plan says what changes from what another snapshot means to what this one does, and
// whether a daemon that has the other one live would refuse it.
func (c *Compiled) Plan(was *Compiled, revision string) *Plan {
	p := MakePlan(c.Desired, was.Desired, View{Revision: revision, Former: was.Desired, MaxDelete: DefaultMaxDelete})
	p.Rollouts = compareRollouts(was.Rollouts, c.Rollouts)
	return p
}

// Compile reads, compiles and lowers a whole snapshot that comes after another one:
// the numbers are as they were, and a policy that is suspended in it means what it did
// before. The error is schema.Errors where the documents are at fault.
func (o Offline) Compile(s *schema.Snapshot, was *Compiled) (*Compiled, error) {
	m := newMeaning(o.Sinks, policies.NewCompiler(was.IDs.Clone(), o.TableSizes))
	if was.docs != nil {
		for _, n := range was.docs.Names() {
			if doc := was.docs.Get(n); n.Kind == schema.KindPolicy && !policies.IsSuspended(doc) {
				m.spoken[n.Name] = doc
			}
		}
	}
	d, err := m.read(s, policies.Facts{})
	if err != nil {
		return nil, err
	}
	return m.compiled(d), nil
}

// compiled is a meaning's delta from nothing.
func (m *meaning) compiled(d *delta) *Compiled {
	return &Compiled{
		Desired: stateOf(d.fresh), IDs: m.compiler.IDs(), Warnings: m.compiler.Warnings(), Objects: m.set.Len(),
		Rollouts: specsOf(m.compiler), docs: m.set,
	}
}

// live is what the loop knows, for a dry run. Nobody changes what it holds.
type live struct {
	ids      *policies.IDs
	facts    policies.Facts
	ongoing  ongoing
	observed State
	former   State // what the commit in force asks for; nil: none is
	had      map[string]int
	down     map[string]error // targets that cannot be worked on
	unknown  []Unknown        // those of them that cannot be read
	failing  map[Key]failing
	unread   error // why nothing can be said
}

// failing is a resource that was tried and is in trouble.
type failing struct {
	res *Resource
	err error
}

// look takes what a dry run needs out of the loop.
func (r *Reconciler) lookAt() *live {
	l := &live{
		ids: r.meaning.compiler.IDs(), facts: r.facts, ongoing: r.ongoing(), observed: State{}, former: State{}, had: r.had(),
		down: map[string]error{}, failing: map[Key]failing{},
	}
	if r.revision == "" {
		l.unread = errors.New("no commit is in force yet, so that nothing was read; wait, or look at gray status")
	}
	if !r.admitted {
		l.former = nil
	}
	for n := range r.meaning.made {
		for _, res := range r.meaning.made[n] {
			if r.targets[res.Target] == nil { // a source acts on it, as it is in force
				l.observed[res.Key] = res
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.targets)) {
		t := r.targets[name]
		if t.err != nil {
			l.down[name] = t.err
			if t.reason == "Unreachable" {
				l.unknown = append(l.unknown, Unknown{name, firstLine(t.err), t.readAt})
			}
		}
		for k, tr := range t.troubles {
			l.failing[k] = failing{t.desired[k], tr.err}
		}
		maps.Copy(l.observed, t.observed)
		if l.former != nil {
			maps.Copy(l.former, t.desired)
		}
		if t.observed == nil && l.unread == nil {
			err := t.err
			if err == nil {
				err = errors.New("it was not read yet")
			}
			l.unread = fmt.Errorf("the live state of %s is not known: %w; wait, or look at gray status", name, err)
		}
	}
	return l
}

// blocked tells why a change cannot be made however much else is made before it.
func (l *live) blocked(c Change) (Wait, bool) {
	if err := l.down[c.Key().Target]; err != nil {
		return Wait{Why: firstLine(err)}, true
	}
	if f, is := l.failing[c.Key()]; is && c.New != nil && f.res != nil && c.New.Body.Equal(f.res.Body) {
		return Wait{Why: firstLine(f.err)}, true
	}
	if c.New == nil {
		return Wait{}, false
	}
	for _, ref := range c.New.Refs {
		if err := l.down[ref.Target]; err != nil && l.observed[ref] == nil {
			return Wait{For: ref, Why: firstLine(err)}, true
		}
	}
	return Wait{}, false
}

// DryRun says what adopting a snapshot would change in the live state as it was last
// read, with the first step of its rollouts, what of it would have to wait, and whether
// it would be refused. It changes nothing. A target that was never read is an error, as
// nothing can be said about it.
func (r *Reconciler) DryRun(ctx context.Context, s *schema.Snapshot) (*Plan, error) {
	var l *live
	if err := r.inLoop(ctx, func() { l = r.lookAt() }); err != nil {
		return nil, err
	}
	m := newMeaning(r.cfg.Sinks, policies.NewCompiler(l.ids, r.cfg.TableSizes))
	d, err := m.read(s, l.facts)
	if err != nil {
		return nil, err
	}
	begun, lines := l.ongoing.begin(specsOf(m.compiler), d.facts, time.Now().UTC().Round(0))
	if d, err = m.read(s, begun); err != nil {
		return nil, err
	}
	if l.unread != nil {
		return nil, l.unread
	}
	c := m.compiled(d)
	v := View{Revision: s.Revision, Blocked: l.blocked, Former: l.former, MaxDelete: r.cfg.MaxDelete}
	v.Returns = l.ongoing.returns(specsOf(m.compiler))
	if r.cfg.Confirm == s.Revision {
		v.Former = nil
	}
	p := MakePlan(c.Desired, l.observed, v)
	if l.former == nil && r.cfg.Confirm != s.Revision {
		p.Refused = refuseFirst(c.Desired, l.observed, l.had, r.cfg.MaxDelete)
	}
	p.Rollouts = append(compareRollouts(l.ongoing.specs, c.Rollouts), lines...)
	p.Unknown = l.unknown
	return p, nil
}

// Meaning compiles the commit that is in force anew, with what is known of servers
// and endpoints. The IR is the caller's.
func (r *Reconciler) Meaning(ctx context.Context) (ir *policies.IR, revision string, err error) {
	var ids *policies.IDs
	var good *schema.Snapshot
	var facts policies.Facts
	if err := r.inLoop(ctx, func() { ids, good, facts = r.meaning.compiler.IDs(), r.meaning.good, r.facts }); err != nil {
		return nil, "", err
	}
	if good == nil {
		return nil, "", errors.New("no commit is in force yet; look at gray status")
	}
	set := schema.NewSet()
	ir, _, err = policies.NewCompiler(ids, r.cfg.TableSizes).Compile(set, set.Update(good), facts)
	return ir, good.Revision, err
}

// NotLive says why a target may do otherwise about a Gateway or Service than the commit in
// force means; "" if all of it is live there.
func (r *Reconciler) NotLive(ctx context.Context, target string, doc schema.Name) (why string, err error) {
	err = r.inLoop(ctx, func() {
		t := r.targets[target]
		switch {
		case !r.admitted:
			why = fmt.Sprintf("the commit is not in force, and %s does what it did under %s", target, cmp.Or(r.last.Revision, "an earlier daemon"))
			if r.badErr != nil {
				why += ": " + firstLine(r.badErr)
			}
		case t == nil:
		case t.err != nil:
			why = fmt.Sprintf("%s is away, and does what it was given last: %s", target, firstLine(t.err))
		case t.observed == nil:
			why = target + " was not read yet"
		default:
			for _, n := range []schema.Name{doc, {}} {
				if p := t.pending[n]; p != nil && why == "" {
					why = fmt.Sprintf("%d changes are not live yet at %s, of which %d fail and %d wait", p.open, target, p.failing, p.waiting)
				}
			}
		}
	})
	return why, err
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

// waiter wants to know when something holds.
type waiter struct {
	ctx   context.Context
	holds func() bool // asked in the loop
	done  chan struct{}
}

// until returns when something holds, which is asked in the loop.
func (r *Reconciler) until(ctx context.Context, holds func() bool) error {
	w := &waiter{ctx, holds, make(chan struct{})}
	if err := r.inLoop(ctx, func() { r.waiters = append(r.waiters, w) }); err != nil {
		return err
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// answer tells those who wait that what they wait for holds.
func (r *Reconciler) answer() {
	r.waiters = slices.DeleteFunc(r.waiters, func(w *waiter) bool {
		if w.ctx.Err() != nil {
			return true
		}
		if !w.holds() {
			return false
		}
		close(w.done)
		return true
	})
}

// idle tells whether nothing is under way or will be tried again by itself.
func (r *Reconciler) idle() bool {
	if r.fetching || !r.refetch.until.IsZero() || r.cfg.Discovery.Pending() {
		return false
	}
	for _, t := range r.targets {
		if r.revision != "" && !t.idle() {
			return false
		}
	}
	return true
}

// WaitSettled returns when all is done that can be done: nothing is under way and
// nothing that failed will be tried again by itself. What is still not live then
// waits for a person: for a better commit, or for a plan to be confirmed.
func (r *Reconciler) WaitSettled(ctx context.Context) error { return r.until(ctx, r.idle) }

// ObserveAll has every target read anew and waits until that is done. The error
// names those that cannot be read.
func (r *Reconciler) ObserveAll(ctx context.Context) error {
	due := map[*target]int{} // how many reads each has to have done
	err := r.inLoop(ctx, func() {
		r.lookAgain(slices.Collect(maps.Keys(r.targets)))
		for _, t := range r.targets {
			due[t] = t.reads + 1
			if t.reading {
				due[t]++ // the read that is under way may have looked already
			}
		}
	})
	if err != nil {
		return err
	}
	var unread error
	err = r.until(ctx, func() bool {
		unread = nil
		for t, reads := range due {
			if r.targets[t.name] != t || r.revision == "" {
				continue
			}
			if t.reads < reads {
				return false
			}
			if t.err != nil && t.reason == "Unreachable" {
				unread = errors.Join(unread, fmt.Errorf("%s cannot be read: %w", t.name, t.err))
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return unread
}
