package xds

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gray-release/gray/tools/testnet"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/stores/bolt"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// host is a sink behind a gRPC server, with the IR that it is to serve.
type host struct {
	t      testing.TB
	sink   *Sink
	cfg    Config
	server *grpc.Server
	addr   string
	ir     *policies.IR
	names  map[policies.Name]bool

	mu       sync.Mutex
	messages []message
}

// message is what a response that was sent held.
type message struct {
	kind             string
	resources, bytes int
	names            []string
}

// record notes what is sent.
func (h *host) record(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &recorder{ss, h})
}

type recorder struct {
	grpc.ServerStream
	h *host
}

func (r *recorder) SendMsg(m any) error {
	res, ok := m.(*discoveryv3.DeltaDiscoveryResponse)
	if !ok {
		return r.ServerStream.SendMsg(m)
	}
	msg := message{kind: res.GetTypeUrl(), resources: len(res.GetResources()) + len(res.GetRemovedResources()), bytes: proto.Size(res)}
	for _, x := range res.GetResources() {
		msg.names = append(msg.names, x.GetName())
	}
	for _, name := range res.GetRemovedResources() {
		msg.names = append(msg.names, "-"+name)
	}
	r.h.mu.Lock()
	r.h.messages = append(r.h.messages, msg)
	r.h.mu.Unlock()
	return r.ServerStream.SendMsg(m)
}

// sent is what was sent since it was last asked.
func (h *host) sent() []message {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.messages
	h.messages = nil
	return m
}

// newHost starts a server. The address is chosen where it is empty.
func newHost(t testing.TB, cfg Config, addr string, options ...grpc.ServerOption) *host {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{
		t: t, sink: s, cfg: cfg, addr: l.Addr().String(), ir: policies.NewIR(policies.NewIDs()), names: map[policies.Name]bool{},
	}
	h.server = grpc.NewServer(append(append(ServerOptions(), grpc.StreamInterceptor(h.record)), options...)...)
	s.Register(h.server)
	go func() { _ = h.server.Serve(l) }()
	t.Cleanup(h.server.Stop)
	return h
}

func newStore(t testing.TB) *reconciler.Store {
	t.Helper()
	store, err := bolt.Open("file:" + filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return store
}

func (h *host) put(n policies.Name, unit any) {
	h.ir.Put(n, unit)
	h.names[n] = true
	if unit == nil {
		delete(h.names, n)
	}
}

// service describes a service with versions v1 and v2; endpoints are addresses.
func (h *host) service(name, v1, v2 string) *requests.Service {
	svc := &requests.Service{
		Name: name, Origin: schema.Position{Path: name + ".yaml", Line: 1}, Hosts: []string{name + ".internal"}, Protocol: "http",
		RouteBy: requests.RouteBy{Header: "x-ucloud-routeby", Key: "account_id"}, Default: "v1",
	}
	for i, a := range []string{v1, v2} {
		v := requests.ServiceVersion{Name: fmt.Sprintf("v%d", i+1), Origin: schema.Position{Path: name + ".yaml", Line: 10 + i}}
		if a != "" {
			ap := netip.MustParseAddrPort(a)
			v.Endpoints = []requests.Endpoint{{Address: ap.Addr(), Port: ap.Port(), Weight: 1}}
		}
		svc.Versions = append(svc.Versions, v)
	}
	h.put(policies.Name{Kind: schema.KindService, Name: name}, svc)
	return svc
}

func (h *host) account(service, account, version string) {
	n := policies.Name{Kind: schema.KindService, Name: service, Part: "account/" + account}
	if version == "" {
		h.put(n, nil)
		return
	}
	h.put(n, &requests.AccountRoute{
		Service: service, Account: account, Rules: toVersion(version), Origin: schema.Position{Path: "policy.yaml", Line: 7},
	})
}

// toVersion is the rules of an account that goes to a version.
func toVersion(version string) []requests.Rule {
	return []requests.Rule{{Priority: 100, Version: version, Match: []requests.Match{{Hi: requests.Slots}}}}
}

// rule says what holds for all requests of a service.
func (h *host) rule(service, policy string, r *requests.Rule) {
	n := policies.Name{Kind: schema.KindService, Name: service, Part: "policy/" + policy}
	if r == nil {
		h.put(n, nil)
		return
	}
	r.Policy, r.Origin = policy, schema.Position{Path: policy + ".yaml", Line: 9}
	h.put(n, r)
}

func (h *host) node(name string, port uint16) *policies.Node {
	n := &policies.Node{
		Name: name, Origin: schema.Position{Path: "node.yaml", Line: 3}, Bind: netip.MustParseAddr("127.0.0.1"), Port: port,
		AdminPort: testnet.FreePort(),
	}
	h.put(policies.Name{Kind: schema.KindNode, Name: name}, n)
	return n
}

// desired lowers the whole IR.
func (h *host) desired() reconciler.State {
	h.t.Helper()
	state := reconciler.State{}
	for n := range h.names {
		all, err := h.sink.Lower(h.ir, n)
		if err != nil {
			h.t.Fatal(err)
		}
		for _, r := range all {
			state[r.Key] = r
		}
	}
	return state
}

// apply takes the sink to the IR as the loop does, and returns the errors by key.
func (h *host) apply() *reconciler.PartialError {
	h.t.Helper()
	return applyState(h.t, h.sink, h.desired())
}

func applyState(t testing.TB, s *Sink, desired reconciler.State) *reconciler.PartialError {
	t.Helper()
	observed, _ := s.Observe(t.Context(), Target, nil)
	changes := reconciler.Diff(desired, observed, reconciler.Union(desired, observed))
	var failed *reconciler.PartialError
	for stage := range reconciler.Stages(changes) {
		if err := s.Apply(t.Context(), nil, stage); err != nil {
			partial, ok := errors.AsType[*reconciler.PartialError](err)
			if !ok {
				t.Fatal(err)
			}
			for k, e := range partial.Keys {
				failed = failed.Add(k, e)
			}
		}
	}
	return failed
}

func (h *host) mustApply() {
	h.t.Helper()
	if err := h.apply().Or(); err != nil {
		h.t.Fatal(err)
	}
}

// whole waits until the sink knows, and has stored, that its state is whole.
func (h *host) whole() {
	h.t.Helper()
	testnet.Eventually(h.t, func() string { return "the state is never whole" }, func() bool {
		found := false
		_ = h.cfg.Store.Load(bucket, func(name string, _ []byte) error { found = found || name == whole; return nil })
		return found
	})
}

// asked tells whether a node's Envoy has asked for every type.
func (h *host) asked(node string) bool {
	return slices.ContainsFunc(h.sink.admission.all(), func(st *stream) bool {
		st.mu.Lock()
		defer st.mu.Unlock()
		return st.node == node && !slices.ContainsFunc(st.types[:], func(ts typeState) bool { return !ts.wanted })
	})
}

// synced waits until a node's Envoy has asked for everything and has it.
func (h *host) synced(node string) Proxy {
	h.t.Helper()
	var p Proxy
	testnet.Eventually(h.t, func() string { return fmt.Sprintf("%+v", h.sink.Proxies()) }, func() bool {
		i := slices.IndexFunc(h.sink.Proxies(), func(p Proxy) bool { return p.Node == node && p.Synced })
		if i >= 0 {
			p = h.sink.Proxies()[i]
		}
		return i >= 0 && h.asked(node)
	})
	return p
}

// backend answers with its name, the protocol and the headers that must not
// reach it.
func backend(t testing.TB, name string) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var leaked []string
		for _, k := range slices.Sorted(maps.Keys(r.Header)) {
			if strings.HasPrefix(strings.ToLower(k), "x-gray") {
				leaked = append(leaked, k)
			}
		}
		_, _ = fmt.Fprintf(w, "%s %s%s", name, r.Proto, strings.Join(leaked, ","))
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// envoyBinary finds the Envoy to test with.
func envoyBinary(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("GRAY_ENVOY"); p != "" {
		return p
	}
	if p, err := filepath.Abs("../../.tools/envoy"); err == nil {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	p, err := exec.LookPath("envoy")
	if err == nil {
		return p
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("no envoy: put Envoy 1.40 at .tools/envoy or name it in GRAY_ENVOY")
	}
	t.Skip("no envoy: put Envoy 1.40 at .tools/envoy or name it in GRAY_ENVOY to run this test")
	return ""
}

// envoy is a running Envoy of a node.
type envoy struct {
	t     testing.TB
	proxy string // address of its listener
	admin string
	log   string
}

// startEnvoy runs a node's Envoy with the bootstrap that gray makes.
func startEnvoy(h *host, n *policies.Node) *envoy {
	h.t.Helper()
	return startEnvoyOf(h, n, Server{Address: h.addr})
}

func startEnvoyOf(h *host, n *policies.Node, server Server) *envoy {
	h.t.Helper()
	binary := envoyBinary(h.t)
	yaml, err := Bootstrap(n, server)
	if err != nil {
		h.t.Fatal(err)
	}
	dir := h.t.TempDir()
	path, log := filepath.Join(dir, "bootstrap.yaml"), filepath.Join(dir, "envoy.log")
	if err := os.WriteFile(path, yaml, 0o600); err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(binary, "-c", path, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning", "--log-path", log,
		"--drain-time-s", "1", "--parent-shutdown-time-s", "2")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if b, err := os.ReadFile(log); err == nil && h.t.Failed() {
			h.t.Logf("log of envoy %s:\n%s", n.Name, b)
		}
	})
	return &envoy{h.t, fmt.Sprintf("127.0.0.1:%d", n.Port), fmt.Sprintf("127.0.0.1:%d", n.AdminPort), log}
}

// stat reads one of Envoy's counters, 0 where it is not there yet.
func (e *envoy) stat(name string) int {
	res, err := http.Get("http://" + e.admin + "/stats?filter=^" + name + "$")
	if err != nil {
		return 0
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	n := 0
	_, _ = fmt.Sscanf(string(b), name+": %d", &n)
	return n
}

// get sends a request and returns status and body; a header comes as "name:
// value".
func (e *envoy) get(h1 bool, host string, headers ...string) (int, string) {
	e.t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(h1)
	tr.Protocols.SetUnencryptedHTTP2(!h1)
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(e.t.Context(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.proxy+"/x", nil)
	if err != nil {
		e.t.Fatal(err)
	}
	req.Host = host
	for _, line := range headers {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	res, err := tr.RoundTrip(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = res.Body.Close() }()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// answers waits until a request gets an answer.
func (e *envoy) answers(want, host string, headers ...string) {
	e.t.Helper()
	var got string
	testnet.Eventually(e.t, func() string { return fmt.Sprintf("%s %q: got %q, want %q", host, headers, got, want) }, func() bool {
		_, got = e.get(true, host, headers...)
		return got == want
	})
}

// raw sends bytes and returns the whole answer.
func (e *envoy) raw(text string) string {
	e.t.Helper()
	c, err := net.Dial("tcp", e.proxy)
	if err != nil {
		e.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		e.t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	return string(b)
}
