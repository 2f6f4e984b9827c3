package reconciler

import (
	"iter"
	"slices"
)

// Diff compares two states at the given keys and returns the changes that take
// observed to desired, in the order in which they are applied. It is pure; a
// key that comes twice counts once.
func Diff(desired, observed State, keys iter.Seq[Key]) []Change {
	var changes []Change
	for k := range keys {
		d, o := desired[k], observed[k]
		if d == o || d != nil && o != nil && d.Body.Equal(o.Body) {
			continue
		}
		changes = append(changes, Change{Old: o, New: d})
	}
	slices.SortFunc(changes, Change.Compare)
	return slices.CompactFunc(changes, func(a, b Change) bool { return a.Key() == b.Key() })
}

// Union yields the keys of both states.
func Union(a, b State) iter.Seq[Key] {
	return func(yield func(Key) bool) {
		for k := range a {
			if !yield(k) {
				return
			}
		}
		for k := range b {
			if _, both := a[k]; !both && !yield(k) {
				return
			}
		}
	}
}

// Stages cuts changes that are in order into the batches that one Apply gets: runs
// of one turn and Rank, and of any rank where they are made together.
func Stages(changes []Change) iter.Seq[[]Change] {
	return func(yield func([]Change) bool) {
		for len(changes) > 0 {
			n := 1
			for n < len(changes) && changes[n].turn() == changes[0].turn() && (changes[n].Rank() == changes[0].Rank() || changes[n].turn() == turnTogether) {
				n++
			}
			if !yield(changes[:n]) {
				return
			}
			changes = changes[n:]
		}
	}
}
