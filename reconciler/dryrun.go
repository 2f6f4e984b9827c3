package reconciler

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// Compiled is what a snapshot means to a set of sinks.
type Compiled struct {
	Desired  State
	IDs      *policies.IDs // the numbers as they are after it
	Warnings schema.Errors
	Objects  int // documents
}

// CompileSnapshot reads, compiles and lowers a whole snapshot, without touching
// anything. The error is schema.Errors where the documents are at fault.
func CompileSnapshot(sinks []Sink, s *schema.Snapshot, ids *policies.IDs) (*Compiled, error) {
	set := schema.NewSet()
	compiler := policies.NewCompiler(ids)
	ir, units, err := compiler.Compile(set, set.Update(s))
	if err != nil {
		return nil, err
	}
	all, err := lowerUnits(sinks, ir, units)
	if err != nil {
		return nil, err
	}
	c := &Compiled{Desired: State{}, IDs: compiler.IDs(), Warnings: compiler.Warnings(), Objects: set.Len()}
	for _, l := range all {
		for _, res := range l.resources {
			c.Desired[res.Key] = res
		}
	}
	return c, nil
}

// DryRun says what adopting a snapshot would change in the live state as it was
// last read. It changes nothing. A target that could not be read is an error,
// as nothing can be said about it.
func (r *Reconciler) DryRun(ctx context.Context, s *schema.Snapshot) (*Plan, error) {
	observed := State{}
	var ids *policies.IDs
	unread := map[string]error{}
	err := r.inLoop(ctx, func() {
		ids = r.compiler.IDs()
		for name, t := range r.targets {
			if t.observed == nil {
				unread[name] = t.err
				continue
			}
			maps.Copy(observed, t.observed)
		}
	})
	if err != nil {
		return nil, err
	}
	c, err := CompileSnapshot(r.cfg.Sinks, s, ids)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(unread)) {
		return nil, fmt.Errorf("the live state of %s is not known: %v; wait, or look at gray status", name, unread[name])
	}
	return &Plan{Revision: s.Revision, Changes: Diff(c.Desired, observed, Union(c.Desired, observed))}, nil
}

// WaitSettled returns when the loop has nothing to do, apart from what waits for
// its next try.
func (r *Reconciler) WaitSettled(ctx context.Context) error {
	var settled chan struct{}
	if err := r.inLoop(ctx, func() { settled = r.settled }); err != nil {
		return err
	}
	select {
	case <-settled:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ObserveAll has every target read anew and waits until that is done.
func (r *Reconciler) ObserveAll(ctx context.Context) error {
	err := r.inLoop(ctx, func() { r.lookAgain(slices.Collect(maps.Keys(r.targets))) })
	if err != nil {
		return err
	}
	return r.WaitSettled(ctx)
}
