package p4rt

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
)

// Config is what a Sink needs to know.
type Config struct {
	SecretsDir string // where the TLS files of Switch documents must lie
	Epoch      uint64 // high half of the election ids; grows from start to start
	// Reelect gives an epoch above another, for a switch that has seen that one; an
	// error says that a later leader has it. nil: there is no other leader to heed.
	Reelect  func(above uint64) (uint64, error)
	Hints    *board.Hints // told when a switch comes, goes or changes its primary
	ReadOnly bool         // never arbitrate and never write
}

// limits bound a single step against a switch. Tests have smaller ones.
type limits struct {
	lead, read, write, push time.Duration // to become primary, read all, write a batch, load a pipeline
	retry                   time.Duration // the first pause before a new stream
	receive, header         int           // bytes of a message and of a header
}

// Sink implements reconciler.Sink for switches. Each switch has a connection of
// its own, and none waits for another.
type Sink struct {
	cfg       Config
	limits    limits
	epoch     atomic.Uint64
	elections atomic.Uint64

	mu      sync.Mutex
	devices map[string]*device
}

// New returns a sink without connections; they are made at first use.
func New(cfg Config) *Sink {
	if cfg.Hints == nil {
		cfg.Hints = board.NewHints()
	}
	s := &Sink{cfg: cfg, devices: map[string]*device{}, limits: limits{
		lead: 5 * time.Second, read: time.Minute, write: 20 * time.Second, push: time.Minute,
		retry: retryFirst, receive: maxReceive, header: maxHeaderList,
	}}
	s.epoch.Store(cfg.Epoch)
	return s
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

// device returns the connection that a target's resource describes; a resource
// that describes another connection than before replaces it.
func (s *Sink) device(self *reconciler.Resource) (*device, error) {
	if self == nil {
		return nil, errors.New("there is no Switch document for this target")
	}
	body := self.Body.(*targetBody)
	program, spec := body.program, body.connection()
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[self.Target]
	if d != nil && d.spec == spec {
		d.runs(program)
		return d, nil
	}
	if d != nil {
		delete(s.devices, self.Target)
		go func(old *device) { _ = old.close() }(d) // waits for its stream, which the lock must not
	}
	d, err := s.dial(self.Target, spec)
	if err != nil {
		return nil, err
	}
	d.runs(program)
	s.devices[self.Target] = d
	return d, nil
}

// letGo ends the connection to a switch whose document is gone, so that another
// controller can have it.
func (s *Sink) letGo(d *device) error {
	s.mu.Lock()
	if s.devices[d.target] == d {
		delete(s.devices, d.target)
	}
	s.mu.Unlock()
	return d.close()
}

// Apply implements reconciler.Sink. Writes go out in phases, each acknowledged
// before the next, as a switch may reorder within a batch. What failed in one
// phase has no part in the next.
func (s *Sink) Apply(ctx context.Context, self *reconciler.Resource, changes []reconciler.Change) error {
	if s.cfg.ReadOnly {
		return errors.New("this is a dry run and writes nothing")
	}
	d, err := s.device(self)
	if err != nil {
		return err
	}
	leadCtx, cancel := context.WithTimeout(ctx, s.limits.lead)
	id, err := d.lead(leadCtx)
	cancel()
	if err != nil {
		return err
	}
	w := newWriter(d, s.limits, id)
	var entries []reconciler.Change
	for _, c := range changes {
		switch {
		case c.Key().Kind != reconciler.KindTarget:
			entries = append(entries, d.aim(c))
		case c.New == nil:
			defer func() { _ = s.letGo(d) }()
		default:
			w.fail(c.Key(), w.load(ctx, c))
			d.learn(nil)
		}
	}
	if err := w.writeAll(ctx, entries); err != nil {
		return err
	}
	d.wrote(entries, w.failed)
	return w.failed.Or()
}
