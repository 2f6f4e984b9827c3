package p4rt

import (
	"context"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// A pool has two generations of buckets, and its entry says which is live. A small
// change modifies buckets of the live one. A large one fills the idle generation,
// reads it back and flips the entry, so that packets see the whole change at once;
// until the flip everything stays as it was, and after it the old one is cleared.

// largeChange is the part of a pool's buckets that may change in place: a quarter.
const largeChange = 4

// flips tells whether a pool changes its generation.
func flips(old, now *poolBody) bool {
	return old.hasEntry && now.hasEntry && old.generation != now.generation
}

// large tells whether so many buckets change that a pool is to flip.
func large(old, now *poolBody) bool {
	moved := 0
	for i, is := range now.buckets {
		if at(old.buckets, i) != is {
			moved++
		}
	}
	return moved*largeChange > len(now.buckets)
}

// aim gives the bodies of a pool's change the generations that they have on the
// switch. A pool whose last change failed half-way is written whole, as nobody
// knows what its live generation holds.
func (d *device) aim(c reconciler.Change) reconciler.Change {
	old, now := poolOf(c.Old), poolOf(c.New)
	if old == nil && now == nil {
		return c
	}
	var id, generation uint8
	if old != nil {
		id, generation = old.pool, old.generation
	} else {
		id = now.pool
	}
	d.mu.Lock()
	known, ok := d.generations[id]
	unsure := d.unsure[id]
	d.mu.Unlock()
	if ok {
		generation = known
	}
	with := func(r *reconciler.Resource, b poolBody, generation uint8) *reconciler.Resource {
		if b.generation != generation {
			b.generation, b.stray = generation, nil // what was stray may be live by now
		}
		aimed := *r
		aimed.Body = &b
		return &aimed
	}
	if old != nil {
		c.Old = with(c.Old, *old, generation)
	}
	if now != nil {
		next := generation
		if old != nil && old.hasEntry && now.hasEntry && (large(old, now) || unsure) {
			next = 1 - generation
		}
		c.New = with(c.New, *now, next)
	}
	return c
}

// proveMost bounds how many entries one Read asks for by their keys.
const proveMost = 1000

// proveIdle reads the buckets back of the generations that pools are about to flip
// to, those and no others. A pool whose buckets do not read as they were written
// fails, and stays as it was.
func (w *writer) proveIdle(ctx context.Context, changes []reconciler.Change) {
	ctx, cancel := context.WithTimeout(ctx, w.limits.read)
	defer cancel()
	for _, c := range changes {
		if old, now := poolOf(c.Old), poolOf(c.New); old != nil && now != nil && flips(old, now) {
			w.fail(c.Key(), w.proveBuckets(ctx, now))
		}
	}
}

// proveBuckets asks for one bucket, then for the others: a switch that knows no
// such filter answers with the whole table, and need not do so again.
func (w *writer) proveBuckets(ctx context.Context, p *poolBody) error {
	got, sent := make([]uint32, len(p.buckets)), 0
	add := func(e *p4v1.TableEntry) {
		sent++
		if k, backend := readBucket(e); k.pool == p.pool && k.generation == p.generation && int(k.hash) < len(got) {
			got[k.hash] = backend
		}
	}
	for first, end := 0, 1; first < len(got) && sent <= first; first, end = end, min(end+proveMost, len(got)) {
		var filters []*p4v1.TableEntry
		for i := first; i < end; i++ {
			match := bucketKey{p.pool, p.generation, uint16(i)}.encode(new(block), 0).GetMatch()
			filters = append(filters, &p4v1.TableEntry{TableId: pipeline.TableBucket, Match: match})
		}
		if err := w.d.read(ctx, w.d.table(pipeline.TableBucket), filters, add); err != nil {
			return fmt.Errorf("cannot read its new buckets back, so the old ones stay: %w", reason(err))
		}
	}
	for i, is := range p.buckets {
		if got[i] != is {
			return fmt.Errorf("its new bucket %d reads back as %s, not %s, so the old ones stay", i, p.backendName(got[i]), p.backendName(is))
		}
	}
	return nil
}
