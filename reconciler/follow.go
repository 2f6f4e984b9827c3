package reconciler

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/gray-release/gray/policies"
)

// Follow is the board on which a daemon that does not lead finds what the one that
// does has moved.
type Follow struct {
	mu    sync.Mutex
	known map[string]*policies.Rollout
	first chan struct{} // closed when something was Set
	wake  chan struct{}
}

// followWait is how long a daemon that follows waits for what has moved before it
// follows the documents alone. Envoys keep what they have in the meantime.
const followWait = 30 * time.Second

// NewFollow returns an empty board: nothing has moved.
func NewFollow() *Follow { return &Follow{first: make(chan struct{}), wake: make(chan struct{}, 1)} }

// Set replaces what has moved, by policy. It is not changed any more.
func (f *Follow) Set(rollouts map[string]*policies.Rollout) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		close(f.first)
	}
	if f.known = maps.Clone(rollouts); f.known == nil {
		f.known = map[string]*policies.Rollout{}
	}
	poke(f.wake)
}

// Woken gets a value when something was Set; never of a nil board.
func (f *Follow) Woken() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.wake
}

// wait returns when something was Set, or nobody could tell what for too long; at
// once of a nil board.
func (f *Follow) wait(ctx context.Context) {
	if f == nil {
		return
	}
	timer := time.NewTimer(followWait)
	defer timer.Stop()
	select {
	case <-f.first:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// all is what has moved, by policy.
func (f *Follow) all() map[string]*policies.Rollout {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known
}
