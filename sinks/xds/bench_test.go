package xds

import (
	"fmt"
	"testing"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// BenchmarkAddAccount adds one account to 100,000, on the server's side, with
// and without a store.
func BenchmarkAddAccount(b *testing.B) {
	for _, stored := range []bool{false, true} {
		b.Run(fmt.Sprintf("store=%t", stored), func(b *testing.B) {
			var cfg Config
			if stored {
				cfg.Store = newStore(b)
			}
			h := newHost(b, cfg, "")
			h.service("api", "10.0.0.1:80", "10.0.0.2:80")
			for i := range 100_000 {
				h.account("api", fmt.Sprint(50_000_000+i), "v2")
			}
			h.mustApply()
			addRemove(b, h)
		})
	}
}

// addRemove adds an account and removes it again.
func addRemove(b *testing.B, h *host) {
	h.account("api", "77", "v2")
	r := h.desired()[lower.Key(lower.KindAccount, "api/77")]
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := reconciler.Change{New: r}
		if i%2 == 1 {
			c = reconciler.Change{Old: r}
		}
		if err := h.sink.Apply(b.Context(), nil, []reconciler.Change{c}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAddAccountClients adds one account to 100,000 and waits until each of
// 100 clients has it.
func BenchmarkAddAccountClients(b *testing.B) {
	h := newHost(b, Config{}, "")
	h.service("api", "10.0.0.1:80", "10.0.0.2:80")
	for i := range 100_000 {
		h.account("api", fmt.Sprint(50_000_000+i), "v2")
	}
	for i := range 100 {
		h.node(fmt.Sprintf("n%d", i), 15001)
	}
	h.mustApply()
	for i := range 100 {
		node := fmt.Sprintf("n%d", i)
		m := newMirror(h, node, nil)
		m.converges(h.sink)
		m.mu.Lock()
		m.trusting = true
		m.mu.Unlock()
		h.synced(node)
	}
	addRemove(b, h)
}
