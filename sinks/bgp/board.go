package bgp

import (
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Neighbor is how a session stands.
type Neighbor struct {
	Target      string     `json:"target"`
	Address     netip.Addr `json:"address"`
	ASN         uint32     `json:"asn"`
	State       string     `json:"state"`               // of BGP's state machine in lower case; waiting: not opened yet
	Since       time.Time  `json:"since"`               // it is established, or is not
	LastError   string     `json:"lastError,omitempty"` // why the session fell or is not coming up
	LastErrorAt time.Time  `json:"lastErrorAt,omitzero"`
}

// The states of a session that matter here.
const (
	stateWaiting     = "waiting"
	stateIdle        = "idle"
	stateActive      = "active"
	stateEstablished = "established"
)

// board is what is known of a speaker's sessions. Its lock is a leaf: GoBGP
// reports to it from within, while it holds locks of its own.
type board struct {
	target string
	log    *slog.Logger

	mu   sync.Mutex
	rows map[netip.Addr]*row
}

// row is a session on the board.
type row struct {
	Neighbor
	fell bool // it was established, and is not set up anew yet
}

func newBoard(target string, log *slog.Logger) *board {
	return &board{target: target, log: log.With("target", target), rows: map[netip.Addr]*row{}}
}

// enter adds a session; one that is there begins anew and keeps its last error.
func (b *board) enter(n neighborBody, state string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := &row{Neighbor: Neighbor{Target: b.target, Address: n.address, ASN: n.asn, State: state, Since: time.Now()}}
	if old := b.rows[n.address]; old != nil {
		now.LastError, now.LastErrorAt = old.LastError, old.LastErrorAt
		if old.State != stateEstablished {
			now.Since = old.Since
		}
	}
	b.rows[n.address] = now
}

// leave removes a session.
func (b *board) leave(address netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rows, address)
}

// move records a session's state. It tells whether one that fell is about to
// connect again.
func (b *board) move(address netip.Addr, state, reason string) (again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	row := b.rows[address]
	if row == nil || row.State == state {
		return false
	}
	was := row.State
	row.State = state
	switch {
	case state == stateEstablished:
		row.Since = time.Now()
		b.log.Info("neighbor is up", "neighbor", address)
	case was == stateEstablished:
		row.fell, row.Since = true, time.Now()
		row.LastError, row.LastErrorAt = reason, row.Since
		b.log.Warn("neighbor is down", "neighbor", address, "reason", reason)
	case reason != "":
		b.failed(row, reason)
	}
	again = row.fell && state == stateActive
	row.fell = row.fell && !again
	return again
}

// fail records why a session does not come up.
func (b *board) fail(address netip.Addr, reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if row := b.rows[address]; row != nil && row.State != stateEstablished {
		b.failed(row, reason)
	}
}

// failed logs a reason once and not at every try.
func (b *board) failed(row *row, reason string) {
	if row.LastError != reason || row.LastErrorAt.Before(row.Since) {
		b.log.Warn("neighbor does not come up", "neighbor", row.Address, "reason", reason)
	}
	row.LastError, row.LastErrorAt = reason, time.Now()
}

// list is all sessions, sorted.
func (b *board) list() []Neighbor {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Neighbor
	for _, row := range b.rows {
		all = append(all, row.Neighbor)
	}
	slices.SortFunc(all, func(x, y Neighbor) int { return x.Address.Compare(y.Address) })
	return all
}
