package reconciler

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/schema"
)

// Health is where the loop and whoever checks servers meet: the loop says which
// servers are to be checked, the checker which of them fail. Neither waits for
// the other.
type Health struct {
	mu      sync.Mutex
	checks  []policies.Check
	down    map[string][]string // by gateway: what the loop has not taken yet
	changed chan struct{}
	wake    chan struct{}
}

// NewHealth returns a board without checks.
func NewHealth() *Health {
	return &Health{down: map[string][]string{}, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// Checks returns which servers are to be checked, sorted by gateway and server.
// It is shared and read-only.
func (h *Health) Checks() []policies.Check {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.checks
}

// Changed gets a value when Checks may return something new.
func (h *Health) Changed() <-chan struct{} { return h.changed }

// SetDown says which servers of a gateway fail their checks, as Check.Server
// names them. It stands until it is said anew.
func (h *Health) SetDown(gateway string, down []string) {
	h.mu.Lock()
	h.down[gateway] = slices.Clone(down)
	h.mu.Unlock()
	poke(h.wake)
}

// poke leaves a hint in a channel of one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// publish changes what is to be checked.
func (h *Health) publish(checks []policies.Check) {
	h.mu.Lock()
	h.checks = checks
	h.mu.Unlock()
	poke(h.changed)
}

// woken gets a value after SetDown; nil for a nil board.
func (h *Health) woken() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.wake
}

// take returns what was said since the last call.
func (h *Health) take() map[string][]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	down := h.down
	h.down = map[string][]string{}
	return down
}

// heed takes in which servers fail their checks.
func (r *Reconciler) heed() {
	for gateway, down := range r.cfg.Health.take() {
		r.meaning.compiler.SetDown(gateway, down)
	}
	if r.revision == "" {
		return // the first commit acts on it
	}
	if err := r.follow(r.meaning.good); err != nil {
		r.cfg.Log.Error("cannot act on failing servers, will try again", "error", err)
	}
}

// notice takes over what a delta says about servers: which are to be checked, and
// how many of those in force fail.
func (r *Reconciler) notice(d *delta, now time.Time) {
	gateways := false
	for _, n := range d.units {
		if n.Kind != schema.KindGateway || n.Part != "" {
			continue
		}
		gateways = true
		doc, ok := r.docs.Get(document{name: schema.Name{Kind: n.Kind, Name: n.Name}})
		if gw := d.ir.Gateway(n.Name); ok && gw != nil {
			doc.ailing = ailing(gw)
			doc.degraded.set(doc.ailing != "", now)
			r.docs.ReplaceOrInsert(doc)
		}
	}
	if gateways && r.cfg.Health != nil {
		r.cfg.Health.publish(d.ir.Checks())
	}
}

// ailing says which servers of a gateway fail, empty where none does.
func ailing(gw *policies.Gateway) string {
	var words []string
	for i := range gw.Pools {
		p := &gw.Pools[i]
		var down []string
		for _, b := range p.Backends {
			if b.Down {
				down = append(down, b.Name)
			}
		}
		if len(down) == 0 {
			continue
		}
		s := fmt.Sprintf("%d of %d servers of %s fail their checks (%s)", len(down), len(p.Backends), p.Version, strings.Join(down[:min(5, len(down))], ", "))
		if p.Kept > 0 {
			s += fmt.Sprintf(", %d of them keep their buckets, as half always stay", p.Kept)
		}
		words = append(words, s)
	}
	return strings.Join(words, "; ")
}
