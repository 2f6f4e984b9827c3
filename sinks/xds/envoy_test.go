package xds

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/tools/testnet"
)

// TestEnvoyRouting sends requests through a real Envoy in every form in which an
// account may come.
func TestEnvoyRouting(t *testing.T) {
	h := newHost(t, Config{}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	n := h.node("host-1", testnet.FreePort())
	for _, a := range []string{"50002001", "ACME", "a b", "ü;", "x_y"} {
		h.account("vpc-api", a, "v2")
	}
	e := startEnvoy(h, n)
	h.mustApply()
	p := h.synced("host-1")
	if p.Version != "1.40.0" {
		t.Errorf("version %q", p.Version)
	}
	const one, two = "one HTTP/1.1", "two HTTP/1.1"
	e.answers(one, "vpc-api.internal")
	long := strings.Repeat("x", 16_000)
	longer := strings.Repeat("x", 17_000)
	for _, c := range []struct{ header, want string }{
		{"account_id=50002001", two},
		{"account_id=50002001; region=cn-bj2", two},
		{"region=cn-bj2; account_id=50002001", two},
		{"region=cn-bj2;account_id=50002001;z=1", two},
		{" ; account_id = 50002001 ; ", two},
		{`account_id="50002001"; region="cn;bj2"`, two},
		{`region="cn;account_id=1"; account_id="50002001"`, two},
		{`account_id="ü;"`, two},
		{"flag; account_id=50002001", two},
		{"account_id=50002001; account_id=1", two},
		{"account_id=a b", two},
		{"account_id=ACME", two},
		{"account_id=x_y", two},
		{"account_id=acme", one},
		{"account_id=_41_43_4d_45", one},
		{"account_id=1; account_id=50002001", one},
		{"account_id=50002001x", one},
		{"account_id=5000200", one},
		{"xaccount_id=50002001", one},
		{"account_id=", one},
		{"account_id", one},
		{"=50002001", one},
		{"50002001", one},
		{";;;", one},
		{`account_id="50002001`, one},
		{"pad=" + long + "; account_id=50002001", two},
		{"pad=" + longer + "; account_id=50002001", one},
		{"account_id=" + long, one},
	} {
		if _, got := e.get(true, "vpc-api.internal", "x-ucloud-routeby: "+c.header); got != c.want {
			t.Errorf("%.60q: got %q, want %q", c.header, got, c.want)
		}
	}
	if _, got := e.get(true, "VPC-API.internal:8080", "x-ucloud-routeby: region=x", "X-Ucloud-Routeby: account_id=50002001"); got != two {
		t.Errorf("two lines of the header: got %q", got)
	}
	forged := "x-gray-key: vpc-api.internal/a50002001"
	if _, got := e.get(true, "vpc-api.internal", forged, "x-ucloud-routeby: account_id=1"); got != one {
		t.Errorf("forged key: got %q", got)
	}
	for _, host := range []string{"other.internal", "vpc-api.internal.evil", "none"} {
		if code, body := e.get(true, host, forged); code != 404 || body != "gray: no service has the host "+host+"\n" {
			t.Errorf("unknown host %s: %d %q", host, code, body)
		}
	}
	if _, got := e.get(false, "vpc-api.internal", "x-ucloud-routeby: account_id=50002001"); got != two {
		t.Errorf("HTTP/2: got %q", got)
	}
	testRaw(t, e)
}

// testRaw checks what Go's client does not send.
func testRaw(t *testing.T, e *envoy) {
	for _, c := range []struct{ name, send, want string }{
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: vpc-api.internal\r\nx-ucloud-routeby: account_id=50002001\r\n\r\n", "two HTTP/1.1"},
		{"HTTP/1.0 without host", "GET / HTTP/1.0\r\n\r\n", "gray: no service has the host no-host.invalid"},
		{"a key as host", "GET / HTTP/1.1\r\nHost: vpc-api.internal/a50002001\r\nConnection: close\r\n\r\n", "HTTP/1.1 400"},
		{"absolute URL", "GET http://vpc-api.internal:80/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n", "one HTTP/1.1"},
		{"CONNECT", "CONNECT vpc-api.internal:443 HTTP/1.1\r\nHost: vpc-api.internal:443\r\nConnection: close\r\n\r\n", "gray: CONNECT is off"},
	} {
		if got := e.raw(c.send); !strings.Contains(got, c.want) {
			t.Errorf("%s: got %q, want %q within it", c.name, got, c.want)
		}
	}
}

// TestEnvoyProtocols has a service that speaks HTTP/2 and one without endpoints.
func TestEnvoyProtocols(t *testing.T) {
	h := newHost(t, Config{}, "")
	svc := h.service("h2", backend(t, "one"), "")
	svc.Protocol, svc.Retries = "grpc", 1
	n := h.node("host-1", testnet.FreePort())
	e := startEnvoy(h, n)
	h.mustApply()
	e.answers("one HTTP/2.0", "h2.internal")
	h.account("h2", "7", "v2")
	h.mustApply()
	if code, body := e.get(true, "h2.internal", "x-ucloud-routeby: account_id=7"); code != 503 {
		t.Errorf("a version without endpoints: %d %q", code, body)
	}
	changed := *svc
	changed.Protocol = "http"
	h.put(policies.Name{Kind: "Service", Name: "h2"}, &changed)
	h.mustApply()
	h.synced("host-1")
	if n := e.stat("cluster_manager.warming_clusters"); n != 0 {
		t.Errorf("%d clusters wait for endpoints that envoy was given before", n)
	}
	e.answers("one HTTP/1.1", "h2.internal")
}

// TestEnvoyIncrement changes accounts at runtime and counts what is sent.
func TestEnvoyIncrement(t *testing.T) {
	h := newHost(t, Config{}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	n := h.node("host-1", testnet.FreePort())
	const accounts = 20_000
	for i := range accounts {
		h.account("vpc-api", fmt.Sprint(50_000_000+i), "v2")
	}
	e := startEnvoy(h, n)
	h.mustApply()
	e.answers("one HTTP/1.1", "vpc-api.internal")
	sizes := func() (resources, bytes int) {
		for _, m := range h.sent() {
			resources += m.resources
			bytes += m.bytes
		}
		return resources, bytes
	}
	sizes()
	who := "x-ucloud-routeby: account_id=77"
	for _, c := range []struct{ version, want string }{{"v2", "two HTTP/1.1"}, {"v1", "one HTTP/1.1"}, {"", "one HTTP/1.1"}, {"v2", "two HTTP/1.1"}, {"", "one HTTP/1.1"}} {
		h.account("vpc-api", "77", c.version)
		h.mustApply()
		if _, got := e.get(true, "vpc-api.internal", who); got != c.want {
			t.Errorf("account to %q: got %q", c.version, got)
		}
		if r, b := sizes(); r > 2 || b > 4096 {
			t.Errorf("account to %q: %d resources with %d bytes were sent", c.version, r, b)
		}
	}
	before := e.stat("http.gray.rds.vhds.gray.config_reload")
	h.mustApply()
	if r, _ := sizes(); r != 0 || e.stat("http.gray.rds.vhds.gray.config_reload") != before {
		t.Errorf("nothing changed, and %d resources were sent", r)
	}
}

// TestEnvoyRestart restarts the server below an Envoy.
func TestEnvoyRestart(t *testing.T) {
	store := newStore(t)
	h := newHost(t, Config{Store: store, Grace: time.Millisecond}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	h.service("old", backend(t, "old"), "")
	n := h.node("host-1", testnet.FreePort())
	for i := range 100 {
		h.account("vpc-api", fmt.Sprint(i), "v2")
	}
	e := startEnvoy(h, n)
	h.mustApply()
	who := "x-ucloud-routeby: account_id=7"
	e.answers("two HTTP/1.1", "vpc-api.internal", who)
	h.whole()
	h.server.Stop()

	again := newHost(t, Config{Store: store}, h.addr)
	again.synced("host-1")
	for _, m := range again.sent() {
		t.Errorf("sent after a restart: %+v", m)
	}
	again.ir, again.names = h.ir, h.names
	if state, _ := again.sink.Observe(t.Context(), Target, nil); len(reconciler.Diff(again.desired(), state, reconciler.Union(again.desired(), state))) != 0 {
		t.Error("an unchanged IR makes a plan after a restart")
	}
	again.server.Stop()

	// What goes while nobody is connected is removed at the next connection.
	offline, err := New(Config{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	h.account("vpc-api", "7", "")
	h.put(policies.Name{Kind: "Service", Name: "old"}, nil)
	if err := applyState(t, offline, h.desired()).Or(); err != nil {
		t.Fatal(err)
	}
	third := newHost(t, Config{Store: store}, h.addr)
	third.synced("host-1")
	e.answers("one HTTP/1.1", "vpc-api.internal", who)
	if code, _ := e.get(true, "old.internal"); code != 404 {
		t.Errorf("a service that is gone: %d", code)
	}
	testnet.Eventually(t, func() string { return "the clusters of a service that is gone stay" }, func() bool { return e.stat("cluster_manager.active_clusters") == 3 })
}

// TestEnvoyLostState starts a server whose state is gone below an Envoy: it
// keeps what it has until there is a whole state, and is then sent nothing that
// it has.
func TestEnvoyLostState(t *testing.T) {
	h := newHost(t, Config{}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	h.service("old", backend(t, "old"), "")
	n := h.node("host-1", testnet.FreePort())
	h.account("vpc-api", "7", "v2")
	e := startEnvoy(h, n)
	h.mustApply()
	who := "x-ucloud-routeby: account_id=7"
	e.answers("two HTTP/1.1", "vpc-api.internal", who)
	h.server.Stop()

	again := newHost(t, Config{Grace: patience}, h.addr)
	again.ir, again.names = h.ir, h.names
	again.put(policies.Name{Kind: "Service", Name: "old"}, nil)
	testnet.Eventually(t, func() string { return "envoy does not come back" }, func() bool { return len(again.sink.Proxies()) == 1 })
	again.mustApply()
	again.synced("host-1")
	e.answers("two HTTP/1.1", "vpc-api.internal", who)
	e.answers("old HTTP/1.1", "old.internal")
	for _, m := range again.sent() {
		t.Errorf("sent although envoy had it: %+v", m)
	}
	again.sink.mu.Lock()
	again.sink.cfg.Grace = 1
	again.sink.restartGrace()
	again.sink.mu.Unlock()
	testnet.Eventually(t, func() string { return "what nobody knows is not removed" }, func() bool { code, _ := e.get(true, "old.internal"); return code == 404 })
	e.answers("two HTTP/1.1", "vpc-api.internal", who)
}

// TestEnvoyRefuses makes Envoy refuse a listener, and take it after all.
func TestEnvoyRefuses(t *testing.T) {
	hints := board.NewHints()
	h := newHost(t, Config{Hints: hints}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	n := h.node("host-1", testnet.FreePort())
	e := startEnvoy(h, n)
	h.mustApply()
	e.answers("one HTTP/1.1", "vpc-api.internal")
	if got := hints.Take(); len(got) != 0 {
		t.Errorf("hints %v before anything was refused", got)
	}

	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	moved := *n
	moved.Port = uint16(taken.Addr().(*net.TCPAddr).Port)
	h.put(policies.Name{Kind: "Node", Name: "host-1"}, &moved)
	failed := h.apply()
	k := lower.Key(lower.KindListener, "host-1")
	if failed == nil || failed.Keys[k] == nil || !strings.Contains(failed.Keys[k].Error(), "host-1") {
		t.Fatalf("a listener on a taken port: %v", failed)
	}
	if got := hints.Take(); len(got) != 1 || got[0] != Target {
		t.Errorf("hints %v after a NACK", got)
	}
	state, err := h.sink.Observe(t.Context(), Target, nil)
	if partial, ok := errors.AsType[*reconciler.PartialError](err); !ok || partial.Keys[k] == nil || state[k] == nil {
		t.Errorf("observed %v with %v", state[k], err)
	}
	p := h.sink.Proxies()[0]
	if p.Synced || p.LastNACK == nil || p.LastNACK.Type != "Listener" || p.LastNACK.Resource != "host-1" || p.LastNACK.Message == "" {
		t.Errorf("proxy %+v, NACK %+v", p, p.LastNACK)
	}
	rejected := e.stat("listener_manager.lds.update_rejected")
	h.account("vpc-api", "9", "v2") // other things go on
	h.mustApply()
	e.answers("two HTTP/1.1", "vpc-api.internal", "x-ucloud-routeby: account_id=9")
	if now := e.stat("listener_manager.lds.update_rejected"); now != rejected || now != 1 {
		t.Errorf("the refused listener was sent %d times", now)
	}

	moved.Port = testnet.FreePort()
	back := moved
	h.put(policies.Name{Kind: "Node", Name: "host-1"}, &back)
	h.mustApply()
	e.proxy = fmt.Sprintf("127.0.0.1:%d", back.Port)
	e.answers("one HTTP/1.1", "vpc-api.internal")
	if _, err := h.sink.Observe(t.Context(), Target, nil); err != nil {
		t.Errorf("still refused: %v", err)
	}
}

// TestEnvoyListenerReturns removes a node's listener and makes it again: Envoy
// drops its routes and virtual hosts with it, and must get them again, also from
// a server that was restarted meanwhile.
func TestEnvoyListenerReturns(t *testing.T) {
	store := newStore(t)
	h := newHost(t, Config{Store: store, Grace: time.Millisecond}, "")
	h.service("vpc-api", backend(t, "one"), backend(t, "two"))
	n := h.node("host-1", testnet.FreePort())
	e := startEnvoy(h, n)
	h.mustApply()
	h.whole()
	for range 2 {
		e.answers("one HTTP/1.1", "vpc-api.internal")
		name := policies.Name{Kind: "Node", Name: "host-1"}
		h.put(name, nil)
		h.mustApply()
		testnet.Eventually(t, func() string { return "the listener stays" }, func() bool { return e.stat("listener_manager.total_listeners_active") == 0 })
		testnet.Eventually(t, func() string { return "the listener drains for ever" }, func() bool { return e.stat("listener_manager.total_listeners_draining") == 0 })
		h.put(name, n)
		h.mustApply()
		e.answers("one HTTP/1.1", "vpc-api.internal")

		h.put(name, nil)
		h.mustApply()
		testnet.Eventually(t, func() string { return "the listener stays" }, func() bool { return e.stat("listener_manager.total_listeners_draining") == 0 })
		h.server.Stop()
		again := newHost(t, Config{Store: store}, h.addr)
		again.ir, again.names = h.ir, h.names
		testnet.Eventually(t, func() string { return "envoy does not come back" }, func() bool { return len(again.sink.Proxies()) == 1 })
		again.put(name, n)
		again.mustApply()
		e.answers("one HTTP/1.1", "vpc-api.internal")
		h = again
	}
}

// TestBootstrap has Envoy check the bootstrap.
func TestBootstrap(t *testing.T) {
	h := newHost(t, Config{}, "")
	n := h.node("host-1", 15001)
	for _, addr := range []string{"gray.internal:18000", "127.0.0.1:18000", "[::1]:18000"} {
		validBootstrap(t, n, Server{Address: addr})
	}
	for _, addr := range []string{"", "x", "x:", ":1", "x:0", "x:99999"} {
		if _, err := Bootstrap(n, Server{Address: addr}); err == nil {
			t.Errorf("%q makes a bootstrap", addr)
		}
	}
}

// validBootstrap has Envoy check a bootstrap.
func validBootstrap(t *testing.T, n *policies.Node, server Server) {
	t.Helper()
	yaml, err := Bootstrap(n, server)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "b.yaml")
	if err := os.WriteFile(path, yaml, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(envoyBinary(t), "--mode", "validate", "-c", path).CombinedOutput(); err != nil {
		t.Errorf("%+v: %v\n%s\n%s", server, err, yaml, out)
	}
}
