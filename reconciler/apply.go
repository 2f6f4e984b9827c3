package reconciler

import (
	"context"
	"errors"
	"maps"
	"slices"
)

// gate keeps back what depends on changes that are not made. It is asked about
// the changes of one target in their order.
type gate struct {
	self    *Key         // of the target itself, where that is not as it has to be
	last    Key          // some change that is not made
	missing map[Key]bool // not created
	inUse   map[Key]Key  // referred to by what is still there, and by what
}

// shut notes that a change is not made.
func (g *gate) shut(c Change) {
	k := c.Key()
	g.last = k
	if g.missing == nil {
		g.missing, g.inUse = map[Key]bool{}, map[Key]Key{}
	}
	if k.Kind == KindTarget && c.Op() != Delete {
		g.self = &k
	}
	if c.Op() == Create {
		g.missing[k] = true
		return
	}
	for _, ref := range c.Old.Refs {
		g.inUse[ref] = k
	}
}

// blocks tells whether a change has to wait, and for which key.
func (g *gate) blocks(c Change) (Key, bool) {
	if g.self != nil {
		return *g.self, true
	}
	if c.Op() == Delete {
		if c.Key().Kind == KindTarget && g.last != (Key{}) {
			return g.last, true // while anything is left to be done there
		}
		user, used := g.inUse[c.Key()]
		return user, used
	}
	for _, ref := range c.New.Refs {
		if g.missing[ref] {
			return ref, true
		}
	}
	return Key{}, false
}

// apply makes changes, which are in order, stage by stage. What failed is told by
// key; what depends on it is not tried. Creates that failed are tried once more
// after the deletes, which may have made room, and so is what waited for them.
// After an error of the whole nothing more is tried. It returns what was made, in
// the order of changes.
func apply(ctx context.Context, sink Sink, self *Resource, changes []Change) (done []Change, failed map[Key]error, err error) {
	made, failed, err := pass(ctx, sink, self, changes)
	creates := func(c Change) bool { return c.Op() == Create && failed[c.Key()] != nil }
	deletes := func(c Change) bool { return c.Op() == Delete && made[c.Key()] }
	left := func(c Change) bool { return !made[c.Key()] }
	if err == nil && slices.ContainsFunc(changes, creates) && slices.ContainsFunc(changes, deletes) {
		var more map[Key]bool
		more, failed, err = pass(ctx, sink, self, filter(changes, left))
		maps.Copy(made, more)
	}
	return filter(changes, func(c Change) bool { return made[c.Key()] }), failed, err
}

func filter(changes []Change, keep func(Change) bool) []Change {
	var kept []Change
	for _, c := range changes {
		if keep(c) {
			kept = append(kept, c)
		}
	}
	return kept
}

// pass tries changes once.
func pass(ctx context.Context, sink Sink, self *Resource, changes []Change) (made map[Key]bool, failed map[Key]error, err error) {
	made, failed = make(map[Key]bool, len(changes)), map[Key]error{}
	var g gate
	for stage := range Stages(changes) {
		var try []Change
		for _, c := range stage {
			if _, wait := g.blocks(c); wait {
				g.shut(c)
				continue
			}
			try = append(try, c)
		}
		if len(try) == 0 {
			continue
		}
		err := sink.Apply(ctx, self, try)
		partial, isPartial := errors.AsType[*PartialError](err)
		if err != nil && !isPartial {
			return made, failed, err
		}
		for _, c := range try {
			if isPartial && partial.Keys[c.Key()] != nil {
				failed[c.Key()] = partial.Keys[c.Key()]
				g.shut(c)
				continue
			}
			made[c.Key()] = true
		}
	}
	return made, failed, nil
}
