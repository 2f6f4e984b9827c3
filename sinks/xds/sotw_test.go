package xds

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statusv3 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// sotwClient is a raw client with a state-of-the-world stream.
type sotwClient struct {
	t      testing.TB
	stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	got    chan *discoveryv3.DiscoveryResponse
	node   *corev3.Node
	nonce  [wireTypes]string
	names  [wireTypes][]string
	err    error // of the stream, once got is closed
}

func newSotwClient(h *host, node *corev3.Node) *sotwClient {
	h.t.Helper()
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(h.t.Context())
	h.t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		h.t.Fatal(err)
	}
	c := &sotwClient{t: h.t, stream: stream, got: make(chan *discoveryv3.DiscoveryResponse, 1024), node: node}
	go func() {
		defer close(c.got)
		for {
			res, err := stream.Recv()
			if err != nil {
				c.err = err
				return
			}
			c.got <- res
		}
	}()
	return c
}

// ask sends a request for names; with a message it refuses the last response.
func (c *sotwClient) ask(t wireType, message string, names ...string) {
	req := &discoveryv3.DiscoveryRequest{Node: c.node, TypeUrl: typePrefix + typeNames[t], ResourceNames: names, ResponseNonce: c.nonce[t]}
	if message != "" {
		req.ErrorDetail = &statusv3.Status{Code: 3, Message: message}
	}
	c.node, c.names[t] = nil, names
	_ = c.stream.Send(req)
}

// recv returns the next response as "Cluster a b".
func (c *sotwClient) recv() (string, *discoveryv3.DiscoveryResponse) {
	c.t.Helper()
	select {
	case res, ok := <-c.got:
		if !ok {
			c.t.Fatalf("the stream ended: %v", c.err)
		}
		t := typeOf(res.GetTypeUrl())
		c.nonce[t] = res.GetNonce()
		words := []string{shortType(t)}
		for _, r := range res.GetResources() {
			m, err := r.UnmarshalNew()
			if err != nil {
				c.t.Fatal(err)
			}
			switch m := m.(type) {
			case interface{ GetName() string }:
				words = append(words, m.GetName())
			case interface{ GetClusterName() string }:
				words = append(words, m.GetClusterName())
			}
		}
		return strings.Join(words, " "), res
	case <-time.After(patience):
		c.t.Fatal("no response")
		return "", nil
	}
}

// expect receives a response and acknowledges it.
func (c *sotwClient) expect(want string) *discoveryv3.DiscoveryResponse {
	c.t.Helper()
	got, res := c.recv()
	if got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	t := typeOf(res.GetTypeUrl())
	c.ask(t, "", c.names[t]...)
	return res
}

// nothing checks that there is nothing to come: what is asked for now is the next
// answer.
func (c *sotwClient) nothing() {
	c.t.Helper()
	names := c.names[typeEndpoints]
	c.ask(typeEndpoints, "", append([]string{"barrier/v1"}, names...)...)
	c.expect("ClusterLoadAssignment barrier/v1")
	c.ask(typeEndpoints, "", names...)
}

// TestSotw asks for names, more of them and fewer, and follows changes.
func TestSotw(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.service("barrier", "10.0.0.9:80", "")
	h.mustApply()
	h.sink.mu.Lock()
	h.sink.partial = false
	h.sink.mu.Unlock()
	node := &corev3.Node{Id: "app-1"}
	c := newSotwClient(h, node)
	c.ask(typeListener, "", "api.internal", "none.internal")
	first := c.expect("Listener api.internal") // none.internal is not there
	c.ask(typeRoutes, "", "api")
	c.expect("RouteConfiguration api")
	c.ask(typeCluster, "", "api/v1")
	c.expect("Cluster api/v1")
	c.ask(typeEndpoints, "", "api/v1", "none/v1") // not answered for none/v1
	c.expect("ClusterLoadAssignment api/v1")
	c.nothing()
	c.ask(typeCluster, "", "api/v1", "api/v2")
	c.expect("Cluster api/v1 api/v2") // all that it asked for
	c.ask(typeEndpoints, "", "api/v1", "api/v2", "none/v1")
	c.expect("ClusterLoadAssignment api/v2") // what is new
	c.nothing()

	h.service("api", "10.0.0.7:80", "10.0.0.2:80")
	h.mustApply()
	c.expect("ClusterLoadAssignment api/v1")
	h.service("none", "10.0.0.8:80", "")
	h.mustApply()
	got := map[string]bool{}
	for range 2 { // of types that do not wait for each other
		text, res := c.recv()
		got[text] = true
		c.ask(typeOf(res.GetTypeUrl()), "", c.names[typeOf(res.GetTypeUrl())]...)
	}
	if !got["Listener api.internal none.internal"] || !got["ClusterLoadAssignment none/v1"] {
		t.Errorf("got %v", got)
	}
	c.ask(typeListener, "", "api.internal") // no longer none.internal
	c.nothing()

	h.put(policies.Name{Kind: "Service", Name: "api"}, nil)
	h.mustApply()
	c.expect("Listener")
	c.expect("Cluster") // when no listener leads there any more
	c.nothing()

	h.service("api", "10.0.0.1:80", "10.0.0.2:80")
	h.mustApply()
	again := newSotwClient(h, node)
	again.ask(typeListener, "", "api.internal")
	if res := again.expect("Listener api.internal"); res.GetVersionInfo() != first.GetVersionInfo() || res.GetVersionInfo() == "" {
		t.Errorf("the same has version %q and %q", first.GetVersionInfo(), res.GetVersionInfo())
	}
}

// TestSotwStale ignores what a response has crossed.
func TestSotwStale(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	c := newSotwClient(h, &corev3.Node{Id: "app-1"})
	c.nonce[typeEndpoints] = "7" // of another stream
	c.ask(typeEndpoints, "no", "api/v1")
	_, _ = c.recv()
	fresh := c.nonce[typeEndpoints]
	c.nonce[typeEndpoints] = ""
	c.ask(typeEndpoints, "no", "api/v2")
	c.nonce[typeEndpoints] = fresh
	c.ask(typeEndpoints, "", "api/v1", "barrier/v1", "api/v2")
	c.expect("ClusterLoadAssignment api/v2")
	if p := h.sink.Proxies()[0]; p.LastNACK != nil {
		t.Errorf("taken for a NACK: %+v", p.LastNACK)
	}
}

// TestSotwRefusal refuses: nothing is sent again before it changes.
func TestSotwRefusal(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.service("barrier", "10.0.0.9:80", "")
	h.mustApply()
	c := newSotwClient(h, &corev3.Node{Id: "app-1"})
	c.ask(typeCluster, "", "api/v1", "api/v2")
	_, _ = c.recv()
	c.ask(typeCluster, `resource "api/v1": too bad`, "api/v1", "api/v2")
	c.ask(typeEndpoints, "", "api/v1", "api/v2")
	c.expect("ClusterLoadAssignment api/v1 api/v2")
	c.ask(typeRoutes, "", "api")
	_, _ = c.recv()
	c.ask(typeRoutes, "no reason", "api")
	c.nothing()
	_, err := h.sink.Observe(t.Context(), Target, nil)
	partial, ok := errors.AsType[*reconciler.PartialError](err)
	if !ok || len(partial.Keys) != 2 {
		t.Fatalf("observed %v", err)
	}
	if e := partial.Keys[lower.Key(lower.KindCluster, "api/v1")]; e == nil || e.Error() != `the client of app-1 refuses it: resource "api/v1": too bad` {
		t.Errorf("the cluster: %v", e)
	}
	if e := partial.Keys[lower.Key(lower.KindVirtualHost, "api")]; e == nil || !strings.Contains(e.Error(), "no reason") {
		t.Errorf("the routes: %v", e)
	}
	p := h.sink.Proxies()[0]
	if n := p.LastNACK; p.Synced || n == nil || n.Type != "RouteConfiguration" || len(n.Places) != 1 || n.Places[0] != "api.yaml:1" {
		t.Errorf("proxy %+v with %+v", p, p.LastNACK)
	}

	svc := *h.ir.Service("api")
	svc.Protocol, svc.Default = "http2", "v2"
	h.put(policies.Name{Kind: "Service", Name: "api"}, &svc)
	_ = h.apply() // tells the old refusals again
	c.expect("Cluster api/v1 api/v2")
	c.expect("ClusterLoadAssignment api/v1 api/v2") // again, as the clusters are new
	c.expect("RouteConfiguration api")
	c.nothing()
	if _, err := h.sink.Observe(t.Context(), Target, nil); err != nil {
		t.Errorf("still refused: %v", err)
	}
}

// TestSotwEnvoy turns an Envoy away that would be given no virtual hosts.
func TestSotwEnvoy(t *testing.T) {
	h := one(t, Config{})
	c := newSotwClient(h, &corev3.Node{Id: "host-1", UserAgentName: "envoy"})
	c.ask(typeCluster, "")
	if _, ok := <-c.got; ok || status.Code(c.err) != codes.FailedPrecondition || !strings.Contains(c.err.Error(), "DELTA_GRPC") {
		t.Errorf("ended with %v", c.err)
	}
}
