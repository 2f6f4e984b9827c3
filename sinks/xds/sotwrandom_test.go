package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/tools/testnet"
)

// sotwTypes are what a state-of-the-world client asks for.
var sotwTypes = []wireType{typeCluster, typeEndpoints, typeListener, typeRoutes}

// sotwMirror keeps what it is given as the protocol says: of clusters and
// listeners a response is all that there is, of the others it adds.
type sotwMirror struct {
	*sotwClient
	mu     sync.Mutex
	has    [wireTypes]map[string]string // name -> content
	want   [wireTypes]map[string]bool
	refuse bool // the next response, without a name
	nacks  int
}

func newSotwMirror(h *host, node string) *sotwMirror {
	m := &sotwMirror{sotwClient: newSotwClient(h, &corev3.Node{Id: node})}
	for t := range m.has {
		m.has[t], m.want[t] = map[string]string{}, map[string]bool{}
	}
	return m
}

// follow asks for what it wants of a type. The caller holds the lock.
func (m *sotwMirror) follow(t wireType, message string) {
	m.ask(t, message, slices.Sorted(maps.Keys(m.want[t]))...)
}

func (m *sotwMirror) take(res *discoveryv3.DiscoveryResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := typeOf(res.GetTypeUrl())
	m.nonce[t] = res.GetNonce()
	if m.refuse {
		m.refuse = false
		m.nacks++
		m.follow(t, "no")
		return
	}
	if inFull(t) {
		clear(m.has[t])
	}
	for _, r := range res.GetResources() {
		msg, err := r.UnmarshalNew()
		if err != nil {
			m.t.Error(err)
			continue
		}
		switch msg := msg.(type) {
		case interface{ GetName() string }:
			m.has[t][msg.GetName()] = string(r.GetValue())
		case interface{ GetClusterName() string }:
			m.has[t][msg.GetClusterName()] = string(r.GetValue())
		}
	}
	m.follow(t, "")
}

// lacks names something that the mirror wants, that is served, and that it does not
// have as it is served; or that it has and is not served.
func (m *sotwMirror) lacks(s *Sink) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := &stream{sink: s, sotw: true}
	for _, t := range sotwTypes {
		for name := range m.want[t] {
			p := st.served(t, name)
			got, has := m.has[t][name]
			switch {
			case p != nil && string(p.body.GetValue()) != got:
				return fmt.Sprintf("%s %s, which it has: %t", shortType(t), name, has)
			case p == nil && has && inFull(t):
				return fmt.Sprintf("the removal of %s %s", shortType(t), name)
			}
		}
	}
	return ""
}

// TestSotwRandom has a client ask for this and that while services come, change
// and go, and refuse a response now and then: it ends with what is served.
func TestSotwRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	h := newHost(t, Config{AckWait: time.Millisecond}, "")
	h.sink.partial = false
	const services = 6
	service := func() string { return fmt.Sprintf("s%d", r.IntN(services)) }
	h.service("s0", "10.0.0.1:80", "")
	h.mustApply()
	m := newSotwMirror(h, "app-1")
	go func() {
		for res := range m.got {
			m.take(res)
		}
	}()
	toggle := func(typ wireType, name string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.want[typ][name] {
			delete(m.want[typ], name)
			delete(m.has[typ], name)
		} else {
			m.want[typ][name] = true
		}
		m.follow(typ, "")
	}
	for range 400 {
		switch name := service(); r.IntN(8) {
		case 0, 1:
			h.service(name, fmt.Sprintf("10.0.0.%d:80", 1+r.IntN(200)), "").Default = fmt.Sprintf("v%d", 1+r.IntN(2))
		case 2:
			h.put(policies.Name{Kind: "Service", Name: name}, nil)
		case 3:
			toggle(typeListener, name+".internal")
		case 4:
			toggle(typeRoutes, name)
		case 5:
			toggle(typeCluster, name+"/v1")
		case 6:
			toggle(typeEndpoints, name+"/v1")
		case 7:
			m.mu.Lock()
			m.refuse = true
			m.mu.Unlock()
		}
		_ = h.apply() // refusals are no matter here
	}
	m.mu.Lock()
	m.refuse = false
	for t := range m.want {
		clear(m.want[t])
	}
	for i := range services { // that were never refused
		name := fmt.Sprintf("t%d", i)
		h.service(name, fmt.Sprintf("10.1.0.%d:80", i), "")
		for typ, n := range map[wireType]string{typeListener: name + ".internal", typeRoutes: name, typeCluster: name + "/v1", typeEndpoints: name + "/v1"} {
			m.want[typ][n] = true
		}
	}
	for _, typ := range sotwTypes {
		m.follow(typ, "")
	}
	m.mu.Unlock()
	_ = h.apply() // tells the refusals
	testnet.Eventually(t, func() string { return fmt.Sprintf("it lacks %s; %+v", m.lacks(h.sink), h.sink.Proxies()) }, func() bool { return m.lacks(h.sink) == "" })
	if m.nacks == 0 {
		t.Error("nothing was refused")
	}
}

// TestRouteChangeCost holds that what is sent for one changed route does not
// depend on how many services there are.
func TestRouteChangeCost(t *testing.T) {
	cost := func(services int) (resources, bytes int) {
		h := newHost(t, Config{}, "")
		h.node("host-1", 15001)
		for i := range services {
			h.service(fmt.Sprintf("s%d", i), "10.0.0.1:80", "10.0.0.2:80")
		}
		h.mustApply()
		m := newMirror(h, "host-1", nil)
		m.converges(h.sink)
		h.synced("host-1")
		h.sent()
		changed := *h.ir.Service("s7")
		changed.Default = "v2"
		h.put(policies.Name{Kind: "Service", Name: "s7"}, &changed)
		h.mustApply()
		m.converges(h.sink)
		for _, msg := range h.sent() {
			resources += msg.resources
			bytes += msg.bytes
		}
		return resources, bytes
	}
	few, fewBytes := cost(10)
	many, manyBytes := cost(500)
	if few != 1 || many != 1 || manyBytes > fewBytes+8 { // the revision and the nonce may be longer
		t.Errorf("one route among 10 services: %d resources, %d bytes; among 500: %d, %d", few, fewBytes, many, manyBytes)
	}
}
