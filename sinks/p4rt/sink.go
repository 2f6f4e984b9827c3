package p4rt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// Time limits of a single step against a switch.
const (
	leadTimeout  = 5 * time.Second
	readTimeout  = 60 * time.Second
	writeTimeout = 20 * time.Second
	pushTimeout  = 60 * time.Second
)

// Config is what a Sink needs to know.
type Config struct {
	SecretsDir string            // where the TLS files of Switch documents must lie
	Epoch      uint64            // high half of the election ids; grows from start to start
	Hints      *reconciler.Hints // told when a switch comes, goes or changes its primary
	ReadOnly   bool              // never arbitrate and never write
}

// Sink implements reconciler.Sink for switches. Each switch has a connection of
// its own, and none waits for another.
type Sink struct {
	cfg       Config
	elections atomic.Uint64

	mu      sync.Mutex
	devices map[string]*device
}

// New returns a sink without connections; they are made at first use.
func New(cfg Config) *Sink {
	if cfg.Hints == nil {
		cfg.Hints = reconciler.NewHints()
	}
	return &Sink{cfg: cfg, devices: map[string]*device{}}
}

// Close ends all connections.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for t, d := range s.devices {
		errs = append(errs, d.close())
		delete(s.devices, t)
	}
	return errors.Join(errs...)
}

// Health is how the connection to a switch stands.
type Health struct {
	Target  string
	Primary bool
	Reason  string // why not primary; empty where it is
	Since   time.Time
}

// Health returns the standing of all switches, sorted.
func (s *Sink) Health() []Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Health
	for t, d := range s.devices {
		d.mu.Lock()
		h := Health{Target: t, Primary: d.primary, Since: d.since}
		if d.standing != nil {
			h.Reason = d.standing.Error()
		}
		d.mu.Unlock()
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b Health) int { return strings.Compare(a.Target, b.Target) })
	return all
}

// device returns the connection that a target's resource describes; a resource
// that describes another connection than before replaces it.
func (s *Sink) device(self *reconciler.Resource) (*device, error) {
	if self == nil {
		return nil, errors.New("there is no Switch document for this target")
	}
	spec := *self.Body.(*targetBody)
	spec.cookie, spec.push = 0, ""
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[self.Target]
	if d != nil && d.spec == spec {
		return d, nil
	}
	if d != nil {
		delete(s.devices, self.Target)
		go func() { _ = d.close() }() // waits for its stream, which the lock must not
	}
	d, err := s.dial(self.Target, spec)
	if err != nil {
		return nil, err
	}
	s.devices[self.Target] = d
	return d, nil
}

// Observe implements reconciler.Sink. Entries under another pipeline than gray's
// are not looked at: loading gray's removes them.
func (s *Sink) Observe(ctx context.Context, target string, self *reconciler.Resource) (reconciler.State, error) {
	d, err := s.device(self)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	state := reconciler.State{}
	seen := *self.Body.(*targetBody)
	seen.cookie, err = d.cookie(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the pipeline of %s: %w", d.spec.address, reason(err))
	}
	if seen.cookie != 0 {
		k := reconciler.Key{Target: target, Kind: reconciler.KindTarget}
		state[k] = &reconciler.Resource{Key: k, Rank: rankTarget, Body: &seen}
	}
	if seen.cookie != pipeline.Cookie() {
		return state, nil
	}
	r := &reader{target: target, state: state, pools: map[uint8]*poolBody{}, buckets: map[bucketKey]uint32{}}
	for id, t := range pipeline.Index().Tables {
		if t.Const {
			continue
		}
		if err := d.readTable(ctx, id, r.add); err != nil {
			return nil, fmt.Errorf("cannot read table %s of %s: %w", t.Name, d.spec.address, reason(err))
		}
	}
	r.finish()
	return state, nil
}

// cookie reads which pipeline is loaded, 0 for none.
func (d *device) cookie(ctx context.Context) (uint64, error) {
	res, err := d.client.GetForwardingPipelineConfig(ctx, &p4v1.GetForwardingPipelineConfigRequest{
		DeviceId: d.spec.deviceID, ResponseType: p4v1.GetForwardingPipelineConfigRequest_COOKIE_ONLY,
	})
	if status.Code(err) == codes.FailedPrecondition {
		return 0, nil
	}
	return res.GetConfig().GetCookie().GetCookie(), err
}

// readTable streams all entries of a table.
func (d *device) readTable(ctx context.Context, table uint32, add func(*p4v1.TableEntry)) error {
	stream, err := d.client.Read(ctx, &p4v1.ReadRequest{
		DeviceId: d.spec.deviceID, Role: d.spec.role,
		Entities: []*p4v1.Entity{{Entity: &p4v1.Entity_TableEntry{TableEntry: &p4v1.TableEntry{TableId: table}}}},
	})
	if err != nil {
		return err
	}
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range res.GetEntities() {
			if t := e.GetTableEntry(); t != nil && !t.GetIsDefaultAction() {
				add(t)
			}
		}
	}
}

// reader makes a State of entries.
type reader struct {
	target  string
	state   reconciler.State
	pools   map[uint8]*poolBody
	buckets map[bucketKey]uint32
}

func (r *reader) put(kind, name string, rank int, body reconciler.Body) {
	k := reconciler.Key{Target: r.target, Kind: kind, Name: name}
	r.state[k] = &reconciler.Resource{Key: k, Rank: rank, Body: body}
}

// add takes one entry; pools and buckets wait until all are there.
func (r *reader) add(e *p4v1.TableEntry) {
	f := readFields(e)
	switch e.GetTableId() {
	case pipeline.TablePool:
		id := uint8(f.exact(1))
		r.pools[id] = &poolBody{pool: id, hasEntry: true, generation: uint8(f.param(1)), mask: uint16(f.param(2))}
		return
	case pipeline.TableBucket:
		k := bucketKey{uint8(f.exact(1)), uint8(f.exact(2)), uint16(f.exact(3))}
		r.buckets[k] = uint32(f.param(1)) + 1
		return
	}
	body, name := decode(e)
	rank := map[string]int{"backend": rankBackend, "hash_profile": rankPool, "vip_v4": rankVIP, "vip_v6": rankVIP}[tableKinds[e.GetTableId()]]
	if rank == 0 {
		rank = rankRule
	}
	if body == nil {
		r.put(tableKinds[e.GetTableId()], name, rank, &rawBody{text: rawText(e), proto: e})
		return
	}
	r.put(tableKinds[e.GetTableId()], name, rank, body.(reconciler.Body))
}

// finish gives every bucket to its pool. Buckets that the pool's entry does not
// reach are stray.
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
			p.stray = append(p.stray, k)
			continue
		}
		p.buckets[k.hash] = v
	}
	for id, p := range r.pools {
		if p.hasEntry && p.buckets == nil {
			p.buckets = make([]uint32, int(p.mask)+1)
		}
		slices.SortFunc(p.stray, compareBuckets)
		r.put("pool", "pool="+itoa(uint16(id)), rankPool, p)
	}
}
