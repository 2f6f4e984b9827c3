package xds

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthgrpc "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/tools/testnet"
)

// sick is a backend that answers with its name, or with the status that it is set
// to; /healthz has a status of its own.
type sick struct {
	at             netip.AddrPort
	status, health atomic.Int32
	asked          atomic.Int32
	host           atomic.Value // that was asked for at /healthz
}

func newSick(t *testing.T, name string) *sick {
	t.Helper()
	b := &sick{}
	b.status.Store(http.StatusOK)
	b.health.Store(http.StatusOK)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			b.host.Store(r.Host + " " + r.Proto)
			w.WriteHeader(int(b.health.Load()))
			return
		}
		b.asked.Add(1)
		w.WriteHeader(int(b.status.Load()))
		_, _ = fmt.Fprint(w, name)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	b.at = netip.MustParseAddrPort(s.Listener.Addr().String())
	return b
}

func at(list ...netip.AddrPort) []requests.Endpoint {
	var all []requests.Endpoint
	for _, a := range list {
		all = append(all, requests.Endpoint{Address: a.Addr(), Port: a.Port(), Weight: 1})
	}
	return all
}

// answerers waits until exactly these answer a row of requests.
func (e *envoy) answerers(host, want string) {
	e.t.Helper()
	var got string
	testnet.Eventually(e.t, func() string { return fmt.Sprintf("%s is answered by %q, want %q", host, got, want) }, func() bool {
		seen := map[string]bool{}
		for range 12 {
			_, body := e.get(true, host)
			seen[body] = true
		}
		var words []string
		for _, w := range strings.Fields(want) {
			if seen[w] {
				words = append(words, w)
				delete(seen, w)
			}
		}
		for w := range seen {
			words = append(words, w)
		}
		got = strings.Join(words, " ")
		return got == want
	})
}

// TestEnvoyChecksEndpoints has checks of every kind fail and pass again.
func TestEnvoyChecksEndpoints(t *testing.T) {
	a, b := newSick(t, "a"), newSick(t, "b")
	quick := packets.HealthCheck{Interval: 50 * time.Millisecond, Timeout: 50 * time.Millisecond, Rise: 1, Fall: 1}
	h := newHost(t, Config{}, "")
	service := func(name, protocol string, check packets.HealthCheck, endpoints ...netip.AddrPort) *requests.Service {
		svc := h.service(name, "", "")
		svc.Protocol, svc.Health, svc.Versions[0].Endpoints = protocol, &check, at(endpoints...)
		return svc
	}
	onHTTP := quick
	onHTTP.HTTP.Path = "/healthz"
	service("h1", "http", onHTTP, a.at, b.at)
	service("h2", "http2", onHTTP, a.at, b.at)

	// gRPC's own, and an HTTP check at another port than the endpoint's.
	health := healthgrpc.NewServer()
	grpcAt := make([]netip.AddrPort, 2)
	for i := range grpcAt {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		if i == 0 {
			healthpb.RegisterHealthServer(s, health)
		} else {
			healthpb.RegisterHealthServer(s, healthgrpc.NewServer())
		}
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		grpcAt[i] = netip.MustParseAddrPort(l.Addr().String())
	}
	onGRPC, onPort, onTCP := quick, onHTTP, quick
	onGRPC.GRPC = true
	onPort.HTTP.Port = a.at.Port()
	service("grpc", "grpc", onGRPC, grpcAt...)
	service("port", "grpc", onPort, grpcAt[1])
	dead := netip.AddrPortFrom(a.at.Addr(), testnet.FreePort())
	service("tcp", "http", onTCP, b.at, dead)

	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	healthy := func(cluster string, want int) {
		t.Helper()
		testnet.Eventually(t, func() string {
			return fmt.Sprintf("%d endpoints of %s are healthy, want %d", e.stat("cluster."+cluster+".membership_healthy"), cluster, want)
		}, func() bool { return e.stat("cluster."+cluster+".membership_healthy") == want })
	}
	for cluster, want := range map[string]int{"h1/v1": 2, "h2/v1": 2, "grpc/v1": 2, "port/v1": 1, "tcp/v1": 1} {
		healthy(cluster, want)
	}
	e.answerers("h1.internal", "a b")
	e.answerers("h2.internal", "a b")
	e.answerers("tcp.internal", "b")
	if got := b.host.Load(); got != "h1.internal HTTP/1.1" && got != "h2.internal HTTP/2.0" {
		t.Errorf("the check asks for %q", got)
	}
	a.health.Store(http.StatusServiceUnavailable)
	health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	for cluster, want := range map[string]int{"h1/v1": 1, "h2/v1": 1, "grpc/v1": 1, "port/v1": 0} {
		healthy(cluster, want)
	}
	e.answerers("h1.internal", "b")
	e.answerers("h2.internal", "b")
	b.health.Store(http.StatusNotFound) // where fewer than half are left, all are asked
	healthy("h1/v1", 0)
	e.answerers("h1.internal", "a b")
	b.health.Store(http.StatusFound)
	healthy("h1/v1", 1)
	a.health.Store(http.StatusNoContent)
	health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	for cluster, want := range map[string]int{"h1/v1": 2, "h2/v1": 2, "grpc/v1": 2, "port/v1": 1} {
		healthy(cluster, want)
	}
	e.answerers("h1.internal", "a b")

	// What leaves the documents gets nothing any more, however healthy it is.
	svc := *h.ir.Service("h1")
	svc.Versions = append([]requests.ServiceVersion{}, svc.Versions...)
	svc.Versions[0].Endpoints = at(b.at)
	h.put(policies.Name{Kind: "Service", Name: "h1"}, &svc)
	h.mustApply()
	asked := a.asked.Load()
	for range 12 {
		if _, got := e.get(true, "h1.internal"); got != "b" {
			t.Fatalf("an endpoint that left answers: %q", got)
		}
	}
	if n := a.asked.Load() - asked; n != 0 {
		t.Errorf("an endpoint that left was asked %d times", n)
	}
}

// TestEnvoyTakesOutOutliers has endpoints fail request after request.
func TestEnvoyTakesOutOutliers(t *testing.T) {
	h := newHost(t, Config{}, "")
	service := func(name string, endpoints ...netip.AddrPort) {
		h.service(name, "", "").Versions[0].Endpoints = at(endpoints...)
	}
	good, bad, worse, rude := newSick(t, "good"), newSick(t, "bad"), newSick(t, "worse"), newSick(t, "rude")
	bad.status.Store(http.StatusServiceUnavailable)
	worse.status.Store(http.StatusBadGateway)
	rude.status.Store(http.StatusInternalServerError)
	service("two", good.at, bad.at)
	service("three", good.at, bad.at, worse.at)
	service("dead", good.at, netip.AddrPortFrom(good.at.Addr(), testnet.FreePort()))
	service("alone", bad.at)
	service("rude", good.at, rude.at)
	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	h.synced("host-1")
	for _, c := range []struct {
		name, answered string
		out            int
	}{
		{"two", "good", 1}, {"dead", "good", 1}, {"alone", "bad", 0}, {"rude", "good rude", 0},
	} {
		for range 30 {
			e.get(true, c.name+".internal")
		}
		e.answerers(c.name+".internal", c.answered)
		if n := e.stat("cluster." + c.name + "/v1.outlier_detection.ejections_active"); n != c.out {
			t.Errorf("%s: %d endpoints are out, want %d", c.name, n, c.out)
		}
	}
	for range 60 { // both fail, and at least half stay
		e.get(true, "three.internal")
	}
	if n := e.stat("cluster.three/v1.outlier_detection.ejections_active"); n != 1 {
		t.Errorf("%d of 3 endpoints are out, want 1", n)
	}
}

// failing is gRPC's health service with an answer for everybody.
type failing struct {
	healthpb.UnimplementedHealthServer
	code codes.Code
}

func (f failing) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return &healthpb.HealthCheckResponse{}, status.Error(f.code, "")
}

// TestEnvoyTakesOutOutliersOfGRPC has endpoints fail as gRPC says it.
func TestEnvoyTakesOutOutliersOfGRPC(t *testing.T) {
	h := newHost(t, Config{}, "")
	var ports []netip.AddrPort
	for _, code := range []codes.Code{codes.OK, codes.Unavailable, codes.Unknown} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		healthpb.RegisterHealthServer(s, failing{code: code})
		go func() { _ = s.Serve(l) }()
		t.Cleanup(s.Stop)
		ports = append(ports, netip.MustParseAddrPort(l.Addr().String()))
	}
	for i, name := range []string{"away", "rude"} {
		svc := h.service(name, "", "")
		svc.Protocol, svc.Versions[0].Endpoints = "grpc", at(ports[0], ports[i+1])
	}
	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	h.synced("host-1")
	for name, want := range map[string]int{"away": 1, "rude": 0} {
		conn, err := grpc.NewClient("passthrough:///"+e.proxy, grpc.WithAuthority(name+".internal"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		failed := 0
		for range 30 {
			if _, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
				failed++
			}
		}
		if n := e.stat("cluster." + name + "/v1.outlier_detection.ejections_active"); n != want || failed == 0 {
			t.Errorf("%s: %d endpoints are out after %d failures, want %d", name, n, failed, want)
		}
	}
}

// TestEnvoyTimeouts has streams that are open for longer than the service's timeout,
// and an answer that never comes.
func TestEnvoyTimeouts(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, healthgrpc.NewServer())
	reflection.Register(server)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	h := newHost(t, Config{}, "")
	const timeout = 300 * time.Millisecond
	for name, timeout := range map[string]time.Duration{"some": timeout, "none": 0} {
		svc := h.service(name, l.Addr().String(), "")
		svc.Protocol, svc.Timeout, svc.Retries = "grpc", timeout, 2
	}
	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	h.synced("host-1")
	for _, name := range []string{"some", "none"} {
		conn, err := grpc.NewClient("passthrough:///"+e.proxy, grpc.WithAuthority(name+".internal"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		both, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		ask := func() {
			t.Helper()
			err := both.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}})
			if err == nil {
				_, err = both.Recv()
			}
			if err != nil {
				t.Errorf("timeout %s: a stream that both sides go on with: %v", name, err)
			}
		}
		ask()
		began := time.Now()
		watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := watch.Recv(); err != nil {
			t.Fatal(err)
		}
		gone := make(chan error, 1)
		go func() { _, err := watch.Recv(); gone <- err }()
		select {
		case err := <-gone:
			if took := time.Since(began); name != "some" || took < timeout/2 {
				t.Errorf("timeout %s: a stream that the server goes on with ends after %s with %v", name, took, err)
			}
		case <-time.After(2 * timeout):
			if name == "some" {
				t.Error("a stream that the server goes on with outlives the timeout; docs/format.md says that it does not")
			}
		}
		ask()
	}
}

// TestEnvoyTriesAnotherEndpoint has requests meet an endpoint that nobody serves,
// many at a time.
func TestEnvoyTriesAnotherEndpoint(t *testing.T) {
	good := newSick(t, "good")
	h := newHost(t, Config{}, "")
	svc := h.service("api", "", "")
	svc.Versions[0].Endpoints, svc.Retries = at(good.at, netip.AddrPortFrom(good.at.Addr(), testnet.FreePort())), 1
	svc.Versions[0].Endpoints[1].Weight = 3 // it is chosen most of the time
	e := startEnvoy(h, h.node("host-1", testnet.FreePort()))
	h.mustApply()
	h.synced("host-1")
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() {
			if code, body := e.get(true, "api.internal"); body != "good" {
				t.Errorf("beside an endpoint that nobody serves: %d %q", code, body)
			}
		})
	}
	all.Wait()
}
