package xds

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthgrpc "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/xds"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/tools/testnet"
)

// grpcBackend is a gRPC server; it returns its address.
func grpcBackend(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthgrpc.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return l.Addr().String()
}

// grpcClient is gRPC's own xDS client for a target of a host.
type grpcClient struct {
	t    testing.TB
	conn *grpc.ClientConn
}

// newGRPCClient makes a client with a node id; creds are the channel credentials
// of its bootstrap, as JSON.
func newGRPCClient(h *host, node, target, creds string) *grpcClient {
	h.t.Helper()
	bootstrap := fmt.Sprintf(`{"xds_servers": [{"server_uri": %q, "channel_creds": [%s], "server_features": ["xds_v3"]}], "node": {"id": %q}}`, h.addr, creds, node)
	resolver, err := xds.NewXDSResolverWithConfigForTesting([]byte(bootstrap))
	if err != nil {
		h.t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+target, grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	return &grpcClient{h.t, conn}
}

// call sends an RPC, with headers as pairs of name and value, and returns the
// address of the server that answered it.
func (c *grpcClient) call(headers ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, headers...)
	var p peer.Peer
	_, err := healthgrpc.NewHealthClient(c.conn).Check(ctx, &healthgrpc.HealthCheckRequest{}, grpc.Peer(&p))
	if err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// reaches waits until RPCs reach all of these servers and no other.
func (c *grpcClient) reaches(want ...string) {
	c.t.Helper()
	slices.Sort(want)
	var got []string
	testnet.Eventually(c.t, func() string { return fmt.Sprintf("calls reach %q, want %q", got, want) }, func() bool {
		got = nil
		for range 8 {
			addr, err := c.call()
			if err != nil {
				addr = err.Error()
			}
			if !slices.Contains(got, addr) {
				got = append(got, addr)
			}
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// TestGRPCClient has gRPC's own client follow endpoints, the default version, and
// a service that goes and comes back, without a call that fails.
func TestGRPCClient(t *testing.T) {
	h := newHost(t, Config{}, "")
	one, two, three := grpcBackend(t), grpcBackend(t), grpcBackend(t)
	h.service("vpc-api", one, three).Protocol = "grpc"
	h.service("other", three, "")
	h.mustApply()
	h.sink.mu.Lock()
	h.sink.partial = false // as after a while
	h.sink.mu.Unlock()
	c := newGRPCClient(h, "app-1", "vpc-api.internal", `{"type": "insecure"}`)
	c.reaches(one)

	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { // calls go on all the time
		for ctx.Err() == nil {
			_, err := c.call()
			if err != nil && strings.Contains(err.Error(), `unknown cluster selected for RPC: "cluster:vpc-api/v2"`) {
				continue // of gRPC itself: for a moment it selects a cluster that its balancer is not told of yet
			}
			if err != nil && ctx.Err() == nil {
				failed <- err
				return
			}
		}
		failed <- nil
	}()
	svc := *h.ir.Service("vpc-api")
	svc.Versions = slices.Clone(svc.Versions)
	more := h.service("spare", two, "").Versions[0].Endpoints // two, as an endpoint
	svc.Versions[0].Endpoints = append(slices.Clone(svc.Versions[0].Endpoints), more...)
	h.put(policies.Name{Kind: "Service", Name: "vpc-api"}, &svc)
	h.mustApply()
	c.reaches(one, two)
	fewer := svc
	fewer.Versions = slices.Clone(svc.Versions)
	fewer.Versions[0].Endpoints = more
	h.put(policies.Name{Kind: "Service", Name: "vpc-api"}, &fewer)
	h.mustApply()
	c.reaches(two)
	flipped := fewer
	flipped.Default = "v2"
	h.put(policies.Name{Kind: "Service", Name: "vpc-api"}, &flipped)
	h.mustApply()
	c.reaches(three)
	stop()
	if err := <-failed; err != nil {
		t.Errorf("a call failed: %v", err)
	}
	p := h.synced1("app-1")
	if p.Protocol != "sotw" || !strings.HasPrefix(p.Agent, "gRPC Go") || p.LastNACK != nil || len(p.Cannot) != 0 {
		t.Errorf("proxy %+v %+v", p, p.LastNACK)
	}

	h.put(policies.Name{Kind: "Service", Name: "vpc-api"}, nil)
	h.mustApply()
	testnet.Eventually(t, func() string { return "a service that is gone is reached" }, func() bool { _, err := c.call(); return err != nil })
	h.put(policies.Name{Kind: "Service", Name: "vpc-api"}, &flipped)
	h.mustApply()
	c.reaches(three)
}

// synced1 waits until a client has all that is served.
func (h *host) synced1(node string) (p Proxy) {
	h.t.Helper()
	testnet.Eventually(h.t, func() string { return fmt.Sprintf("%+v", h.sink.Proxies()) }, func() bool {
		i := slices.IndexFunc(h.sink.Proxies(), func(p Proxy) bool { return p.Node == node && p.Synced })
		if i >= 0 {
			p = h.sink.Proxies()[i]
		}
		return i >= 0
	})
	return p
}

// TestGRPCClientRules has gRPC's client follow rules by header as a policy means
// them; those about shares of accounts pass it by.
func TestGRPCClientRules(t *testing.T) {
	h := newHost(t, Config{}, "")
	one, two := grpcBackend(t), grpcBackend(t)
	h.service("api", one, two)
	rules := []*requests.Rule{
		{Priority: 60, Version: "v2", Match: []requests.Match{{Lo: 0, Hi: 99}}},
		{Priority: 50, Version: "v2", Match: []requests.Match{{Hi: requests.Slots, Tests: []requests.HeaderTest{
			{Name: "x-canary", Kind: "regex", Value: "y.*"},
		}}}},
		{Priority: 40, Version: "v2", Match: []requests.Match{{Hi: requests.Slots, Tests: []requests.HeaderTest{
			{Name: "x-new", Kind: "present"}, {Name: "x-team", Kind: "prefix", Value: "ops", Not: true},
		}}}},
		{Priority: 30, Version: "v2", Match: []requests.Match{{Hi: requests.Slots, Tests: []requests.HeaderTest{
			{Name: "x-old", Kind: "present", Not: true}, {Name: "x-any", Kind: "regex", Value: ".*", Not: true}, {Name: "x-z", Kind: "exact", Value: "1"},
		}}}},
	}
	h.mustApply()
	c := newGRPCClient(h, "app-1", "api.internal", `{"type": "insecure"}`)
	c.reaches(one)
	for i, r := range rules { // they come after the client has its routes
		r.Policy = fmt.Sprintf("p%d", i)
		h.rule("api", r.Policy, r)
	}
	h.mustApply()
	h.synced1("app-1")
	testnet.Eventually(t, func() string { return "the rules do not come" }, func() bool { got, _ := c.call("x-canary", "yes"); return got == two })
	for _, headers := range [][]string{
		nil,
		{"x-canary", "no"},
		{"x-canary", "yes"},
		{"x-canary", "ayes"},
		{"x-new", "1"},
		{"x-new", "1", "x-team", "ops-a"},
		{"x-new", "1", "x-team", "dev"},
		{"x-team", "dev"},
		{"x-z", "1"},
		{"x-z", "1", "x-old", "1"},
		{"x-z", "1", "x-any", "q"},
		{"x-z", "2"},
	} {
		want := one
		if slices.ContainsFunc(rules, func(r *requests.Rule) bool { return holds(r, headers) }) {
			want = two
		}
		if got, err := c.call(headers...); got != want {
			t.Errorf("%q reaches %q %v, want %q", headers, got, err, want)
		}
	}
	if got := strings.Join(h.sink.Proxies()[0].Cannot, "; "); got != "api: the shares of accounts of 1 policies: all count as requests without an account" {
		t.Errorf("it cannot: %q", got)
	}
	h.rule("api", "p1", nil)
	h.mustApply()
	testnet.Eventually(t, func() string { return "a rule that is gone still holds" }, func() bool { got, _ := c.call("x-canary", "yes"); return got == one })
}

// holds tells whether a rule is about a request with headers and no account.
func holds(r *requests.Rule, headers []string) bool {
	return slices.ContainsFunc(r.Match, func(m requests.Match) bool {
		return m.Hi == requests.Slots && !slices.ContainsFunc(m.Tests, func(test requests.HeaderTest) bool {
			var lines []string
			for i := 0; i < len(headers); i += 2 {
				if headers[i] == test.Name {
					lines = append(lines, headers[i+1])
				}
			}
			return !test.Holds(lines)
		})
	})
}

// TestGRPCClientCannot tells what gRPC's client is not given, and only of what it
// has asked for.
func TestGRPCClientCannot(t *testing.T) {
	h := newHost(t, Config{}, "")
	one := grpcBackend(t)
	svc := h.service("api", one, "")
	svc.Retries, svc.Timeout = 2, time.Minute
	svc.Health = &packets.HealthCheck{GRPC: true, Interval: time.Second, Timeout: time.Second, Rise: 1, Fall: 2}
	h.service("other", one, "")
	for _, a := range []string{"1", "2", "3"} {
		h.account("api", a, "v2")
		h.account("other", a, "v2")
	}
	h.account("api", "3", "")
	h.mustApply()
	c := newGRPCClient(h, "app-1", "api.internal", `{"type": "insecure"}`)
	c.reaches(one)
	p := h.synced1("app-1")
	if got := strings.Join(p.Cannot, "; "); got != "api: 2 accounts of policies count as requests without an account; api: health checks; api: retries" {
		t.Errorf("it cannot: %q", got)
	}
	h.account("api", "1", "")
	h.account("api", "2", "")
	h.mustApply()
	if got := strings.Join(h.sink.Proxies()[0].Cannot, "; "); got != "api: health checks; api: retries" {
		t.Errorf("without accounts it cannot: %q", got)
	}
}

// TestGRPCClientRestart restarts the server below gRPC's client: calls go on, also
// while there is none.
func TestGRPCClientRestart(t *testing.T) {
	store := newStore(t)
	h := newHost(t, Config{Store: store, Grace: time.Millisecond}, "")
	one, two := grpcBackend(t), grpcBackend(t)
	h.service("api", one, two)
	h.mustApply()
	c := newGRPCClient(h, "app-1", "api.internal", `{"type": "insecure"}`)
	c.reaches(one)
	h.whole()
	h.server.Stop()
	c.reaches(one)
	again := newHost(t, Config{Store: store}, h.addr)
	again.ir, again.names = h.ir, h.names
	again.synced1("app-1")
	c.reaches(one)
	svc := *h.ir.Service("api")
	svc.Default = "v2"
	again.put(policies.Name{Kind: "Service", Name: "api"}, &svc)
	again.mustApply()
	c.reaches(two)
}

// TestGRPCClientTLS has gRPC's client come by mTLS.
func TestGRPCClientTLS(t *testing.T) {
	h, ca, _ := securedHost(t)
	one := grpcBackend(t)
	h.service("api", one, "")
	h.mustApply()
	ca.leaf("app-1", "app-1", x509.ExtKeyUsageClientAuth)
	at := func(f string) string { return filepath.Join(ca.dir, f) }
	creds := fmt.Sprintf(`{"type": "tls", "config": {"ca_certificate_file": %q, "certificate_file": %q, "private_key_file": %q}}`,
		at("ca.pem"), at("app-1.pem"), at("app-1.key"))
	newGRPCClient(h, "app-1", "api.internal", creds).reaches(one)
}
