package board

import (
	"maps"
	"slices"

	"github.com/gray-release/gray/policies"
)

// Health is the board of whoever checks servers.
type Health struct {
	*Board[policies.Check]                             // sorted by gateway and server
	known                  map[string]map[string]bool  // gateway -> server -> it is wanted
	down                   map[string]map[string]error // gateway -> server -> why
}

// NewHealth returns an empty board: nothing is to be checked, nobody is down.
func NewHealth() *Health {
	return &Health{Board: newBoard[policies.Check](), down: map[string]map[string]error{}}
}

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
		h.news()
	}
}

// Why is why a server is down, nil where it is up.
func (h *Health) Why(gateway, server string) error {
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
	h.want(checks)
	h.known = map[string]map[string]bool{}
	for _, c := range checks {
		if h.known[c.Of] == nil {
			h.known[c.Of] = map[string]bool{}
		}
		h.known[c.Of][c.Server] = true
	}
	for gateway, servers := range h.down {
		before := len(servers)
		maps.DeleteFunc(servers, func(server string, _ error) bool { return !h.known[gateway][server] })
		if len(servers) != before {
			h.news()
		}
	}
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
