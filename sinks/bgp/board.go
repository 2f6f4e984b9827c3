package bgp

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// Neighbor is the state of one session.
type Neighbor struct {
	Target      string     `json:"target"`
	Address     netip.Addr `json:"address"`
	ASN         uint32     `json:"asn"`
	State       string     `json:"state"`               // of BGP's state machine, in lower case; waiting: not opened yet
	Since       time.Time  `json:"since"`               // it became established, or stopped being so
	LastError   string     `json:"lastError,omitempty"` // why the session went down or does not come up
	LastErrorAt time.Time  `json:"lastErrorAt,omitzero"`
}

// The session states that the code tells apart.
const (
	stateWaiting     = "waiting"
	stateIdle        = "idle"
	stateActive      = "active"
	stateEstablished = "established"
)

// board is the state of a speaker's sessions. Nobody takes another lock while
// holding its lock: GoBGP calls it with locks of its own held.
type board struct {
	target string
	log    *slog.Logger

	mu   sync.Mutex
	rows map[netip.Addr]*row
}

// row is one session.
type row struct {
	Neighbor
	fell bool // it was established, and has not been set up again yet
}

func newBoard(target string, log *slog.Logger) *board {
	return &board{target: target, log: log.With("target", target), rows: map[netip.Addr]*row{}}
}

// enter adds a session. One that is there starts anew and keeps its last error.
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

// leave removes a session, if there is one.
func (b *board) leave(address netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rows, address)
}

// move records a session's state, and why it was left. It reports whether a session
// that went down is about to connect again.
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

// failed records a reason, and logs it once instead of at every try.
func (b *board) failed(row *row, reason string) {
	if row.LastError != reason || row.LastErrorAt.Before(row.Since) {
		b.log.Warn("neighbor does not come up", "neighbor", row.Address, "reason", reason)
	}
	row.LastError, row.LastErrorAt = reason, time.Now()
}

// list returns all sessions, in no order.
func (b *board) list() []Neighbor {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Neighbor
	for _, row := range b.rows {
		all = append(all, row.Neighbor)
	}
	return all
}
