package p4rt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Observe implements reconciler.Sink. If the switch runs another pipeline, its entries
// are not read: loading gray's removes them.
func (s *Sink) Observe(ctx context.Context, target string, self *reconciler.Resource) (reconciler.State, error) {
	d, err := s.device(self)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.limits.read)
	defer cancel()
	state := reconciler.State{}
	seen := *self.Body.(*targetBody)
	want := seen.cookie
	if err = d.running(ctx, &seen); err != nil {
		return nil, fmt.Errorf("cannot read the pipeline of %s: %w", d.spec.address, reason(err))
	}
	if seen.cookie != 0 {
		k := reconciler.Key{Target: target, Kind: reconciler.KindTarget}
		state[k] = &reconciler.Resource{Key: k, Rank: rankTarget, Body: &seen}
	}
	if seen.cookie != want {
		d.learn(nil)
		return state, nil
	}
	r := &reader{target: target, state: state, pools: map[uint8]*poolBody{}, buckets: map[bucketKey]uint32{}}
	for _, id := range slices.Sorted(maps.Keys(tableKinds)) { // a pipeline may have other tables too
		table := d.table(id)
		if table.Const {
			continue
		}
		if err := d.readTable(ctx, table, r.add); err != nil {
			return nil, fmt.Errorf("cannot read table %s of %s: %w", table.Name, d.spec.address, reason(err))
		}
	}
	r.finish()
	d.learn(r.pools)
	return state, nil
}

// running reads the cookie of the switch's pipeline into a body, 0 if there is none. If
// gray has no device config of the pipeline, somebody else loads it under another
// cookie, so its P4Info is compared instead.
func (d *device) running(ctx context.Context, b *targetBody) error {
	kind := p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY
	if !b.program.Loads {
		kind = p4v1.GetForwardingPipelineConfigRequest_P4INFO_AND_COOKIE
	}
	want := b.cookie
	b.cookie = 0
	res, err := d.client.GetForwardingPipelineConfig(ctx, &p4v1.GetForwardingPipelineConfigRequest{DeviceId: d.spec.deviceID, ResponseType: kind})
	if status.Code(err) == codes.FailedPrecondition {
		return nil
	}
	if err != nil {
		return err
	}
	b.cookie = res.GetConfig().GetCookie().GetCookie()
	if b.program.Loads {
		return nil
	}
	b.lack = b.program.Lacks(res.GetConfig().GetP4Info())
	switch {
	case b.lack == "":
		b.cookie = want
	case b.cookie == want:
		b.cookie = 0
	}
	return nil
}

// readTable streams all entries of a table.
func (d *device) readTable(ctx context.Context, table *pipeline.Table, add func(*p4v1.TableEntry)) error {
	return d.read(ctx, table, []*p4v1.TableEntry{{TableId: table.ID}}, add)
}

// read streams the entries of a table that filters ask for. A switch that does not
// support the filters may send others too. It may hold more entries than the P4Info
// says, but more than twice as many are an error.
func (d *device) read(ctx context.Context, table *pipeline.Table, filters []*p4v1.TableEntry, add func(*p4v1.TableEntry)) error {
	req := &p4v1.ReadRequest{DeviceId: d.spec.deviceID, Role: d.spec.role}
	for _, f := range filters {
		req.Entities = append(req.Entities, &p4v1.Entity{Entity: &p4v1.Entity_TableEntry{TableEntry: f}})
	}
	stream, err := d.client.Read(ctx, req)
	if err != nil {
		return err
	}
	for most := 2 * table.Size; ; {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if most -= int64(len(res.GetEntities())); most < 0 {
			return fmt.Errorf("it sends more than twice the %d entries that the table can hold", table.Size)
		}
		for _, e := range res.GetEntities() {
			if t := e.GetTableEntry(); t.GetTableId() == table.ID && !t.GetIsDefaultAction() {
				add(t)
			}
		}
	}
}

// reader makes a State from entries.
type reader struct {
	target  string
	state   reconciler.State
	pools   map[uint8]*poolBody
	buckets map[bucketKey]uint32
	scratch block
}

func (r *reader) put(kind, name string, rank int, body reconciler.Body) {
	k := reconciler.Key{Target: r.target, Kind: kind, Name: name}
	r.state[k] = &reconciler.Resource{Key: k, Rank: rank, Body: body}
}

// readBucket returns the key of an entry of the bucket table, and its backend as in a
// poolBody.
func readBucket(e *p4v1.TableEntry) (bucketKey, uint32) {
	f := readFields(e)
	return bucketKey{uint8(f.exact(1)), uint8(f.exact(2)), uint16(f.exact(3))}, uint32(uint16(f.param(1))) + 1
}

// add adds one entry. Pools and buckets are collected until finish.
func (r *reader) add(e *p4v1.TableEntry) {
	switch e.GetTableId() {
	case pipeline.TablePool:
		f := readFields(e)
		id := uint8(f.exact(1))
		r.pools[id] = &poolBody{pool: id, hasEntry: true, generation: uint8(f.param(1)), mask: uint16(f.param(2))}
	case pipeline.TableBucket:
		k, backend := readBucket(e)
		r.buckets[k] = backend
	default:
		body, name := decode(e, &r.scratch)
		r.put(tableKinds[e.GetTableId()], name, rankOf(e.GetTableId()), body)
	}
}

// finish adds the pools, each with its buckets.
func (r *reader) finish() {
	for k, v := range r.buckets {
		p := r.pools[k.pool]
		if p == nil {
			p = &poolBody{pool: k.pool}
			r.pools[k.pool] = p
		}
		if p.buckets == nil && p.hasEntry {
			p.buckets = make([]uint32, int(p.mask)+1)
		}
		if !p.hasEntry || k.generation != p.generation || k.hash > p.mask {
			p.unused = append(p.unused, k)
			continue
		}
		p.buckets[k.hash] = v
	}
	for id, p := range r.pools {
		if p.hasEntry && p.buckets == nil {
			p.buckets = make([]uint32, int(p.mask)+1)
		}
		slices.SortFunc(p.unused, compareBuckets)
		r.put("pool", "pool="+itoa(uint16(id)), rankPool, p)
	}
}

// reason is the code and message of a gRPC error, or of the first of the P4Runtime
// errors in its details.
func reason(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	for _, d := range st.Details() {
		if e, ok := d.(*p4v1.Error); ok && e.GetCanonicalCode() != 0 {
			return fmt.Errorf("%s: %s", codes.Code(e.GetCanonicalCode()), e.GetMessage())
		}
	}
	return fmt.Errorf("%s: %s", st.Code(), st.Message())
}
