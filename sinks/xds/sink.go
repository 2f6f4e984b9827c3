package xds

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/time/rate"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// Target is the sink's only target.
const Target = lower.Target

// bucket is the store's bucket for what is served: one record for each resource,
// named "KIND NAME", and one that says that they are the whole state. The number is
// the version of the records' form; records of another version are not read.
const (
	bucket = "xds/2"
	whole  = "whole"
)

// Config is the settings of a Sink.
type Config struct {
	Store *reconciler.Store // nil: what is served is not kept
	Hints *board.Hints      // is told of NACKs, and of ACKs of what was refused before
	Log   *slog.Logger      // of clients that are turned away; nil: none

	// Alone says that no other daemon serves the Envoys, so that a Node without a stream
	// here is not connected anywhere. Observe reports it then.
	Alone bool
	// AckWait is how long an Apply waits for ACKs at the most; 0: 3 s. An Envoy that
	// takes longer is not waited for again until it has caught up.
	AckWait time.Duration
	// Grace is for a sink that starts without a whole state: this long after the last
	// Apply it begins to remove what Envoys have and gray does not know; 0: 10 s.
	Grace time.Duration
}

// Sink implements reconciler.Sink for Envoys, and serves them.
type Sink struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg   Config
	chunk int // bytes of resources in a response, about, while a client loads

	applying sync.Mutex // one Apply at a time

	mu      sync.RWMutex // guards what follows; a stream's lock is taken before it
	state   reconciler.State
	packer  *packer
	wire    *wire
	ready   bool // there is a state to serve, even if it is empty
	partial bool // more may come: what Envoys have and the state has not stays
	grace   *time.Timer
	unknown time.Time // the last Apply with endpoints that are not known yet

	logLimit  *rate.Sometimes
	admission *admission
}

// New returns a sink that serves what the store has. If it has nothing, no Envoy is
// answered before the first Apply, and each keeps what it has.
func New(cfg Config) (*Sink, error) {
	if cfg.Hints == nil {
		cfg.Hints = board.NewHints()
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.AckWait == 0 {
		cfg.AckWait = 3 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	s := &Sink{
		cfg: cfg, chunk: 4 << 20, state: reconciler.State{}, packer: newPacker(), wire: newWire(),
		partial: true, logLimit: newLogLimit(), admission: newAdmission(),
	}
	routes, err := pack(lower.Routes())
	if err != nil {
		return nil, err
	}
	anchor, err := pack(lower.AnchorHost())
	if err != nil {
		return nil, err
	}
	s.wire.commit([]put{{typeRoutes, lower.RoutesName, routes}, {typeVirtualHost, lower.AnchorName, anchor}})
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("the --state file has resources that cannot be served: %w; start with another --state file, the Envoys keep what they have until the first commit is applied", err)
	}
	if s.ready && s.partial { // the last process ended before its state was whole
		s.restartGrace()
	}
	return s, nil
}

// load reads the state from the store.
func (s *Sink) load() error {
	if s.cfg.Store == nil {
		return nil
	}
	var changes []reconciler.Change
	err := s.cfg.Store.Load(bucket, func(name string, value []byte) error {
		if name == whole {
			s.ready, s.partial = true, false
			return nil
		}
		kind, rest, _ := strings.Cut(name, " ")
		r, err := lower.Decode(lower.Key(kind, rest), value)
		changes = append(changes, reconciler.Change{New: r})
		return err
	})
	if err != nil {
		return err
	}
	st := s.stage(changes)
	if err := st.failed.Or(); err != nil {
		return err
	}
	s.adopt(st, changes)
	s.ready = s.ready || len(s.state) > 0
	return nil
}

// Lower implements reconciler.Sink.
func (s *Sink) Lower(ir *policies.IR, n policies.Name) ([]*reconciler.Resource, error) {
	return lower.Unit(ir, n), nil
}

// Observe implements reconciler.Sink: what is served, and as a *PartialError what
// connected Envoys refuse of it.
func (s *Sink) Observe(context.Context, string, *reconciler.Resource) (reconciler.State, error) {
	s.mu.RLock()
	state := maps.Clone(s.state)
	s.mu.RUnlock()
	return state, s.absent(state, s.refused()).Or()
}

// Apply implements reconciler.Sink: it serves the changes and waits, for a while,
// for the ACK or NACK of every Envoy that was up to date before.
func (s *Sink) Apply(ctx context.Context, _ *reconciler.Resource, changes []reconciler.Change) error {
	s.applying.Lock()
	defer s.applying.Unlock()
	failed, before, now, err := s.serve(changes)
	if err != nil {
		return err
	}
	if now == before {
		return failed.Or()
	}
	s.await(ctx, before, now)
	if refused := s.refused(); refused != nil {
		for _, c := range changes {
			failed = failed.Add(c.Key(), refused.Keys[c.Key()])
		}
	}
	return failed.Or()
}

// serve adopts changes and wakes the streams. It returns the revisions of the wire
// before and after.
func (s *Sink) serve(changes []reconciler.Change) (failed *reconciler.PartialError, before, now uint64, err error) {
	// Changes start from what is served, not from what the caller saw last. Only Apply
	// writes the state, so it can be read without the lock.
	own := make([]reconciler.Change, len(changes))
	for i, c := range changes {
		own[i] = reconciler.Change{Old: s.state[c.Key()], New: c.New}
	}
	own = slices.DeleteFunc(own, func(c reconciler.Change) bool { return c.Old == nil && c.New == nil })
	own, unknown := keepUnknown(own)
	st := s.stage(own)
	if st.failed != nil {
		own = slices.DeleteFunc(own, func(c reconciler.Change) bool { return st.failed.Keys[c.Key()] != nil })
	}
	if err := s.save(own); err != nil {
		return nil, 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before = s.wire.revision
	s.adopt(st, own)
	s.ready = true
	if unknown != nil {
		s.unknown = time.Now()
	}
	if s.partial {
		s.restartGrace()
	}
	if s.cfg.Alone && slices.ContainsFunc(own, func(c reconciler.Change) bool { return c.Key().Kind == lower.KindListener }) {
		s.cfg.Hints.Add(Target) // nobody may be there for it
	}
	s.wakeAll()
	if unknown != nil {
		for k, err := range unknown.Keys {
			st.failed = st.failed.Add(k, err)
		}
	}
	return st.failed, before, s.wire.revision, nil
}

// keepUnknown replaces endpoints that are not known yet by those that are live; it
// fails where none are.
func keepUnknown(changes []reconciler.Change) (ready []reconciler.Change, failed *reconciler.PartialError) {
	for _, c := range changes {
		var body *lower.Endpoints
		if c.New != nil {
			body, _ = c.New.Body.(*lower.Endpoints)
		}
		switch {
		case body == nil || !body.Unknown:
		case c.Old == nil:
			failed = failed.Add(c.Key(), fmt.Errorf("nobody knows yet what is registered under etcd %s; see what gray status says about it", body.Etcd))
			continue
		default:
			known := *c.New
			known.Body = &lower.Endpoints{Endpoints: c.Old.Body.(*lower.Endpoints).Endpoints, Etcd: body.Etcd, CheckPort: body.CheckPort}
			c.New = &known
		}
		ready = append(ready, c)
	}
	return ready, failed
}

// stage works out what changes do.
func (s *Sink) stage(changes []reconciler.Change) *staged {
	st := s.packer.stage(changes)
	s.packer.stageAPI(st)
	return st
}

// adopt serves what was staged; changes are those that did not fail. The caller holds
// the lock.
func (s *Sink) adopt(st *staged, changes []reconciler.Change) {
	s.packer.adopt(st)
	s.wire.commit(st.puts)
	for _, c := range changes {
		k := c.Key()
		if c.New == nil {
			delete(s.state, k)
		} else {
			s.state[k] = c.New
		}
	}
}

// save writes changes to the store before they are served, so that after a crash no
// Envoy has what the store has not.
func (s *Sink) save(changes []reconciler.Change) error {
	if s.cfg.Store == nil || len(changes) == 0 {
		return nil
	}
	put, remove := map[string][]byte{}, []string(nil)
	for _, c := range changes {
		name := c.Key().Kind + " " + c.Key().Name
		if c.New == nil {
			remove = append(remove, name)
			continue
		}
		b, err := lower.Encode(c.New)
		if err != nil {
			return err
		}
		put[name] = b
	}
	if err := s.cfg.Store.Write(bucket, put, remove); err != nil {
		return fmt.Errorf("cannot write the --state file: %w", err)
	}
	return nil
}

// knownAfter is how long a state stays partial after an Apply with endpoints that are
// not known yet. The loop tries those again at least once a minute.
const knownAfter = 2 * time.Minute

// restartGrace restarts the time in which the state counts as partial. The caller
// holds the lock.
func (s *Sink) restartGrace() {
	if s.grace != nil {
		s.grace.Stop()
	}
	s.grace = time.AfterFunc(s.cfg.Grace, func() {
		s.mu.Lock()
		if time.Since(s.unknown) < knownAfter {
			s.restartGrace()
			s.mu.Unlock()
			return
		}
		s.partial = false
		s.mu.Unlock()
		s.wakeAll()
		if s.cfg.Store != nil {
			// If this fails, the next process waits as this one did.
			_ = s.cfg.Store.Write(bucket, map[string][]byte{whole: nil}, nil)
		}
	})
}

// await waits until all streams that had settled the revision before have settled
// the one of now, AckWait at the most.
func (s *Sink) await(ctx context.Context, before, now uint64) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckWait)
	defer cancel()
	for _, st := range s.admission.all() {
		for {
			settled, progress := st.progressed()
			if settled < before || settled >= now {
				break
			}
			select {
			case <-progress:
				continue
			case <-ctx.Done():
				return
			}
		}
	}
}

// wakeAll has every stream look for what it has to send.
func (s *Sink) wakeAll() {
	for _, st := range s.admission.all() {
		st.poke()
	}
}
