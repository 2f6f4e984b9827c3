package reconciler

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// Bench is a loop without its I/O, for benchmarks with the real sinks: every
// target is empty at first and takes what it is given.
type Bench struct{ r *Reconciler }

// NewBench returns a loop that has followed nothing yet.
func NewBench(sinks []Sink) (*Bench, error) {
	r, err := New(Config{Sinks: sinks, MaxDelete: 100, Log: slog.New(slog.DiscardHandler)})
	return &Bench{r}, err
}

// NewRollBench is the same with a store.
func NewRollBench(sinks []Sink, store *Store) (*Bench, error) {
	r, err := New(Config{Sinks: sinks, Store: store, MaxDelete: 100, Log: slog.New(slog.DiscardHandler)})
	return &Bench{r}, err
}

// Roll has the rollouts take the steps that are due, and returns how many VMs have
// moved.
func (b *Bench) Roll(now time.Time) (moved int) {
	b.r.roll(now)
	for _, ro := range b.r.rollouts {
		for _, m := range ro.state.Moving {
			moved += len(m.Fresh)
		}
	}
	return moved
}

// Say is what the loop does about a verb.
func (b *Bench) Say(verb string, now time.Time) error {
	for _, ro := range b.r.rollouts {
		next, events, err := ro.state.Do(ro.spec, rollout.Verb{Verb: verb}, now.UTC())
		if err == nil {
			err = b.r.move(ro, next, AuditRecord{Events: events}, nil, now.UTC())
		}
		if ro.due = true; err != nil {
			return err
		}
	}
	return nil
}

// Rollouts is what the loop does for the rollouts of a Status, and what its caller
// does.
func (b *Bench) Rollouts() func() []RolloutStatus {
	v := b.r.view()
	return func() (all []RolloutStatus) {
		for i := range v.rollouts {
			all = append(all, v.rollouts[i].status(v.revision))
		}
		return all
	}
}

// Follow is what the loop does about a fetched commit.
func (b *Bench) Follow(s *schema.Snapshot) error {
	b.r.adopt(fetched{snapshot: s})
	b.r.admit()
	return b.r.badErr
}

// Plan is what the loop would apply next, over all targets in order, as if no
// target had to be set up first.
func (b *Bench) Plan() []Change {
	var all []Change
	for _, t := range b.sorted() {
		if t.poked {
			plan, _ := b.r.plan(t, time.Now())
			all = append(all, plan.Changes...)
		}
		t.poked = false
	}
	return all
}

// Pending is how many keys are open at all targets, each of which is said to have a
// job under way.
func (b *Bench) Pending() (n int) {
	for _, t := range b.r.targets {
		t.running = true
		n += len(t.charged)
	}
	return n
}

// Turn is one turn of the loop without news.
func (b *Bench) Turn(ctx context.Context) {
	b.r.step(ctx)
	b.r.untilNext()
}

// Done takes changes as made.
func (b *Bench) Done(changes []Change) {
	for len(changes) > 0 {
		name := changes[0].Key().Target
		n := slices.IndexFunc(changes, func(c Change) bool { return c.Key().Target != name })
		if n < 0 {
			n = len(changes)
		}
		b.r.finish(result{target: b.r.targets[name], job: job{changes: changes[:n]}, done: changes[:n]})
		t := b.r.targets[name]
		for k := range t.unproved { // as if it was read back
			delete(t.unproved, k)
			b.r.charge(t, k)
		}
		changes = changes[n:]
	}
}

// View is what the loop does for a Status, and Documents what its caller does.
func (b *Bench) View() func() []DocumentStatus {
	v := b.r.view()
	return v.documents
}

// sorted lists the targets; one that was never read is empty.
func (b *Bench) sorted() []*target {
	var all []*target
	for _, t := range b.r.targets {
		if t.observed == nil {
			t.observed = State{}
		}
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y *target) int { return Key{Target: x.name}.Compare(Key{Target: y.name}) })
	return all
}
