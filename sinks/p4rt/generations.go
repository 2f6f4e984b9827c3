package p4rt

import (
	"context"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// A pool has two generations of buckets, and its entry says which one serves. A small
// change modifies buckets of the one that serves. A large change fills the other one,
// reads it back and flips the entry, so that packets see the whole change at once.
// Until the flip nothing changes for packets; after it the old generation is cleared.

// largeChange: up to 1/largeChange of a pool's buckets may change in place.
const largeChange = 4

// flips tells whether a pool goes to its other generation.
func flips(old, now *poolBody) bool {
	return old.hasEntry && now.hasEntry && old.generation != now.generation
}

// large tells whether so many buckets change that the pool has to flip.
func large(old, now *poolBody) bool {
	moved := 0
	for i, is := range now.buckets {
		if at(old.buckets, i) != is {
			moved++
		}
	}
	return moved*largeChange > len(now.buckets)
}

// withGenerations sets the generations in the bodies of a pool's change: that which
// serves on the switch, and that which is to serve. A pool whose last change failed
// half-way is written as a whole, as it is not known which of its buckets were written.
func (d *device) withGenerations(c reconciler.Change) reconciler.Change {
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
	dirty := d.dirty[id]
	d.mu.Unlock()
	if ok {
		generation = known
	}
	with := func(r *reconciler.Resource, b poolBody, generation uint8) *reconciler.Resource {
		if b.generation != generation {
			b.generation, b.unused = generation, nil // they may be in use by now
		}
		moved := *r
		moved.Body = &b
		return &moved
	}
	if old != nil {
		c.Old = with(c.Old, *old, generation)
	}
	if now != nil {
		next := generation
		if old != nil && old.hasEntry && now.hasEntry && (large(old, now) || dirty) {
			next = 1 - generation
		}
		c.New = with(c.New, *now, next)
	}
	return c
}

// readMost is how many entries one Read asks for by their keys.
const readMost = 1000

// readBackPools reads back the buckets of the generations to which pools are about to
// flip. A pool whose buckets are not as they were written fails, and does not flip.
func (w *writer) readBackPools(ctx context.Context, changes []reconciler.Change) {
	ctx, cancel := context.WithTimeout(ctx, w.limits.read)
	defer cancel()
	for _, c := range changes {
		if old, now := poolOf(c.Old), poolOf(c.New); old != nil && now != nil && flips(old, now) {
			w.fail(c.Key(), w.readBackBuckets(ctx, now))
		}
	}
}

// readBackBuckets reads one bucket, then the others: a switch that does not support
// this filter answers with the whole table, which is then not read again.
func (w *writer) readBackBuckets(ctx context.Context, p *poolBody) error {
	got, sent := make([]uint32, len(p.buckets)), 0
	add := func(e *p4v1.TableEntry) {
		sent++
		if k, backend := readBucket(e); k.pool == p.pool && k.generation == p.generation && int(k.hash) < len(got) {
			got[k.hash] = backend
		}
	}
	for first, end := 0, 1; first < len(got) && sent <= first; first, end = end, min(end+readMost, len(got)) {
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
