package p4rt

import (
	"cmp"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"strings"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/gray-release/gray/reconciler"
)

// The phases in which changes are written: first buckets are filled, then pool entries
// are pointed to them, then buckets that are no longer used are deleted. Resources that
// are a single entry are written in the first phase.
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
	again bool // it is the second try: an insert as a modify, or the other way round
}

// adder yields the updates of one key. Its methods return false when no more are wanted.
type adder struct {
	key      reconciler.Key
	newBlock func() *block // for the next update
	yield    func(update) bool
}

func (a *adder) add(t p4v1.Update_Type, b entryBody) bool {
	to := a.newBlock()
	return a.yield(update{key: a.key, proto: to.updateOf(t, b.encode(to))})
}

func (a *adder) bucket(t p4v1.Update_Type, k bucketKey, backend uint16) bool {
	to := a.newBlock()
	return a.yield(update{key: a.key, proto: to.updateOf(t, k.encode(to, backend))})
}

// updatesOf yields the updates of changes in a phase. Each is made in a block of its own
// from newBlock.
func updatesOf(changes []reconciler.Change, phase int, newBlock func() *block) iter.Seq[update] {
	return func(yield func(update) bool) {
		for _, c := range changes {
			if a := (adder{c.Key(), newBlock, yield}); !changeUpdates(c, phase, &a) {
				return
			}
		}
	}
}

// changeUpdates adds the updates of a change in a phase, and returns false when no more
// are wanted.
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

// poolUpdates writes the buckets that differ, then the pool's entry, then deletes the
// buckets that are no longer used. Of a pool that is deleted the entry goes first. If the
// bodies differ in their generation, the new one is filled completely while the old one
// serves, and modifying the entry flips the pool.
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
		if _, unused := slices.BinarySearchFunc(old.unused, k, compareBuckets); unused || was != 0 {
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
	for _, k := range old.unused {
		if now.hasEntry && k.generation == now.generation && int(k.hash) < len(now.buckets) {
			continue // it is in use now
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

// secondSpace is the second space that the protobuf library writes after a name in some
// builds and not in others.
var secondSpace = regexp.MustCompile(`(?m)^(\s*\w+:)  `)

// Text returns what is written to empty switches for resources of this sink: for each
// target a p4.v1.WriteRequest as protobuf text, with the change that each update
// belongs to as a comment.
func Text(resources []*reconciler.Resource) (string, error) {
	changes := make([]reconciler.Change, len(resources))
	for i, r := range resources {
		changes[i] = reconciler.Change{New: r}
	}
	slices.SortFunc(changes, reconciler.Change.Compare)
	var b strings.Builder
	last := ""
	for _, c := range changes {
		if c.Key().Target != last {
			last = c.Key().Target
			fmt.Fprintf(&b, "# %s\n", last)
		}
		if t, ok := c.New.Body.(*targetBody); ok {
			fmt.Fprintf(&b, "# %s\ndevice_id: %d\n", t, t.deviceID)
			continue
		}
		fmt.Fprintf(&b, "# %s\n", c)
		for phase := range phases {
			for u := range updatesOf([]reconciler.Change{c}, phase, func() *block { return new(block) }) {
				text, err := prototext.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(&p4v1.WriteRequest{Updates: []*p4v1.Update{u.proto}})
				if err != nil {
					return "", err
				}
				b.Write(secondSpace.ReplaceAll(text, []byte("$1 ")))
			}
		}
	}
	return b.String(), nil
}
