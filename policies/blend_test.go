package policies

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

const percentGateway = `
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10]
  switches: [sw]
  default: v1
  versions:
  - name: v1
    backends:
    - {name: a1, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}
    - {name: a2, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}
    - {name: a3, address: 192.0.2.3, mac: "02:00:00:00:00:03", port: 3}
  - name: v2
    backends:
    - {name: b1, address: 192.0.2.4, mac: "02:00:00:00:00:04", port: 4}
    - {name: b2, address: 192.0.2.5, mac: "02:00:00:00:00:05", port: 5}
    - {name: b3, address: 192.0.2.6, mac: "02:00:00:00:00:06", port: 6}
    - {name: b4, address: 192.0.2.7, mac: "02:00:00:00:00:07", port: 7}
  - {name: v3, backends: [{name: c, address: 192.0.2.8, mac: "02:00:00:00:00:08", port: 8}]}
`

// policyOf is a policy for the gateway gw; entry is the body of its one match.
func policyOf(name, version string, priority int, entry string) string {
	return fmt.Sprintf("apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: %s}\nspec:\n  targets: [{kind: Gateway, name: gw}]\n  version: %s\n  priority: %d\n  match:\n  - %s\n",
		name, version, priority, entry)
}

func networkOf(name string, vni int) string {
	return fmt.Sprintf("apiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: %s}\nspec: {vni: %d, account: x}\n", name, vni)
}

// serverNames is the server of each bucket of a pool, as "version/backend".
func serverNames(ir *IR, pool string) []string {
	gw := ir.Gateway("gw")
	var names []string
	for bucket := range gw.Hash.Buckets {
		version := pool
		if b := ir.Blend("gw", pool); b != nil {
			version = gw.Pools[b.Buckets[bucket].Pool].Version
			if b.Buckets[bucket].Backend != gw.Pool(version).Buckets[bucket] {
				panic("a bucket of a blend has another backend than in the pool of its version")
			}
		}
		p := gw.Pool(version)
		names = append(names, version+"/"+p.Backends[p.Buckets[bucket]].Name)
	}
	return names
}

func TestPercentGrowsOneWay(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway)
	ir, _ := r.must()
	v1, v2 := serverNames(ir, "v1"), serverNames(ir, "v2")
	before := v1
	for _, percent := range []int{0, 1, 5, 10, 50, 99, 100} {
		r.put("p.yaml", policyOf("p", "v2", 100, fmt.Sprintf("{percent: %d}", percent)))
		ir, _ := r.must()
		pool := ir.Gateway("gw").DefaultPool
		want := map[int]string{0: "v1", 100: "v2"}[percent]
		if want == "" {
			want = fmt.Sprintf("v2=%d%%,v1", percent)
		}
		if pool != want {
			t.Fatalf("at %d %% the VIP points to %s, want %s", percent, pool, want)
		}
		now, gray := serverNames(ir, pool), map[string]int{}
		for b := range now {
			switch {
			case now[b] == v2[b]:
				gray[now[b]]++
			case now[b] != v1[b] || before[b] == v2[b]:
				t.Fatalf("at %d %% bucket %d goes from %s to %s, which is no way forward", percent, b, before[b], now[b])
			}
		}
		sum := 0
		for name, n := range gray {
			sum += n
			share := float64(percent*len(now)) / 100
			if sigma := math.Sqrt(share * 3 / 16); math.Abs(float64(n)-share/4) > 4*sigma {
				t.Errorf("at %d %% %s has %d buckets of %.0f; want a quarter", percent, name, n, share)
			}
		}
		if sum != (percent*len(now)+50)/100 {
			t.Errorf("at %d %% %d of %d buckets are gray", percent, sum, len(now))
		}
		before = now
	}
}

func TestWhatAShareLeavesFallsThrough(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1), networkOf("n2", 2),
		policyOf("e1", "v2", 200, "{networks: [n1], percent: 5}"), policyOf("e2", "v3", 100, "{percent: 50}"))
	ir, _ := r.must()
	if got := ir.Gateway("gw").DefaultPool; got != "v3=50%,v1" {
		t.Errorf("the VIP points to %s", got)
	}
	cell := ir.Get(Name{schema.KindGateway, "gw", "vni/1"}).(*packets.Cell)
	want := []packets.Rule{{Table: packets.TableVPC, Match: packets.VNIMatch(1), Pool: "v2=5%,v3=50%,v1", Policy: "e1", Origin: schema.Position{Path: "4.yaml", Line: 9}}}
	if !slices.Equal(cell.Rules, want) {
		t.Fatalf("%+v\nwant %+v", cell.Rules, want)
	}
	shares := map[string]int{}
	for _, name := range serverNames(ir, cell.Rules[0].Pool) {
		shares[name[:2]]++
	}
	if shares["v2"] != 819 || math.Abs(float64(shares["v3"])/(16384-819)-0.5) > 0.01 {
		t.Errorf("of 16384 buckets: %v; want 819 of v2 and half of the rest of v3", shares)
	}
	// The rest stays as it is without the first policy.
	with, without := serverNames(ir, cell.Rules[0].Pool), serverNames(ir, "v3=50%,v1")
	for b := range with {
		if with[b] != without[b] && !strings.HasPrefix(with[b], "v2/") {
			t.Fatalf("bucket %d goes from %s to %s with the first policy", b, without[b], with[b])
		}
	}
}

func TestEqualBlendsAreOnePool(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1), networkOf("n2", 2))
	r.must()
	blend := Name{schema.KindGateway, "gw", "pool/v2=5%,v1"}
	cell := func(vni int) Name { return Name{schema.KindGateway, "gw", fmt.Sprintf("vni/%d", vni)} }
	for _, step := range []struct {
		file, entry string
		units       []Name
		line        string
	}{
		{"a.yaml", "{networks: [n1], percent: 5}", []Name{blend, cell(1)}, "a.yaml:9"},
		{"b.yaml", "{networks: [n2], percent: 5}", []Name{cell(2)}, "a.yaml:9"},
		{"a.yaml", "{networks: [n1]}", []Name{blend, cell(1)}, "b.yaml:9"},
		{"b.yaml", "{networks: [n2], percent: 6}", []Name{blend, {blend.Kind, "gw", "pool/v2=6%,v1"}, cell(2)}, ""},
	} {
		r.put(step.file, policyOf(step.file[:1], "v2", 100, step.entry))
		ir, units := r.must()
		if diff := cmp.Diff(step.units, units); diff != "" {
			t.Errorf("%s %s: %s", step.file, step.entry, diff)
		}
		last := ir.Blend("gw", "v2=5%,v1")
		switch {
		case last == nil && step.line != "":
			t.Errorf("after %s %s there is no pool of 5 %%", step.file, step.entry)
		case last != nil && last.Origin.String() != step.line:
			t.Errorf("after %s %s the pool comes from %s, want %s", step.file, step.entry, last.Origin, step.line)
		}
		if id := r.c.IDs().get("sw", SpacePool, "gw/v2=5%,v1"); (id != 0) != (last != nil) {
			t.Errorf("after %s %s the pool's number is %d", step.file, step.entry, id)
		}
	}
}

// What a gateway has on its switches is lowered again when they change, and when
// its servers do.
func TestPartsFollowTheirGateway(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1), policyOf("p", "v2", 100, "{networks: [n1], percent: 5}"), strings.Replace(switchDoc, "name: sw", "name: sw2", 1))
	r.must()
	blend, cell := Name{schema.KindGateway, "gw", "pool/v2=5%,v1"}, Name{schema.KindGateway, "gw", "vni/1"}
	r.put("1.yaml", strings.Replace(percentGateway, "[sw]", "[sw, sw2]", 1))
	ir, units := r.must()
	if diff := cmp.Diff([]Name{gatewayUnit, blend, cell}, units); diff != "" {
		t.Errorf("a switch more: %s", diff)
	}
	if ir.ID("sw2", SpacePool, "gw/v2=5%,v1") == 0 {
		t.Error("the pool has no number on the new switch")
	}
	r.put("1.yaml", strings.NewReplacer("[sw]", "[sw, sw2]", "port: 1}", "port: 9}").Replace(percentGateway))
	if _, units := r.must(); !slices.Equal(units, []Name{gatewayUnit, blend}) {
		t.Errorf("another port: %v changed", units)
	}
}

func TestPercentOutOfRange(t *testing.T) {
	for _, test := range []struct{ policy, want string }{
		{
			policyOf("p", "v2", 1, "{networks: [n1]}\n  exclude:\n  - {percent: 101}"),
			"p.yaml:11: spec.exclude[0].percent: 101 is out of range; want 0 to 100",
		},
		{policyOf("p", "v2", 1, "{percent: 101}"), "p.yaml:9: spec.match[0].percent: 101 is out of range; want 0 to 100"},
	} {
		r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1))
		r.put("p.yaml", test.policy)
		if _, _, err := r.commit(); err == nil || err.Error() != test.want {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
}

// Two shares of one priority meet in some bucket.
func TestSharesOfOnePriorityConflict(t *testing.T) {
	r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1), policyOf("a", "v2", 7, "{percent: 5}"), policyOf("b", "v3", 7, "{networks: [n1], percent: 5}"))
	_, _, err := r.commit()
	want := "4.yaml:7: spec.priority: 7 is also the priority of GrayPolicy a (3.yaml:9), and both match VNI 1 of Gateway gw with different versions, v2 there and v3 here; give one a higher priority"
	if errText(err) != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	r.put("4.yaml", policyOf("b", "v3", 7, "{networks: [n1], percent: 0}"))
	r.must()
}

// What an exclude has a share of: of that at most the other buckets go, and the
// rest is for those below.
func TestShareThatStays(t *testing.T) {
	const matches = "{networks: [n1, n2]}\n  - {networks: [n3], percent: 10}"
	for _, test := range []struct{ exclude, n1, n2, n3 string }{
		{"{networks: [n1], percent: 20}", "v2=80%,v3=50%,v1", "v2", "v2=10%,v3=50%,v1"},
		{"{percent: 20}", "v2=80%,v3=50%,v1", "v2=80%,v3=50%,v1", "v2=10%,v3=50%,v1"},
		{"{percent: 95}", "v2=5%,v3=50%,v1", "v2=5%,v3=50%,v1", "v2=5%,v3=50%,v1"},
		{"{percent: 0}", "v2", "v2", "v2=10%,v3=50%,v1"},
		{"{percent: 100}", "v3=50%,v1", "v3=50%,v1", "v3=50%,v1"},
		{"{networks: [n1]}\n  - {percent: 30}\n  - {networks: [n2], percent: 60}", "v3=50%,v1", "v2=40%,v3=50%,v1", "v2=10%,v3=50%,v1"},
	} {
		r := newRepo(t, switchDoc, percentGateway, networkOf("n1", 1), networkOf("n2", 2), networkOf("n3", 3),
			policyOf("p", "v2", 200, matches+"\n  exclude:\n  - "+test.exclude), policyOf("below", "v3", 100, "{percent: 50}"))
		ir, _ := r.must()
		for vni, want := range map[uint32]string{1: test.n1, 2: test.n2, 3: test.n3, 4: "v3=50%,v1"} {
			p := packets.Packet{VIP: ir.Gateway("gw").VIPs[0], VNI: vni, Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.9")}
			if got := packets.Follow(ir, "sw", p).Pool; got != want {
				t.Errorf("exclude %s, VNI %d: pool %s, want %s", test.exclude, vni, got, want)
			}
		}
	}
}
