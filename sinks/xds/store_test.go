package xds

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/stores/bolt"
	"github.com/gray-release/gray/tools/testnet"
)

// TestStoreBroken serves nothing that could not be written down.
func TestStoreBroken(t *testing.T) {
	store, err := bolt.Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	h := one(t, Config{Store: store})
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	k := lower.Key(lower.KindListener, "host-1")
	err = h.sink.Apply(t.Context(), nil, []reconciler.Change{{New: h.desired()[k]}})
	if err == nil || !strings.Contains(err.Error(), "--state") {
		t.Errorf("error %v", err)
	}
	if state, _ := h.sink.Observe(t.Context(), Target, nil); len(state) != 0 || h.sink.ready {
		t.Errorf("state %v", state)
	}
}

// TestStoreUnreadable does not start with half of a state, which would take the
// other half from the Envoys.
func TestStoreUnreadable(t *testing.T) {
	for name, value := range map[string]string{
		"Account api/1": `{"body":{"rules":[{"priority":1,"version":"v2"}]}}`, // of no service
		"Cluster a/v1":  `{`,
		"Nothing x":     `{"body":{}}`,
	} {
		store := newStore(t)
		if err := store.Write(bucket, map[string][]byte{name: []byte(value)}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := New(Config{Store: store}); err == nil || !strings.Contains(err.Error(), name[:7]) || !strings.Contains(err.Error(), "--state") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStoreWhole serves nothing, once that is known to be the whole state, and
// takes away what an Envoy has.
func TestStoreWhole(t *testing.T) {
	store := newStore(t)
	h := one(t, Config{Store: store, Grace: time.Millisecond})
	h.mustApply()
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)
	h.whole()
	h.server.Stop()
	testnet.Eventually(t, func() string { return "the stream goes on" }, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.err != nil })
	offline, err := New(Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := applyState(t, offline, reconciler.State{}).Or(); err != nil {
		t.Fatal(err)
	}
	again := newHost(t, Config{Store: store}, "")
	newMirror(again, "host-1", m).converges(again.sink)
}

// TestStoreBeginning is stopped before the state was whole: an Envoy that has
// more keeps it until it is.
func TestStoreBeginning(t *testing.T) {
	h := one(t, Config{})
	h.service("old", "10.0.0.9:80", "")
	h.mustApply()
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)

	store := newStore(t)
	first, err := New(Config{Store: store, Grace: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	h.put(policies.Name{Kind: schema.KindService, Name: "old"}, nil)
	if err := applyState(t, first, h.desired()).Or(); err != nil {
		t.Fatal(err)
	}
	again := newHost(t, Config{Store: store, Grace: time.Hour}, "")
	m = newMirror(again, "host-1", m)
	again.synced("host-1")
	if has, _ := m.state(); has[typeVirtualHost]["gray/old"] == "" || len(again.sent()) != 0 {
		t.Error("something was taken away or sent again")
	}
	again.sink.mu.Lock()
	again.sink.cfg.Grace = time.Millisecond
	again.sink.restartGrace()
	again.sink.mu.Unlock()
	m.converges(again.sink)
}
