package p4rt

import (
	"context"
	"errors"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// known is what a device remembers of its switch between a read of the whole and
// the next one. The loop does not: to it, what it desired is what is there.
type known struct {
	generations map[uint8]uint8      // of each pool, as its entry says
	unsure      map[uint8]bool       // pools of which a change failed half-way
	vpcs        map[vpcKey]*ruleBody // written, and not read back yet
}

// vpcKey is the key of an entry of gray_vpc.
type vpcKey struct {
	vip uint8
	vni uint32
}

func newKnown() known {
	return known{generations: map[uint8]uint8{}, unsure: map[uint8]bool{}, vpcs: map[vpcKey]*ruleBody{}}
}

// learn takes over what a read of the whole switch found.
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

// pointed notes to which generation the entries of pools point now.
func (d *device) pointed(changes []reconciler.Change) {
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

// wrote notes how changes ended.
func (d *device) wrote(changes []reconciler.Change, failed *reconciler.PartialError) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range changes {
		bad := failed != nil && failed.Keys[c.Key()] != nil
		switch b := either(c).Body.(type) {
		case *poolBody:
			delete(d.unsure, b.pool)
			if bad {
				d.unsure[b.pool] = true
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

// unreadVPC is the entry of gray_vpc that takes the packets of a VM once the VM's
// own entry is deleted, where it was written and not read back yet; else nil.
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

// proveVPCs reads back the entries of gray_vpc that VM entries are about to be
// deleted for, those and no others. Where one is not there, its VM entries stay.
func (w *writer) proveVPCs(ctx context.Context, changes []reconciler.Change) {
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
			failure = errors.New("it is not there as it was written")
		}
		if failure != nil {
			for _, key := range keys {
				w.fail(key, fmt.Errorf("it stays, as entry %q of gray_vpc cannot be read back: %w", b.name(), failure))
			}
			continue
		}
		w.d.mu.Lock()
		delete(w.d.vpcs, k)
		w.d.mu.Unlock()
	}
}
