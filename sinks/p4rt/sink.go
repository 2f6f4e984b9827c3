// Package p4rt is the sink that programs switches by P4Runtime: targets
// "p4rt/<switch>". It lowers gateways and their rules to entries of the gray
// pipeline (package pipeline), reads back what is on a switch and writes what
// differs.
//
// gray owns the whole pipeline of a switch: an entry that no document asks for is
// foreign, shows as drift and is deleted. A pool and its hash buckets are one
// resource, as they have a meaning only together. Only the buckets that differ are
// written, or, where many do, the other of the pool's two generations.
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

// Config configures a Sink.
type Config struct {
	SecretsDir string // folder of the TLS files that Switch documents name
	Epoch      uint64 // high half of the election ids; larger at every start
	// Reelect returns an epoch above one that a switch has seen, or an error if that is
	// the epoch of a later leader. nil: there is never another leader.
	Reelect  func(above uint64) (uint64, error)
	Hints    *board.Hints // told when a switch comes, goes or changes its primary
	ReadOnly bool         // neither arbitrate nor write
}

// limits bound each call to a switch. Tests set smaller ones.
type limits struct {
	primary, read, write, push time.Duration // to become primary, read all, write a batch, load a pipeline
	retry                      time.Duration // the first pause before a new stream
	receive, header            int           // bytes of a message and of a header
}

// Sink implements reconciler.Sink for switches. Each switch has its own connection,
// and none waits for another.
type Sink struct {
	cfg       Config
	limits    limits
	epoch     atomic.Uint64
	elections atomic.Uint64

	mu      sync.Mutex
	devices map[string]*device
}

// New returns a sink. It connects to a switch at first use.
func New(cfg Config) *Sink {
	if cfg.Hints == nil {
		cfg.Hints = board.NewHints()
	}
	s := &Sink{cfg: cfg, devices: map[string]*device{}, limits: limits{
		primary: 5 * time.Second, read: time.Minute, write: 20 * time.Second, push: time.Minute,
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

// device returns the connection that a target's resource describes, and replaces the
// old one if the resource describes another.
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
		d.setProgram(program)
		return d, nil
	}
	if d != nil {
		delete(s.devices, self.Target)
		go func(old *device) { _ = old.close() }(d) // it waits for its stream, without the lock
	}
	d, err := s.dial(self.Target, spec)
	if err != nil {
		return nil, err
	}
	d.setProgram(program)
	s.devices[self.Target] = d
	return d, nil
}

// disconnect closes the connection to a switch whose document was deleted, so that
// another controller can become primary.
func (s *Sink) disconnect(d *device) error {
	s.mu.Lock()
	if s.devices[d.target] == d {
		delete(s.devices, d.target)
	}
	s.mu.Unlock()
	return d.close()
}

// Apply implements reconciler.Sink. It writes in phases, each acknowledged before the
// next, as a switch may reorder the updates of a batch. A change that failed in one
// phase is left out of the next.
func (s *Sink) Apply(ctx context.Context, self *reconciler.Resource, changes []reconciler.Change) error {
	if s.cfg.ReadOnly {
		return errors.New("this is a dry run and writes nothing")
	}
	d, err := s.device(self)
	if err != nil {
		return err
	}
	leadCtx, cancel := context.WithTimeout(ctx, s.limits.primary)
	id, err := d.waitPrimary(leadCtx)
	cancel()
	if err != nil {
		return err
	}
	w := newWriter(d, s.limits, id)
	var entries []reconciler.Change
	for _, c := range changes {
		switch {
		case c.Key().Kind != reconciler.KindTarget:
			entries = append(entries, d.withGenerations(c))
		case c.New == nil:
			defer func() { _ = s.disconnect(d) }()
		default:
			w.fail(c.Key(), w.load(ctx, c))
			d.learn(nil)
		}
	}
	if err := w.writeAll(ctx, entries); err != nil {
		return err
	}
	d.noteWritten(entries, w.failed)
	return w.failed.Or()
}
