package xds

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statusv3 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/tools/testnet"
)

type deltaClient = discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesClient

// dial opens a stream to a host.
func dial(t testing.TB, h *host) deltaClient {
	t.Helper()
	return dialBy(t, h, insecure.NewCredentials())
}

func dialBy(t testing.TB, h *host, creds credentials.TransportCredentials) deltaClient {
	t.Helper()
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func request(t wireType) *discoveryv3.DeltaDiscoveryRequest {
	return &discoveryv3.DeltaDiscoveryRequest{TypeUrl: typePrefix + typeNames[t]}
}

// mirror is a client that behaves as Envoy does, keeps what it is given, and
// checks what Envoy would suffer from.
type mirror struct {
	t      testing.TB
	node   string
	stream deltaClient
	refuse func(wireType, *discoveryv3.DeltaDiscoveryResponse) string // a message: refused

	trusting bool // checks nothing, as that costs more than what a benchmark measures

	sendMu sync.Mutex
	mu     sync.Mutex
	has    [wireTypes]map[string]string
	routes map[string]*routev3.VirtualHost
	log    []string // "Cluster +vpc-api/v1", in order
	counts [wireTypes]int
	err    error
}

// newMirror connects a mirror; one that was connected before says what it has.
func newMirror(h *host, node string, before *mirror) *mirror {
	h.t.Helper()
	m := &mirror{t: h.t, node: node, stream: dial(h.t, h), routes: map[string]*routev3.VirtualHost{}}
	for t := range m.has {
		m.has[t] = map[string]string{}
	}
	if before != nil {
		before.mu.Lock()
		m.has, m.routes, m.refuse = before.has, before.routes, before.refuse
		before.mu.Unlock()
	}
	for t := range wireTypes {
		if t == typeEndpoints && len(m.has[typeCluster]) == 0 || t > typeListener && len(m.has[t]) == 0 {
			continue // asked for when something leads to it
		}
		req := request(t)
		if t == typeCluster {
			req.Node = &corev3.Node{Id: node}
		}
		if before != nil {
			req.InitialResourceVersions = maps.Clone(m.has[t])
		}
		switch t {
		case typeEndpoints:
			req.ResourceNamesSubscribe = slices.Sorted(maps.Keys(m.has[typeCluster]))
		case typeRoutes:
			req.ResourceNamesSubscribe = slices.Sorted(maps.Keys(m.has[t]))
		}
		m.send(req)
	}
	go m.run()
	return m
}

func (m *mirror) send(req *discoveryv3.DeltaDiscoveryRequest) {
	m.sendMu.Lock()
	defer m.sendMu.Unlock()
	_ = m.stream.Send(req) // a stream that is broken shows in run
}

// leave ends the stream.
func (m *mirror) leave() {
	m.t.Helper()
	m.sendMu.Lock()
	_ = m.stream.CloseSend()
	m.sendMu.Unlock()
	testnet.Eventually(m.t, func() string { return "it does not leave" }, func() bool { m.mu.Lock(); defer m.mu.Unlock(); return m.err != nil })
}

func (m *mirror) run() {
	for {
		res, err := m.stream.Recv()
		if err != nil {
			m.mu.Lock()
			m.err = err
			m.mu.Unlock()
			return
		}
		m.take(res)
	}
}

// take takes a response in, asks for what follows from it and acknowledges it.
func (m *mirror) take(res *discoveryv3.DeltaDiscoveryResponse) {
	t := typeOf(res.GetTypeUrl())
	ack := request(t)
	ack.ResponseNonce = res.GetNonce()
	m.mu.Lock()
	m.counts[t] += len(res.GetResources()) + len(res.GetRemovedResources())
	if m.refuse != nil {
		if message := m.refuse(t, res); message != "" {
			m.log = append(m.log, shortType(t)+" refused")
			m.mu.Unlock()
			ack.ErrorDetail = &statusv3.Status{Code: 3, Message: message}
			m.send(ack)
			return
		}
	}
	var follow []*discoveryv3.DeltaDiscoveryRequest
	for _, name := range res.GetRemovedResources() {
		m.log = append(m.log, fmt.Sprintf("%s -%s", shortType(t), name))
		_, had := m.has[t][name]
		delete(m.has[t], name)
		delete(m.routes, name)
		switch {
		case t == typeCluster && had:
			req := request(typeEndpoints)
			req.ResourceNamesUnsubscribe = []string{name}
			delete(m.has[typeEndpoints], name)
			follow = append(follow, req)
		case t == typeListener && had:
			req := request(typeRoutes)
			req.ResourceNamesUnsubscribe = []string{lower.RoutesName}
			clear(m.has[typeRoutes])
			clear(m.has[typeVirtualHost])
			clear(m.routes)
			follow = append(follow, req)
		}
	}
	for _, r := range res.GetResources() {
		m.log = append(m.log, fmt.Sprintf("%s +%s", shortType(t), r.GetName()))
		_, had := m.has[t][r.GetName()]
		m.has[t][r.GetName()] = r.GetVersion()
		follow = append(follow, m.follow(t, r, had)...)
	}
	m.check(t)
	m.mu.Unlock()
	for _, req := range follow {
		m.send(req)
	}
	m.send(ack)
}

func (m *mirror) follow(t wireType, r *discoveryv3.Resource, had bool) []*discoveryv3.DeltaDiscoveryRequest {
	if t == typeVirtualHost {
		vh := new(routev3.VirtualHost)
		if err := r.GetResource().UnmarshalTo(vh); err != nil {
			m.t.Error(err)
		}
		m.routes[r.GetName()] = vh
		return nil
	}
	next := map[wireType]wireType{typeCluster: typeEndpoints, typeListener: typeRoutes, typeRoutes: typeVirtualHost}
	to, ok := next[t]
	if had || !ok {
		return nil
	}
	req := request(to)
	switch to {
	case typeEndpoints:
		req.ResourceNamesSubscribe = []string{r.GetName()}
	case typeRoutes:
		req.ResourceNamesSubscribe = []string{lower.RoutesName}
	}
	return []*discoveryv3.DeltaDiscoveryRequest{req}
}

// check looks for what Envoy would refuse or answer 503 for.
func (m *mirror) check(t wireType) {
	if m.trusting || t != typeVirtualHost && t != typeCluster {
		return
	}
	owners := map[string]string{}
	for name, vh := range m.routes {
		for _, d := range vh.GetDomains() {
			if other, twice := owners[d]; twice {
				m.t.Errorf("%s: domain %s stands in %s and in %s", m.node, d, name, other)
			}
			owners[d] = name
		}
		for _, r := range vh.GetRoutes() {
			cluster := r.GetRoute().GetCluster()
			if _, ok := m.has[typeCluster][cluster]; !ok {
				m.t.Errorf("%s: %s routes to cluster %s, which is not there", m.node, name, cluster)
			}
			if _, ok := m.has[typeEndpoints][cluster]; !ok {
				m.t.Errorf("%s: %s routes to cluster %s, which has not been given endpoints", m.node, name, cluster)
			}
		}
	}
}

// state copies what the mirror has.
func (m *mirror) state() (has [wireTypes]map[string]string, log []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for t := range m.has {
		has[t] = maps.Clone(m.has[t])
	}
	return has, slices.Clone(m.log)
}

// served is what the host serves to a node, as a mirror would have it.
func served(s *Sink, node string) (has [wireTypes]map[string]string) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	for t := range wireTypes {
		has[t] = map[string]string{}
		for name, e := range s.wire.tables[t].entries {
			if e.packed != nil && (t != typeListener || name == node) {
				has[t][name] = e.packed.version
			}
		}
	}
	return has
}

// converges waits until a mirror has what is served.
func (m *mirror) converges(s *Sink) {
	m.t.Helper()
	testnet.Eventually(m.t, func() string {
		has, log := m.state()
		return fmt.Sprintf("%s has %v\nserved %v\nlog %v\nproxies %+v", m.node, has, served(s, m.node), log[max(0, len(log)-30):], s.Proxies())
	}, func() bool {
		has, _ := m.state()
		want := served(s, m.node)
		if len(want[typeListener]) == 0 { // whatever comes has nowhere to go
			want[typeRoutes], want[typeVirtualHost] = has[typeRoutes], has[typeVirtualHost]
		}
		return slices.EqualFunc(has[:], want[:], maps.Equal[map[string]string, map[string]string])
	})
}

// client is a raw client: it says nothing on its own.
type client struct {
	t      testing.TB
	stream deltaClient
	got    chan *discoveryv3.DeltaDiscoveryResponse
	first  bool
	node   string
	err    error // of the stream, once got is closed
}

func newClient(h *host, node string) *client {
	h.t.Helper()
	return newClientOn(h, node, dial(h.t, h))
}

func newClientOn(h *host, node string, stream deltaClient) *client {
	c := &client{t: h.t, stream: stream, got: make(chan *discoveryv3.DeltaDiscoveryResponse, 1024), first: true, node: node}
	go func() {
		defer close(c.got)
		for {
			res, err := c.stream.Recv()
			if err != nil {
				c.err = err
				return
			}
			c.got <- res
		}
	}()
	return c
}

func (c *client) send(req *discoveryv3.DeltaDiscoveryRequest) {
	if c.first {
		c.first = false
		req.Node = &corev3.Node{Id: c.node}
	}
	_ = c.stream.Send(req)
}

func (c *client) subscribe(t wireType, names ...string) {
	req := request(t)
	req.ResourceNamesSubscribe = names
	c.send(req)
}

func (c *client) unsubscribe(t wireType, names ...string) {
	req := request(t)
	req.ResourceNamesUnsubscribe = names
	c.send(req)
}

// recv returns the next response as "Cluster +a +b -c".
func (c *client) recv() (string, *discoveryv3.DeltaDiscoveryResponse) {
	c.t.Helper()
	select {
	case res, ok := <-c.got:
		if !ok {
			c.t.Fatalf("the stream ended: %v", c.err)
		}
		return text(res), res
	case <-time.After(patience):
		c.t.Fatal("no response")
		return "", nil
	}
}

func text(res *discoveryv3.DeltaDiscoveryResponse) string {
	words := []string{shortType(typeOf(res.GetTypeUrl()))}
	for _, r := range res.GetResources() {
		words = append(words, "+"+r.GetName())
	}
	for _, name := range res.GetRemovedResources() {
		words = append(words, "-"+name)
	}
	return strings.Join(words, " ")
}

// expect receives a response and acknowledges it.
func (c *client) expect(want string) *discoveryv3.DeltaDiscoveryResponse {
	c.t.Helper()
	got, res := c.recv()
	if got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
	c.answer(res, "")
	return res
}

// answer acknowledges a response, or refuses it with a message.
func (c *client) answer(res *discoveryv3.DeltaDiscoveryResponse, message string) {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: res.GetTypeUrl(), ResponseNonce: res.GetNonce()}
	if message != "" {
		req.ErrorDetail = &statusv3.Status{Code: 3, Message: message}
	}
	c.send(req)
}

// nothing checks that there is nothing to come: what is asked for now is the
// next answer, twice, as endpoints go ahead of routes.
func (c *client) nothing() {
	c.t.Helper()
	for i := range 2 {
		name := fmt.Sprintf("barrier/%d", i)
		c.subscribe(typeEndpoints, name)
		c.expect("ClusterLoadAssignment -" + name)
	}
}

// firstAnswer opens a stream, asks for clusters, and leaves with the first answer.
func firstAnswer(t testing.TB, conn *grpc.ClientConn, node string) (*discoveryv3.DeltaDiscoveryResponse, error) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	req := request(typeCluster)
	req.Node = &corev3.Node{Id: node}
	_ = stream.Send(req)
	return stream.Recv()
}

// turnedAway is firstAnswer where the stream is refused: it returns why.
func turnedAway(t testing.TB, conn *grpc.ClientConn, node string) error {
	t.Helper()
	res, err := firstAnswer(t, conn, node)
	if err == nil {
		t.Errorf("got %s", text(res))
	}
	return err
}
