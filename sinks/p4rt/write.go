package p4rt

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Sizes of a batch, in updates. The largest stays well under 4 MiB, as no entry
// of the pipeline has more than 250 bytes.
const (
	batchFirst = 512
	batchMost  = 8192
)

// update is one write and the resource that it is for.
type update struct {
	key   reconciler.Key
	proto *p4v1.Update
}

// Apply implements reconciler.Sink. Writes go out in phases, each acknowledged
// before the next, as a switch may reorder within a batch.
func (s *Sink) Apply(ctx context.Context, self *reconciler.Resource, changes []reconciler.Change) error {
	if s.cfg.ReadOnly {
		return errors.New("this is a dry run and writes nothing")
	}
	d, err := s.device(self)
	if err != nil {
		return err
	}
	leadCtx, cancel := context.WithTimeout(ctx, leadTimeout)
	id, err := d.lead(leadCtx)
	cancel()
	if err != nil {
		return err
	}
	w := &writer{d: d, id: id, batch: batchFirst}
	var phases [3][]update
	for _, c := range changes {
		if c.Key().Kind == reconciler.KindTarget {
			w.failed = w.failed.Add(c.Key(), w.retarget(ctx, c))
			continue
		}
		for i, us := range updatesOf(c) {
			for _, u := range us {
				phases[i] = append(phases[i], update{c.Key(), u})
			}
		}
	}
	for _, p := range phases {
		if err := w.write(ctx, p); err != nil {
			return err
		}
	}
	return w.failed.Or()
}

// updatesOf is what a change writes, in up to three phases.
func updatesOf(c reconciler.Change) [3][]*p4v1.Update {
	var phases [3][]*p4v1.Update
	add := func(phase int, t p4v1.Update_Type, e *p4v1.TableEntry) {
		u := &p4v1.Update{Type: t, Entity: &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: e}}}
		phases[phase] = append(phases[phase], u)
	}
	newPool, oldPool := poolOf(c.New), poolOf(c.Old)
	switch {
	case newPool != nil || oldPool != nil:
		poolUpdates(oldPool, newPool, add)
	case c.New == nil:
		add(0, p4v1.Update_DELETE, entryOf(c.Old))
	case c.Old == nil:
		add(0, p4v1.Update_INSERT, entryOf(c.New))
	default:
		add(0, p4v1.Update_MODIFY, entryOf(c.New))
	}
	return phases
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
// away what is left over; a pool that goes loses its entry first.
func poolUpdates(old, now *poolBody, add func(int, p4v1.Update_Type, *p4v1.TableEntry)) {
	if old == nil {
		old = &poolBody{}
	}
	if now == nil {
		if old.hasEntry {
			add(0, p4v1.Update_DELETE, old.entry())
		}
		now = &poolBody{pool: old.pool}
	}
	for i := range max(len(now.buckets), len(old.buckets)) {
		k := bucketKey{cmp.Or(now.pool, old.pool), old.generation, uint16(i)}
		was, is := at(old.buckets, i), at(now.buckets, i)
		switch {
		case was == is:
		case is == 0:
			add(2, p4v1.Update_DELETE, bucketEntry(k, uint16(was-1)))
		case was == 0:
			add(0, p4v1.Update_INSERT, bucketEntry(k, uint16(is-1)))
		default:
			add(0, p4v1.Update_MODIFY, bucketEntry(k, uint16(is-1)))
		}
	}
	if now.hasEntry {
		live := *now
		live.generation = old.generation
		switch {
		case !old.hasEntry:
			add(1, p4v1.Update_INSERT, live.entry())
		case old.mask != now.mask:
			add(1, p4v1.Update_MODIFY, live.entry())
		}
	}
	for _, k := range old.stray {
		if now.hasEntry && k.generation == old.generation && int(k.hash) < len(now.buckets) {
			continue // it has become a live bucket, see mend
		}
		add(2, p4v1.Update_DELETE, bucketEntry(k, 0))
	}
}

func compareBuckets(a, b bucketKey) int {
	return cmp.Or(cmp.Compare(a.pool, b.pool), cmp.Compare(a.generation, b.generation), cmp.Compare(a.hash, b.hash))
}

// writer sends updates and keeps the errors by key.
type writer struct {
	d      *device
	id     *p4v1.Uint128
	batch  int // updates in the next batch
	failed *reconciler.PartialError
}

// write sends updates in batches that grow while all is well and shrink when one
// is too much for the switch.
func (w *writer) write(ctx context.Context, updates []update) error {
	for len(updates) > 0 {
		n := min(w.batch, len(updates))
		errs, err := w.send(ctx, updates[:n])
		switch code := status.Code(err); {
		case err == nil:
			w.batch = min(2*w.batch, batchMost)
		case n > 1 && ctx.Err() == nil && (code == codes.ResourceExhausted || code == codes.DeadlineExceeded):
			w.batch = n / 2
			continue
		default:
			return fmt.Errorf("cannot write to %s: %w", w.d.spec.address, reason(err))
		}
		if err := w.mend(ctx, updates[:n], errs); err != nil {
			return err
		}
		updates = updates[n:]
	}
	return nil
}

// mend looks at what failed in a batch. Somebody else's entry, or a retry after
// a lost answer, may have made an insert a modification, the other way round, or
// a deletion superfluous; everything else is an error of its key.
func (w *writer) mend(ctx context.Context, sent []update, errs []*p4v1.Error) error {
	var again []update
	for i, e := range errs {
		t := sent[i].proto.GetType()
		switch code := codes.Code(e.GetCanonicalCode()); {
		case code == codes.OK:
		case code == codes.NotFound && t == p4v1.Update_DELETE:
		case code == codes.AlreadyExists && t == p4v1.Update_INSERT:
			again = append(again, update{sent[i].key, &p4v1.Update{Type: p4v1.Update_MODIFY, Entity: sent[i].proto.GetEntity()}})
		case code == codes.NotFound && t == p4v1.Update_MODIFY:
			again = append(again, update{sent[i].key, &p4v1.Update{Type: p4v1.Update_INSERT, Entity: sent[i].proto.GetEntity()}})
		default:
			w.failed = w.failed.Add(sent[i].key, fmt.Errorf("the switch refused it: %s: %s", code, e.GetMessage()))
		}
	}
	if len(again) == 0 {
		return nil
	}
	errs, err := w.send(ctx, again)
	if err != nil {
		return fmt.Errorf("cannot write to %s: %w", w.d.spec.address, reason(err))
	}
	for i, e := range errs {
		if code := codes.Code(e.GetCanonicalCode()); code != codes.OK {
			w.failed = w.failed.Add(again[i].key, fmt.Errorf("the switch refused it: %s: %s", code, e.GetMessage()))
		}
	}
	return nil
}

// send makes one Write. It returns an error an update where the switch gave
// them, or the error of the whole.
func (w *writer) send(ctx context.Context, updates []update) ([]*p4v1.Error, error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	req := &p4v1.WriteRequest{
		DeviceId: w.d.spec.deviceID, Role: w.d.spec.role, ElectionId: w.id,
		Updates: make([]*p4v1.Update, len(updates)), Atomicity: p4v1.WriteRequest_CONTINUE_ON_ERROR,
	}
	for i, u := range updates {
		req.Updates[i] = u.proto
	}
	_, err := w.d.client.Write(ctx, req)
	st, _ := status.FromError(err)
	if err == nil || st.Code() != codes.Unknown || len(st.Proto().GetDetails()) != len(updates) {
		return nil, err
	}
	errs := make([]*p4v1.Error, len(updates))
	for i, d := range st.Proto().GetDetails() {
		errs[i] = new(p4v1.Error)
		if err := d.UnmarshalTo(errs[i]); err != nil {
			return nil, fmt.Errorf("the switch sent an error that cannot be read: %w", err)
		}
	}
	return errs, nil
}

// retarget loads the pipeline where it is another, or empties a switch that is
// no longer gray's by leaving its pipeline without entries.
func (w *writer) retarget(ctx context.Context, c reconciler.Change) error {
	if c.New == nil {
		return nil
	}
	want := c.New.Body.(*targetBody)
	if want.push == "never" {
		have := uint64(0)
		if c.Old != nil {
			have = c.Old.Body.(*targetBody).cookie
		}
		return fmt.Errorf("the switch runs the pipeline with cookie %#x, gray wants %#x; load it, or set pushPipeline: ifDifferent", have, want.cookie)
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	_, err := w.d.client.SetForwardingPipelineConfig(ctx, &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: w.d.spec.deviceID, Role: w.d.spec.role, ElectionId: w.id,
		Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY_AND_COMMIT,
		Config: &p4v1.ForwardingPipelineConfig{
			P4Info: pipeline.P4Info(), P4DeviceConfig: pipeline.DeviceConfig(),
			Cookie: &p4v1.ForwardingPipelineConfig_Cookie{Cookie: pipeline.Cookie()},
		},
	})
	if err != nil {
		return fmt.Errorf("cannot load the pipeline: %w", reason(err))
	}
	return nil
}

// reason takes a gRPC error's code and message without its frame.
func reason(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	return fmt.Errorf("%s: %s", st.Code(), st.Message())
}
