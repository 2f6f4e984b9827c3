package xds

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/reconciler/board"
	"github.com/gray-release/gray/sinks/xds/lower"
	"github.com/gray-release/gray/tools/testnet"
)

// TestNeverAcknowledges has one client that answers nothing and one that does not
// even read: an Apply waits for them once, and others are served as ever.
func TestNeverAcknowledges(t *testing.T) {
	const ackWait = 500 * time.Millisecond
	h := one(t, Config{AckWait: ackWait})
	pad := strings.Repeat("x", 240)
	for i := range 2000 { // more than a stream takes without being read
		h.account("api", fmt.Sprint(i)+pad, "v2")
	}
	h.mustApply()
	mute := newClient(h, "host-1")
	mute.subscribe(typeCluster)
	_, _ = mute.recv()
	deaf := dial(t, h)
	for _, typ := range []wireType{typeListener, typeRoutes, typeVirtualHost} {
		req := request(typ)
		req.Node = &corev3.Node{Id: "host-1"}
		if typ == typeRoutes {
			req.ResourceNamesSubscribe = []string{lower.RoutesName}
		}
		if err := deaf.Send(req); err != nil {
			t.Fatal(err)
		}
	}
	testnet.Eventually(t, func() string { return fmt.Sprint(h.sink.Proxies()) }, func() bool { return len(h.sink.Proxies()) == 2 })
	good := newMirror(h, "host-2", nil)
	good.converges(h.sink)
	good.mu.Lock()
	good.trusting = true // what it would check takes longer than all else here
	good.mu.Unlock()
	h.account("api", "first", "v2")
	h.mustApply()
	start := time.Now()
	for i := range 20 {
		h.account("api", fmt.Sprint("n", i), "v2")
		h.mustApply()
	}
	if took := time.Since(start); took > 5*ackWait { // they would wait 20 times
		t.Errorf("20 applies took %s: they wait for who does not answer", took)
	}
	good.converges(h.sink)
	for _, p := range h.sink.Proxies() {
		if stuck := p.Node == "host-1"; p.Synced == stuck || stuck != strings.Contains(p.Waits, "not acknowledged yet") {
			t.Errorf("proxy %+v", p)
		}
	}
}

// TestReconnectStorm has a node connect as fast as it can: it is served so often
// and no more, another node notices nothing, and it is let in once it is calmer.
func TestReconnectStorm(t *testing.T) {
	log := new(lines)
	h := one(t, Config{AckWait: time.Millisecond, Log: log.logger()})
	h.mustApply()
	good := newMirror(h, "host-2", nil)
	good.converges(h.sink)
	conn, err := grpc.NewClient(h.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	served, refused := 0, 0
	start := time.Now()
	for i := range 600 {
		switch err := connect(t, conn, "host-1"); status.Code(err) {
		case codes.OK:
			served++
		case codes.ResourceExhausted:
			refused++
		default:
			t.Fatal(err)
		}
		if i%50 == 0 {
			h.account("api", fmt.Sprint(i), "v2")
			h.mustApply()
			good.converges(h.sink)
		}
	}
	most := maxNodeStreams + 1 + int(nodeRate*time.Since(start).Seconds())
	if served < maxNodeStreams || served > most || refused == 0 {
		t.Errorf("%d streams were served and %d refused; want %d to %d served", served, refused, maxNodeStreams, most)
	}
	log.holds(t, "host-1", "opens streams too often")
	if err := connect(t, conn, "host-3"); err != nil {
		t.Errorf("a third node: %v", err)
	}
	testnet.Eventually(t, func() string { return "it is never let in again" }, func() bool { return connect(t, conn, "host-1") == nil })
}

// connect opens a stream, has one answer, and leaves.
func connect(t *testing.T, conn *grpc.ClientConn, node string) error {
	_, err := firstAnswer(t, conn, node)
	return err
}

// TestManyStreamsOfANode bounds how many it has at a time, and forgets nodes that
// are gone.
func TestManyStreamsOfANode(t *testing.T) {
	a := newAdmission()
	for i := range maxNodeStreams {
		if err := a.enter("n"); err != nil {
			t.Fatal(i, err)
		}
	}
	if err := a.enter("n"); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "has 100 streams") {
		t.Errorf("one more: %v", err)
	}
	for i := range 3 * maxStreams {
		node := fmt.Sprint(i)
		if err := a.enter(node); err != nil {
			t.Fatal(err)
		}
		a.leave(node)
		a.nodes[node].rate.SetBurst(maxNodeStreams) // keeps its count
		a.nodes[node].rate.SetLimit(1e9)            // it is a while later
	}
	if len(a.nodes) > maxStreams || a.nodes["n"] == nil {
		t.Errorf("%d nodes are remembered", len(a.nodes))
	}
	st := newStream(one(t, Config{}).sink, caller{}, false)
	if _, wait, err := st.next(st.since.Add(time.Second)); wait <= 0 || err != nil {
		t.Errorf("a stream without a request: %s, %v", wait, err)
	}
	if _, _, err := st.next(st.since.Add(helloWait)); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("a stream without a request for long: %v", err)
	}
}

// TestRefusesEverything has a client that refuses whatever it is sent: each
// resource is found guilty once, and then it is left alone.
func TestRefusesEverything(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	const services = 64
	for i := range services {
		h.service(fmt.Sprintf("s%d", i), "10.0.0.1:80", "")
	}
	h.mustApply()
	good := newMirror(h, "host-2", nil)
	good.converges(h.sink)
	h.sent()
	c := newClient(h, "host-1")
	c.subscribe(typeCluster)
	const clusters = 2 * (services + 1)
	n := 0
	testnet.Eventually(t, func() string { return fmt.Sprintf("%d refused, %+v", n, proxyOf(h, "host-1")) }, func() bool {
		for {
			select {
			case res := <-c.got:
				if n++; n > 2*clusters {
					t.Fatalf("%d responses were refused, and it goes on", n)
				}
				c.answer(res, "no")
			default:
				return strings.HasPrefix(proxyOf(h, "host-1").Waits, fmt.Sprint(clusters, " Cluster refused"))
			}
		}
	})
	c.nothing()
	h.service("s0", "10.0.0.2:80", "") // its endpoints: nothing for this client
	h.service("late", "", "")
	h.mustApply()
	_, res := c.recv()
	if got := text(res); got != "Cluster +late/v1 +late/v2" {
		t.Errorf("got %q", got)
	}
	good.converges(h.sink)
	if p := proxyOf(h, "host-2"); p.LastNACK != nil {
		t.Errorf("the other one: %+v", p)
	}
	_, err := h.sink.Observe(t.Context(), Target, nil)
	if partial, ok := errors.AsType[*reconciler.PartialError](err); !ok || len(partial.Keys) != clusters {
		t.Errorf("observed %v", err)
	}
}

// proxyOf is how a node's client stands.
func proxyOf(h *host, node string) Proxy {
	for _, p := range h.sink.Proxies() {
		if p.Node == node {
			return p
		}
	}
	return Proxy{}
}

// TestTwoStreamsOfANode serves both, as of an Envoy and the one that replaces it.
func TestTwoStreamsOfANode(t *testing.T) {
	h := one(t, Config{AckWait: time.Millisecond})
	h.mustApply()
	old := newMirror(h, "host-1", nil)
	old.converges(h.sink)
	fresh := newMirror(h, "host-1", nil)
	fresh.mu.Lock()
	fresh.refuse = func(t wireType, _ *discoveryv3.DeltaDiscoveryResponse) string {
		return map[wireType]string{typeListener: "the address is in use"}[t]
	}
	fresh.mu.Unlock()
	h.node("host-1", 15002)
	_ = h.apply()
	old.converges(h.sink)
	testnet.Eventually(t, func() string { return fmt.Sprint(h.sink.Proxies()) }, func() bool {
		_, err := h.sink.Observe(t.Context(), Target, nil)
		p := h.sink.Proxies()
		return err != nil && len(p) == 2 && p[0].LastNACK == nil && p[1].LastNACK != nil
	})
	fresh.leave()
	testnet.Eventually(t, func() string { return "the refusal outlives its stream" }, func() bool {
		_, err := h.sink.Observe(t.Context(), Target, nil)
		return err == nil && len(h.sink.Proxies()) == 1
	})
	h.account("api", "1", "v2")
	h.mustApply()
	old.converges(h.sink)
}

// TestNodeWithoutEnvoy has a Node of which no Envoy is connected, one comes and goes: it
// shows at the Node's key, and nowhere where other daemons may serve it.
func TestNodeWithoutEnvoy(t *testing.T) {
	for _, alone := range []bool{true, false} {
		hints := board.NewHints()
		h := one(t, Config{Hints: hints, Alone: alone})
		h.mustApply()
		absent := func(want bool) {
			t.Helper()
			said := error(nil)
			say := func() string { return fmt.Sprint(alone, want, said) }
			testnet.Eventually(t, say, func() bool {
				_, err := h.sink.Observe(t.Context(), Target, nil)
				said = err
				partial, is := errors.AsType[*reconciler.PartialError](err)
				if is != (want && alone) {
					return false
				}
				e, reasoned := (*reconciler.ReasonError)(nil), false
				if is {
					e, reasoned = errors.AsType[*reconciler.ReasonError](partial.Keys[lower.Key(lower.KindListener, "host-1")])
				}
				return !is || reasoned && e.Reason == reconciler.ReasonNotConnected && len(partial.Keys) == 1
			})
			testnet.Eventually(t, say, func() bool { return len(hints.Take()) > 0 || !alone })
		}
		absent(true)
		c := newClient(h, "host-1")
		c.subscribe(typeCluster)
		absent(false)
		if err := c.stream.CloseSend(); err != nil {
			t.Fatal(err)
		}
		absent(true)
	}
}
