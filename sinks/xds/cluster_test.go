package xds

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthgrpc "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/gray-release/gray/policies"
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

func at(list ...netip.AddrPort) []policies.Endpoint {
	var all []policies.Endpoint
	for _, a := range list {
		all = append(all, policies.Endpoint{Address: a.Addr(), Port: a.Port(), Weight: 1})
	}
	return all
}

// answerers waits until exactly these answer a row of requests.
func (e *envoy) answerers(host, want string) {
	e.t.Helper()
	var got string
	eventually(e.t, func() string { return fmt.Sprintf("%s is answered by %q, want %q", host, got, want) }, func() bool {
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
	quick := policies.HealthCheck{Interval: 50 * time.Millisecond, Timeout: 50 * time.Millisecond, Rise: 1, Fall: 1}
	h := newHost(t, Config{}, "")
	service := func(name, protocol string, check policies.HealthCheck, endpoints ...netip.AddrPort) *policies.Service {
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
	dead := netip.AddrPortFrom(a.at.Addr(), freePort(t))
	service("tcp", "http", onTCP, b.at, dead)

	e := startEnvoy(h, h.node("host-1", freePort(t)))
	h.mustApply()
	healthy := func(cluster string, want int) {
		t.Helper()
		eventually(t, func() string {
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
	a.health.Store(http.StatusNoContent)
	health.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	for cluster, want := range map[string]int{"h1/v1": 2, "h2/v1": 2, "grpc/v1": 2, "port/v1": 1} {
		healthy(cluster, want)
	}
	e.answerers("h1.internal", "a b")

	// What leaves the documents gets nothing any more, however healthy it is.
	svc := *h.ir.Service("h1")
	svc.Versions = append([]policies.ServiceVersion{}, svc.Versions...)
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
	service("dead", good.at, netip.AddrPortFrom(good.at.Addr(), freePort(t)))
	service("alone", bad.at)
	service("rude", good.at, rude.at)
	e := startEnvoy(h, h.node("host-1", freePort(t)))
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

// TestEnvoyStreamsOutliveTheTimeout has a stream that is open for longer than the
// service's timeout, and an answer that never comes.
func TestEnvoyStreamsOutliveTheTimeout(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l
	_ = context.Background
}
