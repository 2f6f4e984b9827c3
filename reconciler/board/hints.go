package board

import (
	"maps"
	"slices"
	"sync"
)

// Hints is a set of targets that want to be looked at again. It wakes the loop
// and carries no data: whoever adds never waits, and adding twice is one hint.
type Hints struct {
	mu      sync.Mutex
	targets map[string]bool
	wake    chan struct{}
}

// NewHints returns an empty set.
func NewHints() *Hints {
	return &Hints{targets: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Add asks for a new look at a target.
func (h *Hints) Add(target string) {
	h.mu.Lock()
	h.targets[target] = true
	h.mu.Unlock()
	poke(h.wake)
}

// Woken gets a value after Add.
func (h *Hints) Woken() <-chan struct{} { return h.wake }

// Take empties the set and returns what was in it, sorted.
func (h *Hints) Take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	targets := slices.Sorted(maps.Keys(h.targets))
	clear(h.targets)
	return targets
}
