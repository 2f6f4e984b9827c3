package policies

import (
	"slices"
	"strings"
	"testing"
)

const warnedWorld = switchDoc + `---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10]
  switches: [sw]
  default: v1
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}]}
  - {name: v2, backends: [{name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}]}
---
apiVersion: gray.dev/v1alpha1
kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 192.0.2.1, port: 80}]}
  - {name: v2}
  - {name: v3, endpoints: [{address: 192.0.2.3, port: 80}]}
`

const warnedNetworks = `apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n1, labels: {shard: s1}}
spec:
  vni: 1
  account: x
  routes:
  - {vm: a, prefix: 10.0.0.1/32, mac: "02:00:00:00:00:01", vtep: 192.0.2.1}
  - {vm: b, prefix: 10.9.0.0/16, mac: "02:00:00:00:00:01", vtep: 192.0.2.1}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: bare}
spec: {vni: 2}
`

// warned is the warnings of the commit that has these policies, without their places.
func (r *repo) warned(documents ...string) []string {
	r.t.Helper()
	for i, d := range documents {
		r.put("p"+string(rune('a'+i))+".yaml", d)
	}
	r.must()
	var all []string
	for _, w := range r.c.Warnings() {
		all = append(all, strings.SplitN(w.Error(), ": ", 2)[1])
	}
	// A compiler that reads everything at once warns of the same.
	fresh := &repo{t: r.t, set: nil, c: NewCompiler(NewIDs(), nil), files: r.files}
	fresh.set = newRepo(r.t).set
	fresh.must()
	var again []string
	for _, w := range fresh.c.Warnings() {
		again = append(again, strings.SplitN(w.Error(), ": ", 2)[1])
	}
	if !slices.Equal(all, again) {
		r.t.Errorf("step by step the warnings are\n  %s\nat once\n  %s", strings.Join(all, "\n  "), strings.Join(again, "\n  "))
	}
	return all
}

func grayPolicy(name, version, targets, rest string) string {
	return "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: " + name + "}\nspec:\n  version: " + version + "\n  targets: [" + targets + "]\n" + rest
}

const (
	toGateway = "{kind: Gateway, name: gw}"
	toService = "{kind: Service, name: api}"
)

// TestWhatMatchesNothingIsWarnedOf has selectors, addresses, accounts and versions with
// nothing behind them, in match and in exclude, on both planes; and then what they mean.
func TestWhatMatchesNothingIsWarnedOf(t *testing.T) {
	for _, c := range []struct {
		policy string
		want   []string
	}{
		{grayPolicy("p", "v2", toGateway, "  match: [{networkSelector: {shrd: s1}}]\n"), []string{"spec.match[0].networkSelector: selects no Network, so nothing matches it"}},
		{grayPolicy("p", "v2", toGateway, "  match: [{percent: 100}]\n  exclude: [{networkSelector: {shard: s9}}]\n"), []string{"spec.exclude[0].networkSelector: selects no Network, so nothing is excluded by it"}},
		{grayPolicy("p", "v2", toGateway, "  match: [{vms: [{network: n1, addresses: [10.0.0.1, 10.0.0.2, 10.9.3.3]}, {network: bare, addresses: [10.0.0.9]}]}]\n"), []string{"spec.match[0].vms[0].addresses[1]: 10.0.0.2 is not in the route table of Network n1, so nothing matches it"}},
		{grayPolicy("p", "v2", toGateway, "  match: [{percent: 100}]\n  exclude: [{vms: [{network: n1, addresses: [10.0.0.2]}]}]\n"), []string{"spec.exclude[0].vms[0].addresses[0]: 10.0.0.2 is not in the route table of Network n1, so nothing is excluded by it"}},
		{grayPolicy("p", "v2", toGateway, "  match: [{percent: 100}]\n  exclude: [{accounts: [y]}]\n"), []string{`spec.exclude[0].accounts[0]: no Network has the account "y", so nothing is excluded by it on a Gateway`}},
		{grayPolicy("p", "v3", toService, "  match: [{accounts: [x, z]}]\n"), []string{`spec.match[0].accounts[1]: no Network has the account "z"; is it written rightly?`}},
		{grayPolicy("p", "v2", toService, "  match: [{accounts: [x]}]\n"), []string{"spec.version: version v2 of Service api has no endpoint, so what goes there gets no answer"}},
		{grayPolicy("p", "v2", toGateway, "  rollout: {networkSelector: {shrd: s1}}\n"), []string{"spec.rollout.networkSelector: selects no Network, so nothing moves"}},
		{grayPolicy("p", "v2", toGateway, "  match: [{networkSelector: {shard: s1}}]\n  exclude: [{vms: [{network: n1, addresses: [10.0.0.1]}]}]\n"), nil},
	} {
		r := newRepo(t, warnedWorld, warnedNetworks)
		if got := r.warned(c.policy); !slices.Equal(got, c.want) {
			t.Errorf("%s\nis warned of as\n  %s\nwant\n  %s", c.policy, strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
		}
	}
	// What is behind them comes and goes in other documents.
	r := newRepo(t, warnedWorld, warnedNetworks)
	p := grayPolicy("p", "v2", toGateway, "  match: [{vms: [{network: n1, addresses: [10.0.0.2]}]}, {networkSelector: {shard: s2}}]\n")
	q := grayPolicy("q", "v2", toService, "  match: [{accounts: [z]}]\n")
	if got := r.warned(p, q); len(got) != 4 {
		t.Errorf("the warnings are %q", got)
	}
	r.put("1.yaml", strings.NewReplacer("10.0.0.1/32", "10.0.0.2/32", "shard: s1", "shard: s2", "account: x", "account: z").Replace(warnedNetworks))
	r.put("0.yaml", strings.Replace(warnedWorld, "{name: v2}", "{name: v2, endpoints: [{address: 192.0.2.2, port: 80}]}", 1))
	if got := r.warned(); len(got) != 0 {
		t.Errorf("the warnings are %q", got)
	}
	r.put("1.yaml", strings.Replace(strings.ReplaceAll(warnedNetworks, "  account: x\n", ""), "shard: s1", "shard: s2", 1))
	if got := r.warned(); len(got) != 1 { // of the address alone: without accounts of Networks none is wrong
		t.Errorf("the warnings are %q", got)
	}
}

// TestAllErrorsInOneRun has documents with unknown fields and, in them and in those that
// refer to them, other errors: one run has all, and no error that is only a consequence.
func TestAllErrorsInOneRun(t *testing.T) {
	r := newRepo(t, warnedWorld, warnedNetworks)
	r.put("a.yaml", grayPolicy("p", "v9", toGateway+", {kind: Service, name: gone}", "  prio: 3\n  match: [{networks: [nowhere]}, {acounts: [x], vms: [{network: n1, addresses: [10.0.0.1]}]}]\n"))
	r.put("b.yaml", grayPolicy("q", "v9", toGateway, "  match: [{percent: 100}]\n"))
	r.put("0.yaml", strings.Replace(warnedWorld, "  hosts: [api.internal]\n", "  hosts: [api.internal]\n  hots: 1\n", 1))
	r.put("c.yaml", grayPolicy("s", "v9", toService, "  match: [{accounts: [x]}]\n"))
	want := []string{
		"0.yaml:22: spec.hots: unknown field; did you mean hosts?",
		`a.yaml:5: spec.version: Gateway gw has no version "v9"; it has v1, v2`,
		`a.yaml:6: spec.targets[1].name: there is no Service "gone" in the repository`,
		"a.yaml:7: spec.prio: unknown field",
		"a.yaml:8: spec.match[1].acounts: unknown field; did you mean accounts?",
		`b.yaml:5: spec.version: Gateway gw has no version "v9"; it has v1, v2`,
		`c.yaml:5: spec.version: Service api has no version "v9"; it has v1, v2, v3`,
	}
	check := func(want ...string) {
		t.Helper()
		_, _, err := r.commit()
		if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
			t.Errorf("the errors are\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
		}
	}
	check(want...)
	r.put("0.yaml", strings.Replace(warnedWorld, "  hosts: [api.internal]\n", "  hosts: [api.internal]\n  hots: 1\n", 1)+"# the same documents\n")
	check(want...) // what stays as it is stays wrong
	// An entry that nobody understands matches nothing, and so conflicts with nothing.
	r = newRepo(t, warnedWorld, warnedNetworks)
	r.put("a.yaml", grayPolicy("p", "v2", toGateway, "  match: [{networks: [n1], wms: 1}]\n"))
	r.put("b.yaml", grayPolicy("q", "v1", toGateway, "  match: [{percent: 100}]\n"))
	check("a.yaml:7: spec.match[0].wms: unknown field; did you mean vms?")
}

// TestWhatDoesNothingIsWarnedOf has policies whose all is matched by another one with a
// higher priority, on both planes, and a Switch without a Gateway.
func TestWhatDoesNothingIsWarnedOf(t *testing.T) {
	low := func(target, match string) string {
		return grayPolicy("low", "v1", target, "  priority: 5\n  match: ["+match+"]\n")
	}
	high := func(target, match string) string {
		return grayPolicy("high", "v3", target, "  priority: 50\n  match: ["+match+"]\n")
	}
	world := strings.NewReplacer("  - {name: v2, backends:", "  - {name: v3, backends: [{name: c, address: 192.0.2.9, mac: \"02:00:00:00:00:09\", port: 9}]}\n  - {name: v2, backends:").Replace(warnedWorld)
	const nothing = "spec.priority: does nothing: GrayPolicy high (pb.yaml:1) has a higher priority and matches all that it matches; remove it, or give it a higher one"
	for _, c := range []struct {
		low, high string
		idle      bool
	}{
		{low(toGateway, "{networks: [n1]}"), high(toGateway, "{percent: 100}"), true},
		{low(toGateway, "{flow: {vni: 1, dstPort: 80}}, {vms: [{network: n1, addresses: [10.0.0.1]}]}"), high(toGateway, "{networks: [n1]}"), true},
		{low(toGateway, "{flow: {vni: 1}}, {flow: {vni: 2}}"), high(toGateway, "{networks: [n1]}"), false},
		{low(toGateway, "{networks: [n1]}"), high(toGateway, "{networks: [n1], percent: 50}"), false},
		{low(toGateway, "{networks: [n1]}"), high(toGateway, "{networks: [n1]}]\n  exclude: [{vms: [{network: n1, addresses: [10.0.0.1]}]}"), false},
		{low(toService, "{accounts: [x]}"), high(toService, "{accounts: [x]}"), true},
		{low(toService, "{accounts: [x]}"), high(toService, "{percent: 100}"), true},
		{low(toService, "{accounts: [x], headers: [{name: a, exact: b}]}"), high(toService, "{accounts: [x]}"), true},
		{low(toService, "{accounts: [x]}"), high(toService, "{accounts: [x], headers: [{name: a, exact: b}]}"), false},
		{low(toService+", "+toGateway, "{accounts: [x]}"), high(toService, "{accounts: [x]}"), false},
	} {
		var want []string
		if c.idle {
			want = []string{nothing}
		}
		r := newRepo(t, world, warnedNetworks)
		if got := r.warned(c.low); len(got) != 0 {
			t.Errorf("%s\nalone is warned of as %q", c.low, got)
		}
		if got := r.warned(c.low, c.high); !slices.Equal(got, want) {
			t.Errorf("%s\nunder\n%s\nis warned of as %q, want %q", c.low, c.high, got, want)
		}
		if got := r.warned(c.low, strings.Replace(c.high, "priority: 50", "priority: 2", 1)); slices.Contains(got, nothing) {
			t.Errorf("of two the other is warned of: %q", got)
		}
	}
	r := newRepo(t, warnedWorld, strings.Replace(switchDoc, "name: sw", "name: lone", 1))
	if got := r.warned(); !slices.Equal(got, []string{"metadata.name: no Gateway is on Switch lone, so nothing but its pipeline is put there"}) {
		t.Errorf("a Switch alone is warned of as %q", got)
	}
}
