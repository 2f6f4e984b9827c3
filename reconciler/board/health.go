package board

import (
	"maps"
	"slices"
	"sync"

	"github.com/gray-release/gray/policies"
)

// Health is the board between the loop and whoever checks servers: the loop
// writes on it what is to be checked, the checker what it found. Neither waits
// for the other.
type Health struct {
	mu      sync.Mutex
	wanted  []policies.Check
	known   map[string]map[string]bool  // gateway -> server -> it is wanted
	down    map[string]map[string]error // gateway -> server -> why
	renewed chan struct{}
	wake    chan struct{}
}

// NewHealth returns an empty board: nothing is to be checked, nobody is down.
func NewHealth() *Health {
	return &Health{down: map[string]map[string]error{}, renewed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Wanted is what is to be checked, sorted by gateway and server.
func (h *Health) Wanted() []policies.Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wanted
}

// Renewed gets a value when Wanted has changed.
func (h *Health) Renewed() <-chan struct{} { return h.renewed }

// Report says how a server that is wanted stands: a nil reason says that it is
// up. Who was never reported is up.
func (h *Health) Report(gateway, server string, reason error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, down := h.down[gateway][server]
	if !h.known[gateway][server] { // of a check that was on its way when it ended
		return
	}
	if down == (reason != nil) && (reason == nil || was.Error() == reason.Error()) {
		return
	}
	if reason == nil {
		delete(h.down[gateway], server)
	} else {
		if h.down[gateway] == nil {
			h.down[gateway] = map[string]error{}
		}
		h.down[gateway][server] = reason
	}
	if down != (reason != nil) {
		poke(h.wake)
	}
}

// Woken gets a value when Down has changed; never of a nil board.
func (h *Health) Woken() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.wake
}

// Why is why a server is down, nil where it is up; never of a nil board.
func (h *Health) Why(gateway, server string) error {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down[gateway][server]
}

// Want replaces what is to be checked. Servers that are no longer checked are not
// down.
func (h *Health) Want(checks []policies.Check) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if slices.Equal(h.wanted, checks) {
		return
	}
	h.wanted = checks
	h.known = map[string]map[string]bool{}
	for _, c := range checks {
		if h.known[c.Gateway] == nil {
			h.known[c.Gateway] = map[string]bool{}
		}
		h.known[c.Gateway][c.Server] = true
	}
	for gateway, servers := range h.down {
		before := len(servers)
		maps.DeleteFunc(servers, func(server string, _ error) bool { return !h.known[gateway][server] })
		if len(servers) != before {
			poke(h.wake)
		}
	}
	poke(h.renewed)
}

// Down is who is down, sorted, for every gateway that anybody was ever down of.
func (h *Health) Down() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make(map[string][]string, len(h.down))
	for gateway, servers := range h.down {
		all[gateway] = slices.Sorted(maps.Keys(servers))
	}
	return all
}

// poke leaves a value in a channel that holds one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
