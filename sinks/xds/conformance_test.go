package xds

import (
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/sinktest"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// TestConformance runs the suite of all sinks, with a client that behaves as an
// Envoy does. The target is what the sink serves and stores: nobody can change it
// beside the sink, so there is nothing foreign and no damage.
func TestConformance(t *testing.T) {
	sinktest.Run(t, sinktest.Config{Start: startConformance})
}

func startConformance(t *testing.T) *sinktest.Rig {
	store := newStore(t)
	cfg := Config{Store: store, AckWait: time.Minute}
	h := newHost(t, cfg, "")
	m := newMirror(h, "host-1", nil)
	sent, stalled := 0, false
	r := &sinktest.Rig{Sink: h.sink, Target: Target}
	r.Base, r.Changed = sinktest.Documents(t, "127.0.0.1:9559")
	r.Sent = func() int {
		if !stalled { // what is on its way counts as sent
			m.converges(h.sink)
		}
		sent += len(h.sent())
		return sent
	}
	r.Restart = func() reconciler.Sink {
		h.server.Stop()
		sent += len(h.sent())
		h = newHost(t, cfg, "")
		m = newMirror(h, "host-1", m)
		return h.sink
	}
	r.Kill = func() {
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	r.Stall = func() {
		h.synced("host-1")
		m.mu.Lock()
		defer m.mu.Unlock()
		stalled = true
		m.refuse = func(wireType, *discoveryv3.DeltaDiscoveryResponse) string {
			<-m.stream.Context().Done()
			return ""
		}
	}
	r.Refused = func(ir *policies.IR) (policies.Name, reconciler.Key) {
		n := policies.Name{Kind: schema.KindService, Name: "nobody", Part: "account/1"}
		ir.Put(n, &requests.AccountRoute{Service: "nobody", Account: "1", Rules: toVersion("v2"), Origin: schema.Position{Path: "x.yaml", Line: 1}})
		return n, lower.Key(lower.KindAccount, "nobody/1")
	}
	return r
}
