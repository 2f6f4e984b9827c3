package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gray-release/gray/reconciler"
)

// Config is what a Sink needs to know.
type Config struct {
	SecretsDir string       // where the password files of Switch documents must lie
	Log        *slog.Logger // nil: nothing is logged

	// maxReceived and restartTime; tests set others.
	limit    uint32
	patience time.Duration
}

// Sink implements reconciler.Sink for the speakers of switches, which work
// independently of each other.
type Sink struct {
	cfg Config

	mu       sync.Mutex
	speakers map[string]*speaker // by target
	closed   bool
}

// New returns a sink without speakers; Apply starts them.
func New(cfg Config) *Sink {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.limit, cfg.patience = maxReceived, restartTime
	return &Sink{cfg: cfg, speakers: map[string]*speaker{}}
}

// Close ends all speakers for good. Their neighbors keep the routes for the restart
// time, as they do for a router that restarts.
func (s *Sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	var errs []error
	for _, sp := range s.speakers {
		errs = append(errs, sp.stop(keepRoutes))
	}
	return errors.Join(errs...)
}

// Neighbors returns the sessions of all speakers, sorted by target and address.
func (s *Sink) Neighbors() []Neighbor {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []Neighbor{}
	for _, sp := range s.speakers {
		all = append(all, sp.board.list()...)
	}
	slices.SortFunc(all, func(a, b Neighbor) int {
		return cmp.Or(strings.Compare(a.Target, b.Target), a.Address.Compare(b.Address))
	})
	return all
}

// speaker returns the speaker of a target, nil where none was started.
func (s *Sink) speaker(target string) *speaker {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.speakers[target]
}

// Observe implements reconciler.Sink: what the speaker really announces, and its
// sessions. An error names a password file that cannot be read.
func (s *Sink) Observe(_ context.Context, target string, _ *reconciler.Resource) (reconciler.State, error) {
	sp := s.speaker(target)
	if sp == nil {
		return reconciler.State{}, nil
	}
	return sp.observe()
}

// Apply implements reconciler.Sink.
func (s *Sink) Apply(ctx context.Context, _ *reconciler.Resource, changes []reconciler.Change) error {
	if len(changes) == 0 {
		return nil
	}
	k := changes[0].Key()
	if k.Kind == reconciler.KindTarget {
		return s.applyTarget(k.Target, changes[0])
	}
	sp := s.speaker(k.Target)
	if sp == nil {
		return fmt.Errorf("no speaker of %s is running", k.Target)
	}
	if k.Kind == kindNeighbor {
		return sp.changeNeighbors(changes)
	}
	return sp.changePaths(ctx, changes)
}

// applyTarget starts, changes or ends a speaker. The paths are gone before it
// is, so that neighbors are not left to guess.
func (s *Sink) applyTarget(target string, c reconciler.Change) error {
	sp := s.speaker(target)
	if c.New == nil {
		if sp == nil {
			return nil
		}
		s.mu.Lock()
		delete(s.speakers, target)
		s.mu.Unlock()
		return sp.stop(dropRoutes)
	}
	want := c.New.Body.(*targetBody)
	if sp != nil {
		return sp.become(want)
	}
	sp = newSpeaker(target, s.cfg)
	if err := sp.start(want); err != nil {
		return err
	}
	if err := s.enter(target, sp); err != nil {
		return errors.Join(err, sp.stop(keepRoutes))
	}
	return nil
}

// enter adds a new speaker, unless the sink is closed.
func (s *Sink) enter(target string, sp *speaker) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errEnding
	}
	s.speakers[target] = sp
	return nil
}
