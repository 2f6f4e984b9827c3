package xds

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/sinks/xds/lower"
)

// TestLower shows what a service, an account and a node are in a plan.
func TestLower(t *testing.T) {
	h := one(t, Config{})
	svc := h.service("api", "10.9.1.12:8080", "10.9.1.13:8080")
	svc.Timeout, svc.Retries = 15*time.Second, 1
	h.account("api", "50002001", "v2")
	env := requests.HeaderTest{Name: "x-env", Kind: "exact", Value: "canary"}
	h.rule("api", "canary", &requests.Rule{Priority: 50, Version: "v2", Match: []requests.Match{
		{Tests: []requests.HeaderTest{env}, Hi: requests.Slots}, {Hi: 5},
	}})
	old := h.desired()
	plan := reconciler.Plan{Changes: reconciler.Diff(old, nil, reconciler.Union(old, nil))}
	want := `+ xds Cluster api/v1: speaks http  # api.yaml:10
+ xds Cluster api/v2: speaks http  # api.yaml:11
+ xds Endpoints api/v1: 10.9.1.12:8080  # api.yaml:10
+ xds Endpoints api/v2: 10.9.1.13:8080  # api.yaml:11
+ xds Listener host-1: proxy on 127.0.0.1:15001  # node.yaml:3
+ xds VirtualHost api: api.internal -> v1, timeout 15s, retries 1  # api.yaml:1
+ xds Rule api/canary: x-env exact "canary", or 5% of accounts -> v2, priority 50  # canary.yaml:9
+ xds Account api/50002001: api account 50002001 -> v2  # policy.yaml:7
`
	if got := plan.String(); got != want {
		t.Errorf("plan:\n%s", got)
	}
	for k, r := range old {
		for _, ref := range r.Refs {
			if old[ref] == nil || old[ref].Rank >= r.Rank {
				t.Errorf("%s refers to %s", k, ref)
			}
		}
	}
	next := *svc
	next.Hosts, next.Default, next.Timeout, next.Retries, next.Protocol = []string{"a.internal"}, "v2", time.Second, 2, "grpc"
	next.RouteBy = requests.RouteBy{Header: "x-user", Key: "user"}
	env.Not = true
	h.rule("api", "canary", &requests.Rule{Priority: 60, Version: "v1", Match: []requests.Match{
		{Tests: []requests.HeaderTest{env}, Hi: requests.Slots},
	}})
	next.Versions = slices.Clone(svc.Versions)
	next.Versions[0].Endpoints = []requests.Endpoint{{Address: netip.MustParseAddr("10.9.1.14"), Port: 80, Weight: 3}}
	next.Versions[1].Endpoints = nil
	h.put(policies.Name{Kind: schema.KindService, Name: "api"}, &next)
	h.account("api", "50002001", "v1")
	h.put(policies.Name{Kind: schema.KindNode, Name: "host-1"}, &policies.Node{Name: "host-1", Bind: netip.MustParseAddr("::"), Port: 1})
	now := h.desired()
	plan.Changes = reconciler.Diff(now, old, reconciler.Union(now, old))
	want = `~ xds Cluster api/v1: speaks http -> speaks grpc  # api.yaml:10
~ xds Cluster api/v2: speaks http -> speaks grpc  # api.yaml:11
~ xds Endpoints api/v1: +10.9.1.14:80 weight 3, -10.9.1.12:8080  # api.yaml:10
~ xds Endpoints api/v2: -10.9.1.13:8080  # api.yaml:11
~ xds Listener host-1: proxy on 127.0.0.1:15001 -> proxy on [::]:1
~ xds VirtualHost api: hosts api.internal -> a.internal, default v1 -> v2, timeout 15s -> 1s, retries 1 -> 2, by key account_id of header x-ucloud-routeby -> key user of header x-user  # api.yaml:1
~ xds Rule api/canary: x-env exact "canary", or 5% of accounts -> x-env not exact "canary", version v2 -> v1, priority 50 -> 60  # canary.yaml:9
~ xds Account api/50002001: api account 50002001 v2 -> v1  # policy.yaml:7
`
	if got := plan.String(); got != want {
		t.Errorf("plan:\n%s", got)
	}
}

// TestCodec reads back what is written.
func TestCodec(t *testing.T) {
	h := one(t, Config{})
	h.account("api", "a/b", "v2")
	for k, r := range h.desired() {
		b, err := lower.Encode(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := lower.Decode(k, b)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Body.Equal(r.Body) || !reflect.DeepEqual(got, r) {
			t.Errorf("%s: got %+v, want %+v", k, got, r)
		}
	}
	for _, k := range []reconciler.Key{{Target: "p4rt/a", Kind: lower.KindCluster, Name: "a/b"}, lower.Key("Other", "x"), lower.Key(lower.KindAccount, "x"), lower.Key(lower.KindCluster, "x")} {
		if _, err := lower.Decode(k, []byte(`{"body":{}}`)); err == nil {
			t.Errorf("%s was decoded", k)
		}
	}
	for _, text := range []string{"", "{}", `{"body":1}`, `{"body":{"rules":[{"version":1}]}}`, `{"body":{"version":"v2"}}`} {
		if _, err := lower.Decode(lower.Key(lower.KindAccount, "a/b"), []byte(text)); err == nil {
			t.Errorf("%q was decoded", text)
		}
	}
}

// TestRefusedByGray keeps back what Envoy would not take, and nothing else.
func TestRefusedByGray(t *testing.T) {
	h := one(t, Config{})
	h.mustApply()
	bad := h.service("b", "10.0.0.3:80", "")
	bad.Hosts = []string{"api.internal"}
	h.account("api", "1", "v2")
	h.account("api", strings.Repeat("x", 257), "v2")
	h.account("nobody", "1", "v2")
	h.put(policies.Name{Kind: schema.KindNode, Name: "Host_2"}, &policies.Node{Name: "Host_2", Bind: netip.MustParseAddr("127.0.0.1"), Port: 1})
	zero := h.service("zero", "", "")
	zero.Versions[0].Endpoints = []requests.Endpoint{{Address: netip.MustParseAddr("10.0.0.1"), Port: 80}} // weight 0
	failed := h.apply()
	want := []reconciler.Key{
		lower.Key(lower.KindEndpoints, "zero/v1"), lower.Key(lower.KindVirtualHost, "b"), lower.Key(lower.KindAccount, "api/"+strings.Repeat("x", 257)),
		lower.Key(lower.KindAccount, "nobody/1"), lower.Key(lower.KindListener, "Host_2"),
	}
	for _, k := range want {
		if failed == nil || failed.Keys[k] == nil {
			t.Errorf("%s was served", k)
		}
	}
	if len(failed.Keys) != len(want) {
		t.Errorf("failed: %v", slices.Collect(maps.Keys(failed.Keys)))
	}
	state, _ := h.sink.Observe(t.Context(), Target, nil)
	if state[lower.Key(lower.KindAccount, "api/1")] == nil || state[want[0]] != nil {
		t.Error("the state is not what is served")
	}
}

// TestHostsMove lets services swap hosts in one Apply, and only then.
func TestHostsMove(t *testing.T) {
	h := one(t, Config{})
	h.service("b", "10.0.0.3:80", "10.0.0.4:80")
	h.account("api", "1", "v2")
	h.account("b", "1", "v2")
	h.mustApply()
	m := newMirror(h, "host-1", nil)
	m.converges(h.sink)
	hosts := func(service string, hosts ...string) {
		svc := *h.ir.Service(service)
		svc.Hosts = hosts
		h.put(policies.Name{Kind: schema.KindService, Name: service}, &svc)
	}
	hosts("api", "b.internal")
	hosts("b", "api.internal")
	h.mustApply()
	m.converges(h.sink)
	m.mu.Lock()
	if d := m.routes["gray/api"].GetDomains(); len(d) != 2 || d[0] != "b.internal" || d[1] != "api/*" {
		t.Errorf("domains %v", d)
	}
	m.mu.Unlock()
	hosts("api", "b.internal", "api.internal")
	hosts("b", "b.internal", "c.internal")
	if failed := h.apply(); failed == nil || len(failed.Keys) != 2 {
		t.Errorf("failed %v", failed)
	}
	hosts("api", "b.internal", "b.internal")
	if failed := h.apply(); failed == nil || failed.Keys[lower.Key(lower.KindVirtualHost, "api")] == nil {
		t.Errorf("failed %v", failed)
	}
	hosts("api", "api.internal")
	hosts("b", "b.internal")
	h.mustApply()
	m.converges(h.sink)
}

// TestAccountsByCase keeps accounts apart that differ in case only.
func TestAccountsByCase(t *testing.T) {
	seen := map[string]string{}
	for _, a := range []string{"abc", "ABC", "Abc", "_41bc", "a_bc", "a-bc", "a.bc", "a/bc", "a bc", "ä", "Ä", "-", "_", "*", "a*"} {
		d := lower.AccountDomain("api", a)
		if other, twice := seen[d]; twice || strings.ToLower(d) != d || strings.ContainsAny(d, "* ") {
			t.Errorf("account %q has domain %q, as has %q", a, d, other)
		}
		seen[d] = a
	}
}

// TestRandom applies random states. Clients that are there all the time, that
// come and go, and that are new have the same in the end, as has a sink that is
// started again; none ever is in a state that Envoy would suffer from.
func TestRandom(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			store := newStore(t)
			h := newHost(t, Config{Store: store, AckWait: time.Duration(rnd.IntN(20)+1) * time.Millisecond, Grace: 5 * time.Millisecond}, "")
			h.sink.chunk = 1 + rnd.IntN(400)
			always, coming, away := newMirror(h, "n0", nil), newMirror(h, "n1", nil), false
			for range 25 {
				for range rnd.IntN(12) {
					randomStep(h, rnd)
				}
				if err := h.apply().Or(); err != nil {
					t.Fatal(err)
				}
				switch {
				case rnd.IntN(4) != 0:
				case away:
					coming, away = newMirror(h, "n1", coming), false
				default:
					coming.leave()
					away = true
				}
			}
			if away {
				coming = newMirror(h, "n1", coming)
			}
			always.converges(h.sink)
			coming.converges(h.sink)
			newMirror(h, "n2", nil).converges(h.sink)
			again, err := New(Config{Store: store})
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(served(again, "n0"), served(h.sink, "n0")) {
				t.Error("a sink that is started again serves something else")
			}
			fresh, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			if err := applyState(t, fresh, h.desired()).Or(); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(served(fresh, "n0"), served(h.sink, "n0")) {
				t.Error("changes lead elsewhere than the state as a whole")
			}
		})
	}
}

// randomStep changes one unit, so that the IR stays sound.
func randomStep(h *host, rnd *rand.Rand) {
	name := fmt.Sprintf("s%d", rnd.IntN(4))
	svc := h.ir.Service(name)
	switch op := rnd.IntN(10); {
	case op == 0 && svc != nil:
		for n := range maps.Clone(h.names) {
			if n.Name == name {
				h.put(n, nil)
			}
		}
	case op <= 2 || svc == nil:
		fresh := h.service(name, fmt.Sprintf("10.0.0.%d:80", rnd.IntN(5)), "10.0.1.1:80")
		fresh.Hosts = append(fresh.Hosts, fmt.Sprintf("%s-%d.internal", name, rnd.IntN(2)))
		fresh.Default = fmt.Sprintf("v%d", 1+rnd.IntN(2))
		fresh.Protocol = []string{"http", "grpc"}[rnd.IntN(2)]
	case op == 3:
		node := fmt.Sprintf("n%d", rnd.IntN(3))
		n := policies.Name{Kind: schema.KindNode, Name: node}
		if h.names[n] {
			h.put(n, nil)
		} else {
			h.node(node, uint16(15000+rnd.IntN(10)))
		}
	default:
		h.account(name, fmt.Sprint(rnd.IntN(6)), []string{"", "v1", "v2"}[rnd.IntN(3)])
	}
}

// TestWeight weighs the resources of 100,000 accounts without their keys.
func TestWeight(t *testing.T) {
	const n = 100_000
	var s Sink
	ir := policies.NewIR(policies.NewIDs())
	names := make([]policies.Name, n)
	for i := range names {
		a := fmt.Sprint(50_000_000 + i)
		names[i] = policies.Name{Kind: schema.KindService, Name: "api", Part: "account/" + a}
		ir.Put(names[i], &requests.AccountRoute{Service: "api", Account: a, Rules: toVersion("v2")})
	}
	keep := make([]*reconciler.Resource, n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i, name := range names {
		all, err := s.Lower(ir, name)
		if err != nil {
			t.Fatal(err)
		}
		keep[i] = all[0]
	}
	runtime.ReadMemStats(&after)
	each := int(after.TotalAlloc-before.TotalAlloc)/n - int(unsafe.Sizeof(reconciler.Key{})) - len("api/50000000")
	t.Logf("%d bytes for an account beside its key", each)
	if each > 200 {
		t.Errorf("an account weighs %d bytes", each)
	}
	runtime.KeepAlive(keep)
}

// TestNative gives the messages that are sent.
func TestNative(t *testing.T) {
	h := one(t, Config{})
	h.account("api", "1", "v2")
	all, err := Native(slices.Collect(maps.Values(h.desired())))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range all {
		names = append(names, string(m.ProtoReflect().Descriptor().Name()))
	}
	want := "Cluster Cluster ClusterLoadAssignment ClusterLoadAssignment Listener RouteConfiguration VirtualHost VirtualHost VirtualHost"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("got %s", got)
	}
	h.account("nobody", "1", "v2")
	if _, err := Native(slices.Collect(maps.Values(h.desired()))); err == nil {
		t.Error("an account of no service is served")
	}
}
