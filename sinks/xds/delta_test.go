package xds

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/tools/testnet"
)

// one makes a host with one service, and one node.
func one(t testing.TB, cfg Config) *host {
	h := newHost(t, cfg, "")
	h.service("api", "10.0.0.1:80", "10.0.0.2:80")
	h.node("host-1", 15001)
	return h
}

// TestNotReady answers nobody before there is a state.
func TestNotReady(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	testnet.Eventually(t, func() string { return "the client is not known" }, func() bool { return len(h.sink.Proxies()) == 1 })
	if m := h.sent(); len(m) != 0 {
		t.Errorf("sent %v", m)
	}
	done := make(chan struct{})
	go func() { defer close(done); h.mustApply() }()
	c.expect("Cluster +api/v1 +api/v2")
	<-done
}

// TestSubscriptions asks for names, again, and no longer.
func TestSubscriptions(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	c := newClient(h, "host-1")
	c.subscribe(typeEndpoints, "api/v1", "none/v1")
	c.expect("ClusterLoadAssignment +api/v1 -none/v1")
	c.nothing()
	c.subscribe(typeEndpoints, "api/v1")
	c.expect("ClusterLoadAssignment +api/v1")
	h.service("none", "10.0.0.3:80", "")
	h.mustApply()
	c.expect("ClusterLoadAssignment +none/v1")
	c.unsubscribe(typeEndpoints, "none/v1")
	h.service("none", "10.0.0.4:80", "")
	h.service("api", "10.0.0.5:80", "")
	h.mustApply()
	c.expect("ClusterLoadAssignment +api/v1")
	c.nothing()
}

// TestWildcard asks for everything in each of the ways in which that is done.
func TestWildcard(t *testing.T) {
	h := one(t, Config{})
	h.node("host-2", 15001)
	h.mustApply()
	for _, names := range [][]string{nil, {"*"}} {
		c := newClient(h, "host-1")
		c.subscribe(typeListener, names...)
		c.expect("Listener +host-1")
		stranger := newClient(h, "host-3")
		stranger.subscribe(typeListener, names...)
		stranger.expect("Listener") // an empty answer, so that it can start
	}
	c := newClient(h, "host-1")
	c.subscribe(typeVirtualHost, lower.RoutesName)
	c.expect("VirtualHost +gray/@none +gray/api")
	c.subscribe(typeVirtualHost, lower.RoutesName)
	c.expect("VirtualHost +gray/@none +gray/api")
	c.unsubscribe(typeVirtualHost, lower.RoutesName)
	c.nothing()
	h.service("b", "10.0.0.3:80", "")
	h.mustApply()
	c.nothing()
	single := newClient(h, "host-1")
	single.subscribe(typeVirtualHost, "gray/api")
	single.expect("VirtualHost +gray/api")
}

// TestNonces takes no other answer for an acknowledgement.
func TestNonces(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	_, res := c.recv()
	stale := request(typeCluster)
	stale.ResponseNonce = "777"
	c.send(stale)
	h.service("b", "10.0.0.3:80", "")
	h.mustApply()
	c.subscribe(typeEndpoints, "x/y") // the answer shows that the stale one was seen
	c.expect("ClusterLoadAssignment -x/y")
	if p := h.sink.Proxies()[0]; p.Synced || !strings.Contains(p.Waits, "Cluster api/v1 api/v2 not acknowledged") {
		t.Errorf("proxy %+v", p)
	}
	c.answer(res, "")
	c.expect("Cluster +b/v1 +b/v2")
}

// TestOrder holds back what must not come yet.
func TestOrder(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	c.subscribe(typeListener)
	c.subscribe(typeRoutes, lower.RoutesName)
	c.subscribe(typeVirtualHost)
	_, clusters := c.recv()
	c.nothing()
	c.subscribe(typeEndpoints, "api/v1", "api/v2")
	_, endpoints := c.recv()
	c.answer(clusters, "")
	c.answer(endpoints, "")
	c.expect("Listener +host-1")
	c.expect("RouteConfiguration +gray")
	_, vhosts := c.recv() // and does not answer

	h.put(policies.Name{Kind: "Service", Name: "api"}, nil)
	h.service("b", "10.0.0.3:80", "")
	h.mustApply()
	c.expect("Cluster +b/v1 +b/v2")
	c.subscribe(typeEndpoints, "b/v1", "b/v2")
	c.expect("ClusterLoadAssignment +b/v1 +b/v2")
	c.nothing() // the old clusters stay while routes may lead to them
	c.answer(vhosts, "")
	_, vhosts = c.recv()
	if got := text(vhosts); got != "VirtualHost +gray/b -gray/api" {
		t.Fatalf("got %q", got)
	}
	c.nothing()
	c.answer(vhosts, "")
	c.expect("Cluster -api/v1 -api/v2")
	c.expect("ClusterLoadAssignment -api/v1 -api/v2")
}

// TestRefusal refuses a cluster by name: it is not sent again before it changes,
// and shows at its key until then.
func TestRefusal(t *testing.T) {
	hints := board.NewHints()
	h := one(t, Config{Hints: hints, AckWait: time.Millisecond})
	h.mustApply()
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	_, res := c.recv()
	c.answer(res, "Error adding/updating cluster(s) api/v1: bad\nthing")
	c.expect("Cluster +api/v2") // which may have been dropped with it
	c.nothing()
	_, err := h.sink.Observe(t.Context(), Target, nil)
	var partial *reconciler.PartialError
	if !errors.As(err, &partial) || len(partial.Keys) != 1 {
		t.Fatalf("observed %v", err)
	}
	if e := partial.Keys[lower.Key(lower.KindCluster, "api/v1")]; e == nil || e.Error() != "the envoy of host-1 refuses it: Error adding/updating cluster(s) api/v1: bad thing" {
		t.Errorf("error %v", e)
	}
	if got := hints.Take(); len(got) != 1 {
		t.Errorf("hints %v", got)
	}
	h.service("b", "", "") // something else changes
	h.mustApply()
	_, res = c.recv()
	if got := text(res); got != "Cluster +b/v1 +b/v2" {
		t.Fatalf("got %q", got)
	}
	svc := *h.ir.Service("api")
	for _, p := range []string{"http2", "http"} { // there, and back to what was refused
		change := svc
		change.Protocol = p
		h.put(policies.Name{Kind: "Service", Name: "api"}, &change)
		_ = h.apply() // tells the old refusal again
	}
	c.answer(res, "")
	c.expect("Cluster +api/v2")
	c.nothing()
	svc.Protocol = "http2"
	h.put(policies.Name{Kind: "Service", Name: "api"}, &svc)
	h.mustApply()
	c.expect("Cluster +api/v1 +api/v2")
	c.nothing()
	if _, err := h.sink.Observe(t.Context(), Target, nil); err != nil {
		t.Errorf("still refused: %v", err)
	}
	if p := h.sink.Proxies()[0]; strings.Contains(p.Waits, "refused") || p.LastNACK == nil {
		t.Errorf("proxy %+v", p)
	}
	if got := hints.Take(); len(got) != 1 {
		t.Errorf("hints %v after it was taken", got)
	}
}

// TestRefusedRemoval does not insist on a removal.
func TestRefusedRemoval(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	c.subscribe(typeListener)
	c.subscribe(typeEndpoints, "api/v1", "api/v2")
	c.subscribe(typeRoutes, lower.RoutesName)
	c.subscribe(typeVirtualHost)
	c.expect("Cluster +api/v1 +api/v2")
	c.expect("ClusterLoadAssignment +api/v1 +api/v2")
	c.expect("Listener +host-1")
	c.expect("RouteConfiguration +gray")
	c.expect("VirtualHost +gray/@none +gray/api")
	h.put(policies.Name{Kind: "Service", Name: "api"}, nil)
	h.mustApply()
	c.expect("VirtualHost -gray/api")
	for _, want := range []string{"ClusterLoadAssignment -api/v1 -api/v2", "Cluster -api/v1 -api/v2"} {
		got, res := c.recv()
		if got != want && got != "Cluster -api/v1 -api/v2" && got != "ClusterLoadAssignment -api/v1 -api/v2" {
			t.Fatalf("got %q", got)
		}
		c.answer(res, "no")
	}
	c.nothing()
}

// TestApplyTellsRefusals gives the refusal of a change back from its Apply.
func TestApplyTellsRefusals(t *testing.T) {
	h := one(t, Config{AckWait: patience})
	h.mustApply()
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)
	h.synced("host-1")
	m.mu.Lock()
	m.refuse = func(t wireType, _ *discoveryv3.DeltaDiscoveryResponse) string {
		return map[wireType]string{typeVirtualHost: "no"}[t]
	}
	m.mu.Unlock()
	h.account("api", "1", "v2")
	failed := h.apply()
	if failed == nil || failed.Keys[lower.Key(lower.KindAccount, "api/1")] == nil || len(failed.Keys) != 1 {
		t.Errorf("failed %v", failed)
	}
	if got := h.desired()[lower.Key(lower.KindAccount, "api/1")].Origin.String(); got != "policy.yaml:7" {
		t.Errorf("origin %s", got)
	}
}

// TestRefusalWithoutName finds the one resource of many that is refused.
func TestRefusalWithoutName(t *testing.T) {
	h := one(t, Config{})
	const accounts = 3000
	for i := range accounts {
		h.account("api", fmt.Sprint(i), "v2")
	}
	h.mustApply()
	g := groupOf("api", "42")
	bad := g.shardName("v2")
	m := newMirror(h, "host-1", nil)
	m.mu.Lock()
	m.refuse = func(t wireType, res *discoveryv3.DeltaDiscoveryResponse) string {
		if t == typeVirtualHost && slices.ContainsFunc(res.GetResources(), func(r *discoveryv3.Resource) bool { return r.GetName() == bad }) {
			return "duplicate of api/a42"
		}
		return ""
	}
	m.mu.Unlock()
	want := served(h.sink, "host-1")
	delete(want[typeVirtualHost], bad)
	testnet.Eventually(t, func() string { return "the others do not come through" }, func() bool {
		has, _ := m.state()
		return maps.Equal(has[typeVirtualHost], want[typeVirtualHost])
	})
	var err error
	testnet.Eventually(t, func() string { return fmt.Sprintf("observed %v", err) }, func() bool {
		_, err = h.sink.Observe(t.Context(), Target, nil)
		partial, ok := errors.AsType[*reconciler.PartialError](err)
		return ok && len(partial.Keys) == 1 && partial.Keys[lower.Key(lower.KindAccount, "api/42")] != nil
	})
	_, log := m.state()
	refused := 0
	for _, line := range log {
		if line == "VirtualHost refused" {
			refused++
		}
	}
	if refused < 5 || refused > 15 {
		t.Errorf("%d responses were refused until the one was found", refused)
	}
}

// TestInitialVersions compares what a client has with what is served.
func TestInitialVersions(t *testing.T) {
	h := one(t, Config{Store: nil})
	h.account("api", "1", "v2")
	h.mustApply()
	h.sink.partial = false // as after a restart with a state
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)
	before := h.sent()
	again := newMirror(h, "host-1", m)
	testnet.Eventually(t, func() string { return "it has not asked" }, func() bool { return len(h.sink.Proxies()) == 2 && h.sink.Proxies()[1].Synced })
	again.converges(h.sink)
	if sent := h.sent(); len(sent) != 0 || len(before) < 5 {
		t.Errorf("sent %v to one that has everything", sent)
	}

	c := newClient(h, "host-1")
	req := request(typeCluster)
	req.InitialResourceVersions = map[string]string{"api/v1": "old", "api/v2": served(h.sink, "")[typeCluster]["api/v2"], "gone/v1": "x"}
	c.send(req)
	c.expect("Cluster +api/v1")
	c.subscribe(typeListener)
	c.subscribe(typeRoutes, lower.RoutesName)
	c.subscribe(typeVirtualHost)
	c.subscribe(typeEndpoints, "api/v1")
	seen := map[string]bool{}
	for range 5 {
		got, res := c.recv()
		c.answer(res, "")
		kind, _, _ := strings.Cut(got, " ")
		seen[kind] = true
		if kind == "Cluster" && (got != "Cluster -gone/v1" || len(seen) != 5) {
			t.Errorf("got %q after %v", got, seen)
		}
	}
}

// TestTooFarBehind ends a stream whose Envoy sleeps through too many removals;
// with the next one it gets everything.
func TestTooFarBehind(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	h.sink.partial = false
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)
	asleep := make(chan struct{})
	m.mu.Lock()
	m.refuse = func(wireType, *discoveryv3.DeltaDiscoveryResponse) string { <-asleep; return "" }
	m.mu.Unlock()
	for round := range 2 {
		for i := range maxRemoved {
			h.service(fmt.Sprintf("s%d-%d", round, i), "", "")
		}
		h.mustApply()
		for i := range maxRemoved {
			h.put(policies.Name{Kind: "Service", Name: fmt.Sprintf("s%d-%d", round, i)}, nil)
		}
		h.mustApply()
	}
	if n := len(h.sink.wire.tables[typeVirtualHost].entries); n > maxRemoved+10 {
		t.Errorf("%d names are remembered", n)
	}
	close(asleep)
	testnet.Eventually(t, func() string { return "the stream goes on" }, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.err != nil })
	if status.Code(m.err) != codes.Aborted {
		t.Errorf("ended with %v", m.err)
	}
	m.refuse = nil
	newMirror(h, "host-1", m).converges(h.sink)
}

// TestLoadInParts sends a client that has nothing more than one response.
func TestLoadInParts(t *testing.T) {
	h := one(t, Config{})
	pad := strings.Repeat("x", 240)
	for i := range 20_000 {
		h.account("api", fmt.Sprint(i)+pad, "v2")
	}
	h.mustApply()
	h.sent()
	newMirror(h, "host-1", nil).converges(h.sink)
	parts := 0
	for _, m := range h.sent() {
		if m.kind == typePrefix+typeNames[typeVirtualHost] {
			parts++
		}
		if m.bytes > 5<<20 {
			t.Errorf("a response of %d bytes", m.bytes)
		}
	}
	if parts < 2 {
		t.Errorf("%d parts", parts)
	}
}

// TestManyClients keeps 100 clients up to date, one of which never answers.
func TestManyClients(t *testing.T) {
	h := one(t, Config{AckWait: 50 * time.Millisecond})
	mute := newClient(h, "host-1")
	mute.subscribe(typeCluster)
	var mirrors []*mirror
	for i := range 100 {
		node := fmt.Sprintf("node-%d", i)
		h.node(node, 15001)
		mirrors = append(mirrors, newMirror(h, node, nil))
	}
	h.mustApply()
	for i := range 20 {
		h.account("api", fmt.Sprint(i), "v2")
		h.mustApply()
	}
	for _, m := range mirrors {
		m.converges(h.sink)
		h.synced(m.node)
	}
	testnet.Eventually(t, func() string { return fmt.Sprint(h.sink.Proxies()) }, func() bool { return len(h.sink.Proxies()) == 101 })
	p := h.sink.Proxies()[0]
	if p.Node != "host-1" || p.Synced || p.Waits == "" {
		t.Errorf("the mute one: %+v", p)
	}
	start := time.Now()
	for i := range 20 {
		h.account("api", fmt.Sprint(i), "")
	}
	h.mustApply()
	t.Logf("20 accounts removed at 100 clients in %s", time.Since(start))
	for _, m := range mirrors {
		m.converges(h.sink)
	}
}

// TestBadRequests ends streams that do not keep to the bounds.
func TestBadRequests(t *testing.T) {
	h := one(t, Config{})
	for name, c := range map[string]struct {
		node string
		req  *discoveryv3.DeltaDiscoveryRequest
	}{
		"no node":   {"", request(typeCluster)},
		"bad node":  {"a\nb", request(typeCluster)},
		"long name": {"host-1", &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typePrefix + typeNames[1], ResourceNamesSubscribe: []string{strings.Repeat("x", maxName+1)}}},
	} {
		cl := newClient(h, c.node)
		cl.send(c.req)
		if _, ok := <-cl.got; ok || status.Code(cl.err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, cl.err)
		}
	}
	c := newClient(h, "host-1")
	other := request(typeCluster)
	other.TypeUrl = typePrefix + "envoy.service.runtime.v3.Runtime" // of another source of that Envoy
	c.send(other)
	c.subscribe(typeEndpoints)
	h.mustApply()
	c.nothing()
}
