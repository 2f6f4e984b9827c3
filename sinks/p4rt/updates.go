package p4rt

import (
	"cmp"
	"iter"
	"slices"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/reconciler"
)

// The phases of a batch of changes: what others may point to is filled, then the
// pointers are set, then what is left over is cleared. Whatever is one entry is
// written in the first.
const (
	phaseFill = iota
	phasePoint
	phaseClear
	phases
)

// update is one write and the resource that it is for.
type update struct {
	key   reconciler.Key
	proto *p4v1.Update
	again bool // it is the second try, as the opposite of what it was
}

// updatesOf yields what changes write in a phase.
func updatesOf(changes []reconciler.Change, phase int) iter.Seq[update] {
	return func(yield func(update) bool) {
		for _, c := range changes {
			key := c.Key()
			add := func(t p4v1.Update_Type, e *p4v1.TableEntry) bool {
				return yield(update{key: key, proto: newUpdate(t, e)})
			}
			if !changeUpdates(c, phase, add) {
				return
			}
		}
	}
}

// changeUpdates gives add what a change writes in a phase, until that returns
// false.
func changeUpdates(c reconciler.Change, phase int, add func(p4v1.Update_Type, *p4v1.TableEntry) bool) bool {
	now, old := poolOf(c.New), poolOf(c.Old)
	switch {
	case now != nil || old != nil:
		return poolUpdates(old, now, phase, add)
	case phase != phaseFill:
		return true
	case c.New == nil:
		return add(p4v1.Update_DELETE, entryOf(c.Old))
	case c.Old == nil:
		return add(p4v1.Update_INSERT, entryOf(c.New))
	}
	return add(p4v1.Update_MODIFY, entryOf(c.New))
}

func poolOf(r *reconciler.Resource) *poolBody {
	if r == nil {
		return nil
	}
	p, _ := r.Body.(*poolBody)
	return p
}

func entryOf(r *reconciler.Resource) *p4v1.TableEntry {
	return r.Body.(entryBody).entry()
}

// poolUpdates writes the buckets that differ, then the pool's entry, then takes
// away what is left over; a pool that goes loses its entry first. Where the two
// bodies differ in their generation, the new one is filled whole while the old one
// is live, and the entry's modification is the flip.
func poolUpdates(old, now *poolBody, phase int, add func(p4v1.Update_Type, *p4v1.TableEntry) bool) bool {
	if old == nil {
		old = &poolBody{pool: now.pool, generation: now.generation}
	}
	if now == nil {
		if phase == phaseFill && old.hasEntry && !add(p4v1.Update_DELETE, old.entry()) {
			return false
		}
		now = &poolBody{pool: old.pool, generation: old.generation}
	}
	switch phase {
	case phaseFill:
		return fillBuckets(old, now, add)
	case phasePoint:
		switch {
		case !now.hasEntry:
		case !old.hasEntry:
			return add(p4v1.Update_INSERT, now.entry())
		case old.mask != now.mask || old.generation != now.generation:
			return add(p4v1.Update_MODIFY, now.entry())
		}
		return true
	}
	return clearBuckets(old, now, add)
}

func fillBuckets(old, now *poolBody, add func(p4v1.Update_Type, *p4v1.TableEntry) bool) bool {
	for i, is := range now.buckets {
		k := bucketKey{now.pool, now.generation, uint16(i)}
		was := at(old.buckets, i)
		if flips(old, now) {
			was = 0
		}
		if was == is || is == 0 {
			continue
		}
		t := p4v1.Update_INSERT
		if _, stray := slices.BinarySearchFunc(old.stray, k, compareBuckets); stray || was != 0 {
			t = p4v1.Update_MODIFY
		}
		if !add(t, bucketEntry(k, uint16(is-1))) {
			return false
		}
	}
	return true
}

func clearBuckets(old, now *poolBody, add func(p4v1.Update_Type, *p4v1.TableEntry) bool) bool {
	for i, was := range old.buckets {
		if was == 0 || at(now.buckets, i) != 0 && !flips(old, now) {
			continue
		}
		if !add(p4v1.Update_DELETE, bucketEntry(bucketKey{old.pool, old.generation, uint16(i)}, uint16(was-1))) {
			return false
		}
	}
	for _, k := range old.stray {
		if now.hasEntry && k.generation == now.generation && int(k.hash) < len(now.buckets) {
			continue // it has become a live bucket
		}
		if !add(p4v1.Update_DELETE, bucketEntry(k, 0)) {
			return false
		}
	}
	return true
}

func compareBuckets(a, b bucketKey) int {
	return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.generation, b.generation), cmp.Compare(a.hash, b.hash))
}
