package board

import (
	"maps"
	"slices"
)

// Hints is the board of targets that sinks want to be looked at again.
type Hints struct {
	*Board[string]
	targets map[string]bool
}

// NewHints returns an empty set.
func NewHints() *Hints { return &Hints{newBoard[string](), map[string]bool{}} }

// Add asks for a new look at a target.
func (h *Hints) Add(target string) {
	h.mu.Lock()
	h.targets[target] = true
	h.mu.Unlock()
	h.news()
}

// Take empties the set and returns what was in it, sorted.
func (h *Hints) Take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	targets := slices.Sorted(maps.Keys(h.targets))
	clear(h.targets)
	return targets
}
