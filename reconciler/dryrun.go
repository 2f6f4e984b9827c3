package reconciler

import (
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

// Compiled is what a snapshot means to a set of sinks.
type Compiled struct {
	Desired  State
	IDs      *policies.IDs // the numbers as they are after it
	Warnings schema.Errors
	Objects  int // documents
	Rollouts map[string]*rollout.Spec
	docs     *schema.Set
}

// Compare says what changes from what another snapshot means to what this one does.
func (c *Compiled) Compare(was *Compiled, revision string) *Plan {
	return &Plan{
		Revision: revision, Changes: Diff(c.Desired, was.Desired, Union(c.Desired, was.Desired)),
		Rollouts: compareRollouts(was.Rollouts, c.Rollouts),
	}
}

// CompileAfter compiles a snapshot that comes after another one: the numbers are as
// they were, and a policy that is suspended in it stands for what it was before.
func CompileAfter(sinks []Sink, s *schema.Snapshot, was *Compiled) (*Compiled, error) {
	compiler := policies.NewCompiler(was.IDs, nil)
	if was.docs != nil {
		for _, n := range was.docs.Names() {
			if doc := was.docs.Get(n); n.Kind == schema.KindPolicy && !policies.IsHeld(doc) {
				compiler.SetHeld(n.Name, doc)
			}
		}
	}
	return compileSnapshot(sinks, s, compiler, nil)
}

// CompileSnapshot reads, compiles and lowers a whole snapshot, without touching
// anything. The error is schema.Errors where the documents are at fault.
func CompileSnapshot(sinks []Sink, s *schema.Snapshot, ids *policies.IDs) (*Compiled, error) {
	return compileSnapshot(sinks, s, policies.NewCompiler(ids, nil), nil)
}

// compileSnapshot compiles with a compiler of its own. Begin, where there is one, then
// may say what is to move.
func compileSnapshot(sinks []Sink, s *schema.Snapshot, compiler *policies.Compiler, begin func(*policies.Compiler)) (*Compiled, error) {
	m := newMeaning(sinks, compiler)
	d, err := m.read(s)
	if err == nil && begin != nil {
		begin(compiler)
		d, err = m.read(s)
	}
	if err != nil {
		return nil, err
	}
	c := &Compiled{
		Desired: State{}, IDs: m.compiler.IDs(), Warnings: m.compiler.Warnings(), Objects: m.set.Len(), Rollouts: specsOf(m.compiler),
		docs: m.set,
	}
	for _, l := range d.fresh {
		for _, res := range l.resources {
			c.Desired[res.Key] = res
		}
	}
	return c, nil
}

// DryRun says what adopting a snapshot would change in the live state as it was
// last read, with the first step of its rollouts. It changes nothing. A target that could not be read is an error,
// as nothing can be said about it.
func (r *Reconciler) DryRun(ctx context.Context, s *schema.Snapshot) (*Plan, error) {
	var states []State
	var compiler *policies.Compiler
	var unread []error
	var rollouts standing
	err := r.inLoop(ctx, func() {
		if r.revision == "" {
			unread = append(unread, errors.New("no commit is in force yet, so that nothing was read; wait, or look at gray status"))
		}
		compiler = r.meaning.compiler.Fresh() // which knows the servers that are down
		rollouts = r.standing()
		for _, name := range slices.Sorted(maps.Keys(r.targets)) {
			t := r.targets[name]
			if t.observed != nil {
				states = append(states, maps.Clone(t.observed))
				continue
			}
			err := t.err
			if err == nil {
				err = errors.New("it was not read yet")
			}
			unread = append(unread, fmt.Errorf("the live state of %s is not known: %w; wait, or look at gray status", name, err))
		}
	})
	if err != nil {
		return nil, err
	}
	var begun []string
	c, err := compileSnapshot(r.cfg.Sinks, s, compiler, func(c *policies.Compiler) {
		begun = rollouts.begin(c, time.Now().UTC().Round(0))
	})
	if err != nil {
		return nil, err
	}
	if len(unread) > 0 {
		return nil, unread[0]
	}
	observed := State{}
	for _, s := range states {
		maps.Copy(observed, s)
	}
	return &Plan{
		Revision: s.Revision, Changes: Diff(c.Desired, observed, Union(c.Desired, observed)),
		Rollouts: append(compareRollouts(rollouts.specs, c.Rollouts), begun...),
	}, nil
}

// Meaning compiles the commit that is in force anew, with what is known of servers
// and endpoints. The IR is the caller's.
func (r *Reconciler) Meaning(ctx context.Context) (ir *policies.IR, revision string, err error) {
	var compiler *policies.Compiler
	var good *schema.Snapshot
	if err := r.inLoop(ctx, func() { compiler, good = r.meaning.compiler.Fresh(), r.meaning.good }); err != nil {
		return nil, "", err
	}
	if good == nil {
		return nil, "", errors.New("no commit is in force yet; look at gray status")
	}
	set := schema.NewSet()
	ir, _, err = compiler.Compile(set, set.Update(good))
	return ir, good.Revision, err
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
	if r.fetching || !r.refetch.until.IsZero() || r.cfg.Discovery.pending() {
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
