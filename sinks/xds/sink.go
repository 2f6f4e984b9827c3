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

	"github.com/gray-release/gray/reconciler"
)

// bucket is the store's bucket for what is served: a record a resource, named
// "kind name", and one that says that they are a whole state. The number is that of
// the records' form: a state of another one is not read.
const (
	bucket = "xds/2"
	whole  = "whole"
)

// Config is what a Sink works with.
type Config struct {
	Store *reconciler.Store // nil: what is served does not outlive the process
	Hints *reconciler.Hints // told when an Envoy refuses something, or takes it after all
	Log   *slog.Logger      // of clients that are turned away; nil: none

	// AckWait bounds how long an Apply waits for the Envoys; 0: 3 s. One that is
	// slower is not waited for again until it has caught up.
	AckWait time.Duration
	// Grace is for a sink that starts without a whole state: so long after the last
	// Apply, what Envoys have and gray does not know is removed from them; 0: 10 s.
	Grace time.Duration
}

// Sink implements reconciler.Sink for Envoys, and serves them.
type Sink struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	cfg   Config
	chunk int // about how many bytes of resources one response has while a client loads

	applying sync.Mutex // one Apply at a time

	mu      sync.RWMutex // guards what follows; a stream's lock is taken before it
	state   reconciler.State
	packer  *packer
	wire    *wire
	ready   bool // there is, or was, a state to serve
	partial bool // it may be the beginning of one: what it does not name stays
	// accounts counts what policies send to another version, by service.
	accounts map[string]int
	grace    *time.Timer
	unsure   time.Time // when an Apply had endpoints that nobody knows last

	often     *rate.Sometimes // bounds the log
	admission *admission

	streamsMu sync.Mutex
	streams   map[*stream]bool
}

// New returns a sink that serves what the store holds. Where it holds nothing,
// no Envoy is answered before the first Apply: it keeps what it has.
func New(cfg Config) (*Sink, error) {
	if cfg.Hints == nil {
		cfg.Hints = reconciler.NewHints()
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
		partial: true, accounts: map[string]int{}, streams: map[*stream]bool{}, often: logSometimes(), admission: newAdmission(),
	}
	routes, err := pack(nativeRoutes())
	if err != nil {
		return nil, err
	}
	anchor, err := pack(anchorHost())
	if err != nil {
		return nil, err
	}
	s.wire.commit([]put{{typeRoutes, routesName, routes}, {typeVirtualHost, anchorName, anchor}})
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("the --state file holds what cannot be served: %w; start with another --state file, the Envoys keep what they have until the first commit is applied", err)
	}
	if s.ready && s.partial { // it was stopped before it knew its state to be whole
		s.restartGrace()
	}
	return s, nil
}

// load takes the state from the store.
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
		r, err := Decode(key(kind, rest), value)
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

// Observe implements reconciler.Sink: what is served, and as a *PartialError what
// connected Envoys refuse of it.
func (s *Sink) Observe(context.Context, string, *reconciler.Resource) (reconciler.State, error) {
	s.mu.RLock()
	state := maps.Clone(s.state)
	s.mu.RUnlock()
	return state, s.refused().Or()
}

// Apply implements reconciler.Sink: it serves the changes and waits, for a while,
// until every Envoy that has followed so far has acknowledged or refused them.
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

// serve takes changes in and wakes the streams. It returns the wire's revisions
// before and after.
func (s *Sink) serve(changes []reconciler.Change) (failed *reconciler.PartialError, before, now uint64, err error) {
	// What changes starts from what is served, and not from what the caller has
	// last seen. Only an Apply writes the state, so that it can be read here.
	own := make([]reconciler.Change, len(changes))
	for i, c := range changes {
		own[i] = reconciler.Change{Old: s.state[c.Key()], New: c.New}
	}
	own = slices.DeleteFunc(own, func(c reconciler.Change) bool { return c.Old == nil && c.New == nil })
	own, unknown := settle(own)
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
		s.unsure = time.Now()
	}
	if s.partial {
		s.restartGrace()
	}
	s.wakeAll()
	if unknown != nil {
		for k, err := range unknown.Keys {
			st.failed = st.failed.Add(k, err)
		}
	}
	return st.failed, before, s.wire.revision, nil
}

// stage works out what changes do.
func (s *Sink) stage(changes []reconciler.Change) *staged {
	st := s.packer.stage(changes)
	s.packer.stageAPI(st)
	return st
}

// adopt takes over what was staged, and the changes that did not fail. The caller
// holds the lock.
func (s *Sink) adopt(st *staged, changes []reconciler.Change) {
	s.packer.adopt(st)
	s.wire.commit(st.puts)
	for _, c := range changes {
		k := c.Key()
		_, had := s.state[k]
		if c.New == nil {
			delete(s.state, k)
		} else {
			s.state[k] = c.New
		}
		if k.Kind == kindAccount && had != (c.New != nil) {
			service, _, _ := strings.Cut(k.Name, "/")
			if had {
				s.accounts[service]--
			} else {
				s.accounts[service]++
			}
			if s.accounts[service] == 0 {
				delete(s.accounts, service)
			}
		}
	}
}

// save writes changes to the store before they are served: after a crash no
// Envoy has more than the store knows.
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
		b, err := Encode(c.New)
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

// sureAfter is for how long a state counts as partial after an Apply had endpoints
// that nobody knows; while that is so, the loop tries them again at least once a
// minute.
const sureAfter = 2 * time.Minute

// restartGrace puts off the end of the time in which nothing is removed. The
// caller holds the lock.
func (s *Sink) restartGrace() {
	if s.grace != nil {
		s.grace.Stop()
	}
	s.grace = time.AfterFunc(s.cfg.Grace, func() {
		s.mu.Lock()
		if time.Since(s.unsure) < sureAfter {
			s.restartGrace()
			s.mu.Unlock()
			return
		}
		s.partial = false
		s.mu.Unlock()
		s.wakeAll()
		if s.cfg.Store != nil {
			// Where this fails, a restarted sink is as careful as this one was.
			_ = s.cfg.Store.Write(bucket, map[string][]byte{whole: nil}, nil)
		}
	})
}

// await returns when all streams that had the revision before have the one of
// now too, or when it takes too long.
func (s *Sink) await(ctx context.Context, before, now uint64) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.AckWait)
	defer cancel()
	for _, st := range s.all() {
		for {
			settled, progress := st.standing()
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

// all lists the streams.
func (s *Sink) all() []*stream {
	s.streamsMu.Lock()
	defer s.streamsMu.Unlock()
	return slices.Collect(maps.Keys(s.streams))
}

// wakeAll has every stream look for what it has to send.
func (s *Sink) wakeAll() {
	for _, st := range s.all() {
		st.poke()
	}
}
