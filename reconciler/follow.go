package reconciler

import (
	"maps"
	"sync"

	"github.com/gray-release/gray/policies"
)

// Follow is the board on which a daemon that does not lead finds what the one that
// does has moved.
type Follow struct {
	mu    sync.Mutex
	known map[string]*policies.Rollout
	wake  chan struct{}
}

// NewFollow returns an empty board: nothing has moved.
func NewFollow() *Follow { return &Follow{wake: make(chan struct{}, 1)} }

// Set replaces what has moved, by policy. It is not changed any more.
func (f *Follow) Set(rollouts map[string]*policies.Rollout) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known = maps.Clone(rollouts)
	poke(f.wake)
}

// Woken gets a value when something was Set; never of a nil board.
func (f *Follow) Woken() <-chan struct{} {
	if f == nil {
		return nil
	}
	return f.wake
}

// all is what has moved, by policy.
func (f *Follow) all() map[string]*policies.Rollout {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.known
}
