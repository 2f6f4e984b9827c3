package p4rt

import (
	"context"
	"errors"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// known is what a device remembers of its switch from one full read to the next, and
// the loop does not.
type known struct {
	generations map[uint8]uint8      // by pool: the generation that serves
	dirty       map[uint8]bool       // pools of which a change failed half-way
	vpcs        map[vpcKey]*ruleBody // entries that were written and not read back yet
}

// vpcKey is the key of an entry of gray_vpc.
type vpcKey struct {
	vip uint8
	vni uint32
}

func newKnown() known {
	return known{generations: map[uint8]uint8{}, dirty: map[uint8]bool{}, vpcs: map[vpcKey]*ruleBody{}}
}

// learn records what a full read of the switch found.
func (d *device) learn(pools map[uint8]*poolBody) {
	k := newKnown()
	for id, p := range pools {
		if p.hasEntry {
			k.generations[id] = p.generation
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known = k
}

// noteGenerations records to which generations the entries of pools point now.
func (d *device) noteGenerations(changes []reconciler.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes {
		if now := poolOf(c.New); now != nil {
			d.generations[now.pool] = now.generation
		} else if old := poolOf(c.Old); old != nil {
			delete(d.generations, old.pool)
		}
	}
}

// noteWritten records which changes were made and which failed.
func (d *device) noteWritten(changes []reconciler.Change, failed *reconciler.PartialError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes {
		bad := failed != nil && failed.Keys[c.Key()] != nil
		switch b := either(c).Body.(type) {
		case *poolBody:
			delete(d.dirty, b.pool)
			if bad {
				d.dirty[b.pool] = true
			}
		case *ruleBody:
			if b.table != pipeline.TableVPC {
				continue
			}
			k := vpcKey{b.vip, b.match.VNI}
			delete(d.vpcs, k)
			if c.New != nil && !bad {
				d.vpcs[k] = b
			}
		}
	}
}

func either(c reconciler.Change) *reconciler.Resource {
	if c.New != nil {
		return c.New
	}
	return c.Old
}

// unreadVPC returns the entry of gray_vpc that takes the packets of a VM when the VM's
// own entry is deleted, if it was not read back yet; else nil.
func (d *device) unreadVPC(c reconciler.Change) *ruleBody {
	if c.New != nil {
		return nil
	}
	b, _ := c.Old.Body.(*ruleBody)
	if b == nil || b.table == pipeline.TableVPC || b.priority != 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.vpcs[vpcKey{b.vip, b.match.VNI}]
}

// readBackVPCs reads back the entries of gray_vpc for which entries of VMs are about to
// be deleted. If one is not there, the entries of its VMs stay.
func (w *writer) readBackVPCs(ctx context.Context, changes []reconciler.Change) {
	users := map[*ruleBody][]reconciler.Key{}
	var filters []*p4v1.TableEntry
	for _, c := range changes {
		b := w.d.unreadVPC(c)
		if b == nil {
			continue
		}
		if users[b] == nil {
			filters = append(filters, &p4v1.TableEntry{TableId: b.table, Match: entryOf(b).GetMatch()})
		}
		users[b] = append(users[b], c.Key())
	}
	if len(filters) == 0 {
		return
	}
	there := map[vpcKey]reconciler.Body{}
	ctx, cancel := context.WithTimeout(ctx, w.limits.read)
	defer cancel()
	err := w.d.read(ctx, w.d.table(pipeline.TableVPC), filters, func(e *p4v1.TableEntry) {
		f := readFields(e)
		there[vpcKey{uint8(f.exact(1)), uint32(f.exact(2))}], _ = decode(e, new(block))
	})
	for b, keys := range users {
		k := vpcKey{b.vip, b.match.VNI}
		failure := reason(err)
		if got := there[k]; err == nil && (got == nil || !b.Equal(got)) {
			failure = errors.New("it is missing or was changed")
		}
		if failure != nil {
			for _, key := range keys {
				w.fail(key, fmt.Errorf("not deleted, as entry %q of gray_vpc cannot be read back: %w", b.name(), failure))
			}
			continue
		}
		w.d.mu.Lock()
		delete(w.d.vpcs, k)
		w.d.mu.Unlock()
	}
}
