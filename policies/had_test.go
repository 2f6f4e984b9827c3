package policies

import (
	"fmt"
	"strings"
	"testing"
)

const hadNetworks = `apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n1, labels: {shard: s1}}
spec:
  vni: 1
  account: x
  routes:
  - {vm: a, prefix: 10.0.0.1/32, mac: "02:00:00:00:00:01", vtep: 192.0.2.1}
  - {vm: b, prefix: 10.0.0.2/32, mac: "02:00:00:00:00:01", vtep: 192.0.2.1}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n2, labels: {shard: s1}}
spec:
  vni: 2
  account: y
  routes:
  - {vm: a, prefix: 10.0.0.1/32, mac: "02:00:00:00:00:01", vtep: 192.0.2.1}
`

// TestMovedByOthers decides what of a rollout's units other policies have: by a higher
// priority or by the same version, not by a lower one with another version, not in part,
// and only if they have it on every plane. One policy after another gives the same.
func TestMovedByOthers(t *testing.T) {
	world := strings.Replace(warnedWorld, "{name: v2}", "{name: v2, endpoints: [{address: 192.0.2.2, port: 80}]}", 1)
	const both = toGateway + ", " + toService
	for _, c := range []struct{ targets, other, want string }{
		{toGateway, "", "n1 2, n2 1"},
		{toGateway, grayPolicy("q", "v2", toGateway, "  priority: 200\n  match: [{networks: [n1]}]\n"), "n2 1; 2 VMs of Network n1 are moved by GrayPolicy q"},
		{toGateway, grayPolicy("q", "v1", toGateway, "  priority: 200\n  match: [{accounts: [x]}]\n"), "n2 1; 2 VMs of Network n1 are moved by GrayPolicy q"},
		{toGateway, grayPolicy("q", "v2", toGateway, "  priority: 50\n  match: [{percent: 100}]\n"), "; 2 VMs of Network n1 are moved by GrayPolicy q; 1 VMs of Network n2 are moved by GrayPolicy q"},
		{toGateway, grayPolicy("q", "v1", toGateway, "  priority: 50\n  match: [{networks: [n1]}]\n"), "n1 2, n2 1"},
		{toGateway, grayPolicy("q", "v2", toGateway, "  priority: 200\n  match: [{vms: [{network: n1, addresses: [10.0.0.2]}]}]\n"), "n1 1, n2 1; 1 VMs of Network n1 are moved by GrayPolicy q"},
		{toGateway, grayPolicy("q", "v2", toGateway, "  priority: 200\n  match: [{networks: [n1], percent: 50}, {flow: {vni: 2, dstPort: 443}}]\n"), "n1 2, n2 1"},
		{toGateway, grayPolicy("q", "v2", toGateway, "  priority: 200\n  match: [{networks: [n1, n2]}]\n  exclude: [{networks: [n1]}]\n"), "n1 2; 1 VMs of Network n2 are moved by GrayPolicy q"},
		{both, grayPolicy("q", "v2", toGateway, "  priority: 200\n  match: [{networks: [n1]}]\n"), "n1 2, n2 1"},
		{both, grayPolicy("q", "v2", both, "  priority: 200\n  match: [{accounts: [x]}]\n"), "n2 1; 2 VMs of Network n1 are moved by GrayPolicy q"},
		{toService, grayPolicy("q", "v2", toService, "  priority: 200\n  match: [{accounts: [y]}]\n"), "n1 2; 1 VMs of Network n2 are moved by GrayPolicy q"},
	} {
		p := grayPolicy("p", "v2", c.targets, "  rollout: {networkSelector: {shard: s1}}\n")
		says := func(r *repo) string {
			r.must()
			spec := r.c.Rollout("p")
			var words []string
			for _, n := range spec.Networks {
				words = append(words, fmt.Sprint(n.Name, " ", len(n.VMs)))
			}
			text := strings.Join(words, ", ")
			if others := spec.Others(); others != "" {
				text += "; " + others
			}
			return text
		}
		r := newRepo(t, world, hadNetworks)
		r.put("p.yaml", p)
		if got := says(r); got != "n1 2, n2 1" {
			t.Errorf("alone it moves %s", got)
		}
		if c.other != "" {
			r.put("q.yaml", c.other)
		}
		if got := says(r); got != c.want {
			t.Errorf("to %s, beside\n%s\nit moves %s, want %s", c.targets, c.other, got, c.want)
		}
		r = newRepo(t, world, hadNetworks, p)
		if c.other != "" {
			r.put("a.yaml", c.other)
		}
		if got := says(r); got != c.want {
			t.Errorf("at once, beside\n%s\nit moves %s, want %s", c.other, got, c.want)
		}
	}
	// Of one priority and one version, nobody could tell whose they are.
	for _, targets := range []string{toGateway, toService} {
		r := newRepo(t, world, hadNetworks, grayPolicy("p", "v2", targets, "  rollout: {networkSelector: {shard: s1}}\n"), grayPolicy("q", "v2", targets, "  match: [{accounts: [x]}]\n"))
		_, _, err := r.commit()
		if err == nil || !strings.Contains(err.Error(), "with a rollout, so that nobody could tell which of them moves it") {
			t.Errorf("two policies of one priority and version to %s are taken: %v", targets, err)
		}
		r.put("3.yaml", grayPolicy("q", "v2", targets, "  match: [{accounts: [z]}]\n"))
		r.must()
	}
}
