package policies

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// lookedUp is a service whose versions v1, v2 ... are registered under these
// targets; an empty one is a version with endpoints of its own.
func lookedUp(name string, targets ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind: Service\nmetadata: {name: %s}\nspec:\n  hosts: [%s.internal]\n  default: v1\n  versions:\n", name, name)
	for i, t := range targets {
		fmt.Fprintf(&b, "  - {name: v%d, ", i+1)
		if t == "" {
			b.WriteString("endpoints: [{address: 192.0.2.1, port: 80}]}\n")
			continue
		}
		fmt.Fprintf(&b, "etcd: {target: %s}}\n", t)
	}
	return b.String()
}

func endpointsOf(ports ...uint16) []requests.Endpoint {
	all := []requests.Endpoint{}
	for _, p := range ports {
		all = append(all, requests.Endpoint{netip.MustParseAddr("10.0.0.1"), p, 1})
	}
	return all
}

func TestEndpointsAreLookedUp(t *testing.T) {
	node := "kind: Node\nmetadata: {name: n}\nspec: {address: 10.0.0.1, services: [{name: api, version: v1}]}\n"
	r := newRepo(t, lookedUp("api", "/a", "/b", ""), lookedUp("web", "/a"), lookedUp("own", ""), node)
	says := func(service, want string) {
		t.Helper()
		var got []string
		for _, v := range r.c.ir.Service(service).Versions {
			word := fmt.Sprintf("%s %s", v.Name, v.Etcd)
			if v.Unknown {
				word += " unknown"
			}
			for _, e := range v.Endpoints {
				word += fmt.Sprint(" ", e.Port)
			}
			got = append(got, word)
		}
		if s := strings.Join(got, ", "); s != want {
			t.Errorf("%s is %q, want %q", service, s, want)
		}
	}
	changed := func(want ...string) {
		t.Helper()
		_, units := r.must()
		var got []string
		for _, u := range units {
			got = append(got, u.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q changed, want %q", got, want)
		}
	}
	r.must()
	says("api", "v1 /a unknown, v2 /b unknown, v3  80")
	r.facts.Endpoints = map[string][]requests.Endpoint{"/a": endpointsOf(1, 2), "/other": endpointsOf(9)}
	changed("Service/api", "Service/web") // and no node, whose file does not hold them
	says("api", "v1 /a 1 2, v2 /b unknown, v3  80")
	says("web", "v1 /a 1 2")
	r.facts.Endpoints = map[string][]requests.Endpoint{"/a": endpointsOf(1, 2), "/b": {}}
	changed("Service/api")
	says("api", "v1 /a 1 2, v2 /b, v3  80")
	r.facts.Endpoints = map[string][]requests.Endpoint{"/a": endpointsOf(1, 2), "/b": {}}
	changed()
	r.put("1.yaml", lookedUp("web", "/b"))
	r.facts.Endpoints = map[string][]requests.Endpoint{"/b": endpointsOf(3)}
	changed("Service/api", "Service/web")
	says("api", "v1 /a unknown, v2 /b 3, v3  80")
	says("web", "v1 /b 3")
	var got []string
	for _, l := range r.c.ir.Lookups() {
		got = append(got, fmt.Sprint(l.Service, " ", l.Version, " ", l.Target, " ", l.Origin))
	}
	want := []string{"api v1 /a 0.yaml:7", "api v2 /b 0.yaml:8", "web v1 /b 1.yaml:7"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	r.put("0.yaml", lookedUp("api", "", ""))
	r.must()
	if n := len(r.c.ir.Lookups()); n != 1 {
		t.Errorf("%d versions are looked up, want 1", n)
	}
}

// TestLookedUpEndpointsAreThoseOfAFullPass changes documents and what is
// registered in random order: what comes of it step by step is what a compiler
// makes that sees it all at once.
func TestLookedUpEndpointsAreThoseOfAFullPass(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	targets := []string{"", "/a", "/b", "/c"}
	follow := newRepo(t)
	found, mirror := map[string][]requests.Endpoint{}, map[Name]any{} // of those units alone that are said to have changed
	for step := range 200 {
		for range 1 + r.IntN(2) {
			name := pick(r, "api", "web", "db")
			follow.put(name+".yaml", lookedUp(name, pick(r, targets...), pick(r, targets...)))
		}
		next := map[string][]requests.Endpoint{}
		for target, endpoints := range found {
			if r.IntN(4) > 0 {
				next[target] = endpoints
			}
		}
		if target := pick(r, targets[1:]...); r.IntN(2) == 0 {
			next[target] = endpointsOf([]uint16{1, 2, 3}[:r.IntN(4)]...)
		}
		found = next
		follow.facts.Endpoints = found
		ir, units := follow.must()
		for _, u := range units {
			mirror[u] = ir.Get(u)
		}
		full := NewCompiler(NewIDs(), nil)
		set := schema.NewSet()
		want, _, err := full.Compile(set, set.Update(&schema.Snapshot{Files: follow.files}), Facts{Endpoints: found})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.units, mirror, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Fatalf("step %d, %v changed (-full +incremental):\n%s", step, units, diff)
		}
	}
}
