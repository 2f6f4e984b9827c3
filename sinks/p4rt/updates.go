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

// adder takes updates one after the other; it returns false when it wants no more.
type adder struct {
	key   reconciler.Key
	room  func() *block // for the next update
	yield func(update) bool
}

func (a *adder) add(t p4v1.Update_Type, b entryBody) bool {
	to := a.room()
	return a.yield(update{key: a.key, proto: to.as(t, b.encode(to))})
}

func (a *adder) bucket(t p4v1.Update_Type, k bucketKey, backend uint16) bool {
	to := a.room()
	return a.yield(update{key: a.key, proto: to.as(t, k.encode(to, backend))})
}

// updatesOf yields what changes write in a phase. It makes each update in a block
// that room gives for it.
func updatesOf(changes []reconciler.Change, phase int, room func() *block) iter.Seq[update] {
	return func(yield func(update) bool) {
		for _, c := range changes {
			if a := (adder{c.Key(), room, yield}); !changeUpdates(c, phase, &a) {
				return
			}
		}
	}
}

// changeUpdates adds what a change writes in a phase, and returns false when that
// is not wanted any more.
func changeUpdates(c reconciler.Change, phase int, a *adder) bool {
	now, old := poolOf(c.New), poolOf(c.Old)
	switch {
	case now != nil || old != nil:
		return poolUpdates(old, now, phase, a)
	case phase != phaseFill:
		return true
	case c.New == nil:
		return a.add(p4v1.Update_DELETE, c.Old.Body.(entryBody))
	case c.Old == nil:
		return a.add(p4v1.Update_INSERT, c.New.Body.(entryBody))
	}
	return a.add(p4v1.Update_MODIFY, c.New.Body.(entryBody))
}

func poolOf(r *reconciler.Resource) *poolBody {
	if r == nil {
		return nil
	}
	p, _ := r.Body.(*poolBody)
	return p
}

// poolUpdates writes the buckets that differ, then the pool's entry, then takes
// away what is left over; a pool that goes loses its entry first. Where the two
// bodies differ in their generation, the new one is filled whole while the old one
// is live, and the entry's modification is the flip.
func poolUpdates(old, now *poolBody, phase int, a *adder) bool {
	if old == nil {
		old = &poolBody{pool: now.pool, generation: now.generation}
	}
	if now == nil {
		if phase == phaseFill && old.hasEntry && !a.add(p4v1.Update_DELETE, old) {
			return false
		}
		now = &poolBody{pool: old.pool, generation: old.generation}
	}
	switch phase {
	case phaseFill:
		return fillBuckets(old, now, a)
	case phasePoint:
		switch {
		case !now.hasEntry:
		case !old.hasEntry:
			return a.add(p4v1.Update_INSERT, now)
		case old.mask != now.mask || old.generation != now.generation:
			return a.add(p4v1.Update_MODIFY, now)
		}
		return true
	}
	return clearBuckets(old, now, a)
}

func fillBuckets(old, now *poolBody, a *adder) bool {
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
		if !a.bucket(t, k, uint16(is-1)) {
			return false
		}
	}
	return true
}

func clearBuckets(old, now *poolBody, a *adder) bool {
	for i, was := range old.buckets {
		if was == 0 || at(now.buckets, i) != 0 && !flips(old, now) {
			continue
		}
		if !a.bucket(p4v1.Update_DELETE, bucketKey{old.pool, old.generation, uint16(i)}, uint16(was-1)) {
			return false
		}
	}
	for _, k := range old.stray {
		if now.hasEntry && k.generation == now.generation && int(k.hash) < len(now.buckets) {
			continue // it has become a live bucket
		}
		if !a.bucket(p4v1.Update_DELETE, k, 0) {
			return false
		}
	}
	return true
}

func compareBuckets(a, b bucketKey) int {
	return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.generation, b.generation), cmp.Compare(a.hash, b.hash))
}
