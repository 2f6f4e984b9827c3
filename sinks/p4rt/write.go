package p4rt

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
)

// Sizes of a batch, in updates. The largest is well below 4 MiB, as no entry of the
// pipeline has more than 250 bytes.
const (
	batchFirst = 512
	batchMost  = 1024
)

// writer sends updates and collects the errors by key.
type writer struct {
	d      *device
	limits limits
	id     *p4v1.Uint128
	size   atomic.Int64 // of the next batch
	most   int          // updates that the switch takes in one
	failed *reconciler.PartialError

	batches [2]batch
}

func newWriter(d *device, l limits, id *p4v1.Uint128) *writer {
	w := &writer{d: d, limits: l, id: id, most: batchMost}
	w.size.Store(batchFirst)
	return w
}

// fail records an error of a key, if it is the first; nil is ignored.
func (w *writer) fail(k reconciler.Key, err error) {
	if w.failed == nil || w.failed.Keys[k] == nil {
		w.failed = w.failed.Add(k, err)
	}
}

// unfailed returns the changes that have not failed.
func (w *writer) unfailed(changes []reconciler.Change) []reconciler.Change {
	if w.failed == nil {
		return changes
	}
	return slices.DeleteFunc(slices.Clone(changes), func(c reconciler.Change) bool { return w.failed.Keys[c.Key()] != nil })
}

// writeAll writes changes phase by phase. Entries that are about to take over packets
// are read back first: a generation before its pool flips to it, the entry of a VPC
// before those of its VMs are deleted.
func (w *writer) writeAll(ctx context.Context, changes []reconciler.Change) error {
	w.readBackVPCs(ctx, changes)
	for phase := range phases {
		if phase == phasePoint {
			w.readBackPools(ctx, w.unfailed(changes))
		}
		if err := w.run(ctx, w.unfailed(changes), phase); err != nil {
			return err
		}
		if phase == phasePoint {
			w.d.noteGenerations(w.unfailed(changes))
		}
	}
	return nil
}

// batch is the updates of one Write, and the blocks that they are made in.
type batch struct {
	updates []update
	blocks  []*block
	used    int
}

// newBlock returns a block for the next update.
func (b *batch) newBlock() *block {
	const most = 64
	if b.used == len(b.blocks) {
		fresh := make([]block, min(max(b.used, 1), most))
		for i := range fresh {
			b.blocks = append(b.blocks, &fresh[i])
		}
	}
	b.used++
	return b.blocks[b.used-1]
}

// run sends the updates of changes in a phase. While one batch is being sent, the next
// is built.
func (w *writer) run(ctx context.Context, changes []reconciler.Change, phase int) error {
	building, stop := context.WithCancel(ctx)
	ready, free := make(chan *batch), make(chan *batch, 2)
	free <- &w.batches[0]
	free <- &w.batches[1]
	var builder sync.WaitGroup
	builder.Go(func() {
		defer close(ready)
		w.build(building, changes, phase, ready, free)
	})
	defer builder.Wait()
	defer stop()
	for b := range ready {
		if err := w.write(ctx, b.updates); err != nil {
			return err
		}
		free <- b
	}
	return ctx.Err()
}

// build makes batches of the updates of changes in a phase, until ctx ends.
func (w *writer) build(ctx context.Context, changes []reconciler.Change, phase int, ready chan<- *batch, free <-chan *batch) {
	var b *batch
	size := 0
	newBlock := func() *block {
		if b == nil {
			b, size = <-free, int(w.size.Load())
			b.updates, b.used = b.updates[:0], 0
		}
		return b.newBlock()
	}
	send := func() bool {
		select {
		case ready <- b:
			b = nil
			return true
		case <-ctx.Done():
			return false
		}
	}
	for u := range updatesOf(changes, phase, newBlock) {
		if b.updates = append(b.updates, u); len(b.updates) >= size && !send() {
			return
		}
	}
	if b != nil {
		send()
	}
}

// write sends updates in batches, which grow while the switch is fast and shrink when
// one is too large.
func (w *writer) write(ctx context.Context, updates []update) error {
	for len(updates) > 0 {
		size := int(w.size.Load())
		n := min(size, len(updates))
		began := time.Now()
		errs, err := w.send(ctx, updates[:n])
		switch code := status.Code(err); {
		case err == nil:
			if n == size && time.Since(began) < w.limits.write/4 { // twice as many will not take too long
				w.size.Store(int64(min(2*n, w.most)))
			}
		case n > 1 && ctx.Err() == nil && tooLarge(code):
			w.most = n / 2
			w.size.Store(int64(w.most))
			continue
		default:
			return fmt.Errorf("cannot write to %s: %w", w.d.spec.address, reason(err))
		}
		again, aborted := w.handleErrors(updates[:n], errs)
		if aborted { // each error costs a Write, so make them small
			w.size.Store(int64(max(n/2, 1)))
		}
		if updates = updates[n:]; len(again) > 0 {
			updates = append(again, updates...)
		}
	}
	return nil
}

// tooLarge tells whether a batch may have failed because of its size: the request is
// too large for the server, or the errors are too large for the client, which Go's
// server reports as an internal error.
func tooLarge(code codes.Code) bool {
	return code == codes.ResourceExhausted || code == codes.Internal
}

// handleErrors looks at the errors of a batch and returns what is to be sent again. After
// a lost answer, or a change by somebody else, an insert may have to be a modify, a
// modify an insert, and an entry that is to be deleted may be gone. Some switches stop at
// the first error and abort the rest. Every other error is recorded by key.
func (w *writer) handleErrors(sent []update, errs []*p4v1.Error) (again []update, stopped bool) {
	aborted := 0
	for i, e := range errs {
		u := sent[i]
		t := u.proto.GetType()
		switch code := codes.Code(e.GetCanonicalCode()); {
		case code == codes.OK:
		case code == codes.NotFound && t == p4v1.Update_DELETE:
		case code == codes.Aborted:
			aborted++
			again = append(again, u)
		case code == codes.AlreadyExists && t == p4v1.Update_INSERT && !u.again:
			again = append(again, update{u.key, sameEntity(p4v1.Update_MODIFY, u.proto), true})
		case code == codes.NotFound && t == p4v1.Update_MODIFY && !u.again:
			again = append(again, update{u.key, sameEntity(p4v1.Update_INSERT, u.proto), true})
		default:
			w.fail(u.key, fmt.Errorf("the switch refused it: %s: %s", code, e.GetMessage()))
		}
	}
	if aborted == len(sent) && aborted > 0 { // no other error is the cause
		for i, u := range sent {
			w.fail(u.key, fmt.Errorf("the switch refused it: %s: %s", codes.Aborted, errs[i].GetMessage()))
		}
		return nil, true
	}
	return again, aborted > 0
}

func sameEntity(t p4v1.Update_Type, u *p4v1.Update) *p4v1.Update {
	return &p4v1.Update{Type: t, Entity: u.GetEntity()}
}

// send makes one Write. It returns one error per update if the switch sent them, or
// the error of the whole Write.
func (w *writer) send(ctx context.Context, updates []update) ([]*p4v1.Error, error) {
	ctx, cancel := context.WithTimeout(ctx, w.limits.write)
	defer cancel()
	req := &p4v1.WriteRequest{
		DeviceId: w.d.spec.deviceID, Role: w.d.spec.role, ElectionId: w.id,
		Updates: make([]*p4v1.Update, len(updates)), Atomicity: p4v1.WriteRequest_CONTINUE_ON_ERROR,
	}
	for i := range updates {
		req.Updates[i] = updates[i].proto
	}
	_, err := w.d.client.Write(ctx, req)
	if err == nil {
		return nil, nil
	}
	details := status.Convert(err).Proto().GetDetails()
	if status.Code(err) != codes.Unknown || len(details) != len(updates) {
		return nil, err
	}
	errs := make([]*p4v1.Error, len(updates))
	for i, d := range details {
		errs[i] = new(p4v1.Error)
		if err := d.UnmarshalTo(errs[i]); err != nil {
			return nil, fmt.Errorf("cannot read an error that the switch sent: %w", err)
		}
	}
	return errs, nil
}

// load loads the pipeline.
func (w *writer) load(ctx context.Context, c reconciler.Change) error {
	want := c.New.Body.(*targetBody)
	have := &targetBody{}
	if c.Old != nil {
		have = c.Old.Body.(*targetBody)
	}
	switch {
	case !want.program.Loads && have.lack == "":
		return fmt.Errorf("the switch runs no pipeline, gray wants %s and has no device config to load; load it by other means", want.program.Name)
	case !want.program.Loads:
		return fmt.Errorf("the switch runs another pipeline than %s: %s; load that by other means, as gray has no device config", want.program.Name, have.lack)
	case want.push == "never":
		return fmt.Errorf("the switch runs the pipeline with cookie %#x, gray wants %#x; load it, or set pushPipeline: ifDifferent", have.cookie, want.cookie)
	}
	ctx, cancel := context.WithTimeout(ctx, w.limits.push)
	defer cancel()
	_, err := w.d.client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: w.d.spec.deviceID, Role: w.d.spec.role, ElectionId: w.id,
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		Config: &p4v1.ForwardingPipelineConfig{
			P4Info: want.program.P4Info, P4DeviceConfig: want.program.DeviceConfig,
			Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: want.cookie},
		},
	})
	if err != nil {
		return fmt.Errorf("cannot load the pipeline: %w", reason(err))
	}
	return nil
}
