package xds

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/tools/testnet"
)

// TestUnknownEndpointsStay holds that a version whose endpoints nobody knows keeps
// those that are served, and that one without any waits, with what points to it.
func TestUnknownEndpointsStay(t *testing.T) {
	store := newStore(t)
	h := newHost(t, Config{Store: store}, "")
	h.service("api", "192.0.2.1:80", "192.0.2.2:80")
	h.mustApply()
	change := func(version int, f func(*requests.ServiceVersion)) {
		svc := *h.ir.Service("api")
		svc.Versions = append([]requests.ServiceVersion{}, svc.Versions...)
		f(&svc.Versions[version])
		h.put(policies.Name{Kind: schema.KindService, Name: "api"}, &svc)
	}
	plan := func(s *Sink) string {
		live, _ := s.Observe(t.Context(), Target, nil)
		return (&reconciler.Plan{Changes: reconciler.Diff(h.desired(), live, reconciler.Union(h.desired(), live))}).String()
	}
	says := func(s *Sink, want string) {
		t.Helper()
		if got := plan(s); got != want {
			t.Errorf("the plan is\n%s, want\n%s", got, want)
		}
	}
	lost := func(v *requests.ServiceVersion) { v.Etcd, v.Endpoints, v.Unknown = "/api/v1", nil, true }
	change(0, lost)
	says(h.sink, "~ xds Endpoints api/v1: listed -> etcd /api/v1  # api.yaml:10\n")
	h.mustApply()
	says(h.sink, "")
	served := func(s *Sink) string {
		live, _ := s.Observe(t.Context(), Target, nil)
		return live[lower.Key(lower.KindEndpoints, "api/v1")].Body.String()
	}
	if got, want := served(h.sink), "192.0.2.1:80 of etcd /api/v1"; got != want {
		t.Errorf("served are %q, want %q", got, want)
	}
	again, err := New(Config{Store: store}) // after a restart too
	if err != nil {
		t.Fatal(err)
	}
	says(again, "")
	if got, want := served(again), "192.0.2.1:80 of etcd /api/v1"; got != want {
		t.Errorf("served after a restart are %q, want %q", got, want)
	}

	// They become known, and are lost again.
	change(0, func(v *requests.ServiceVersion) {
		v.Unknown = false
		v.Endpoints = []requests.Endpoint{{Address: netip.MustParseAddr("192.0.2.3"), Port: 80, Weight: 1}}
	})
	says(h.sink, "~ xds Endpoints api/v1: +192.0.2.3:80, -192.0.2.1:80  # api.yaml:10\n")
	h.mustApply()
	change(0, lost)
	says(h.sink, "")
	change(0, func(v *requests.ServiceVersion) { v.Unknown, v.Endpoints = false, []requests.Endpoint{} }) // none is something else
	says(h.sink, "~ xds Endpoints api/v1: -192.0.2.3:80  # api.yaml:10\n")
	change(0, lost)

	// One that was never served.
	svc := *h.ir.Service("api")
	svc.Versions = append(svc.Versions[:2:2], requests.ServiceVersion{
		Name: "v3", Origin: schema.Position{Path: "api.yaml", Line: 12}, Etcd: "/api/v3", Unknown: true,
	})
	h.put(policies.Name{Kind: schema.KindService, Name: "api"}, &svc)
	says(h.sink, "+ xds Cluster api/v3: speaks http  # api.yaml:12\n+ xds Endpoints api/v3: those of etcd /api/v3  # api.yaml:12\n")
	failed := h.apply()
	if err := failed.Keys[lower.Key(lower.KindEndpoints, "api/v3")]; err == nil || len(failed.Keys) != 1 || !strings.Contains(err.Error(), "nobody knows yet what is registered under etcd /api/v3") {
		t.Errorf("failed are %v", failed)
	}
	text, err := YAML([]*reconciler.Resource{h.desired()[lower.Key(lower.KindEndpoints, "api/v3")]})
	if want := "# The endpoints of api/v3 are those that etcd has under /api/v3/; only the daemon knows them.\n"; err != nil || !strings.Contains(text, want) {
		t.Errorf("rendered is %v\n%s, want %s in it", err, text, want)
	}
	svc.Versions[2].Unknown = false
	h.put(policies.Name{Kind: schema.KindService, Name: "api"}, &svc)
	h.mustApply()
	says(h.sink, "")
}

// TestEnvoyKeepsWhatNobodyKnows starts a server whose state is gone, and which does
// not know the endpoints of a version, below an Envoy that does.
func TestEnvoyKeepsWhatNobodyKnows(t *testing.T) {
	h := newHost(t, Config{}, "")
	svc := h.service("api", backend(t, "one"), "")
	h.service("old", backend(t, "old"), "")
	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	e.answers("one HTTP/1.1", "api.internal")
	e.answers("old HTTP/1.1", "old.internal")
	h.server.Stop()

	const grace = 20 * time.Millisecond
	again := newHost(t, Config{Grace: grace}, h.addr)
	again.ir, again.names = h.ir, h.names
	again.put(policies.Name{Kind: schema.KindService, Name: "old"}, nil)
	lost := *svc
	lost.Versions = append([]requests.ServiceVersion{}, svc.Versions...)
	lost.Versions[0].Etcd, lost.Versions[0].Unknown, lost.Versions[0].Endpoints = "/api", true, nil
	again.put(policies.Name{Kind: schema.KindService, Name: "api"}, &lost)
	testnet.Eventually(t, func() string { return "envoy does not come back" }, func() bool { return len(again.sink.Proxies()) == 1 })
	if failed := again.apply(); failed == nil {
		t.Fatal("unknown endpoints are served")
	}
	for end := time.Now().Add(20 * grace); time.Now().Before(end); {
		for host, want := range map[string]string{"api.internal": "one HTTP/1.1", "old.internal": "old HTTP/1.1"} {
			if _, got := e.get(true, host); got != want {
				t.Fatalf("while nobody knows the endpoints of one service, %s is answered with %q, want %q", host, got, want)
			}
		}
	}
	known := lost
	known.Versions = append([]requests.ServiceVersion{}, lost.Versions...)
	known.Versions[0].Endpoints, known.Versions[0].Unknown = svc.Versions[0].Endpoints, false
	again.put(policies.Name{Kind: schema.KindService, Name: "api"}, &known)
	again.mustApply()
	again.sink.mu.Lock()
	again.sink.unknown = time.Now().Add(-knownAfter)
	again.sink.mu.Unlock()
	testnet.Eventually(t, func() string { return "what nobody names is not removed" }, func() bool { code, _ := e.get(true, "old.internal"); return code == 404 })
	e.answers("one HTTP/1.1", "api.internal")
}
