package policies

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// update follows a snapshot and gives policies their rollouts, which documents may
// not have yet.
func update(set *schema.Set, snap *schema.Snapshot, rollouts map[string]*schema.Rollout) []schema.Name {
	changed := set.Update(snap)
	for policy, r := range rollouts {
		if doc := set.Get(schema.Name{Kind: schema.KindPolicy, Name: policy}); doc != nil {
			doc.Spec.(*schema.PolicySpec).Rollout = r
		}
	}
	return changed
}

// rolloutOf is a rollout with the defaults of a document.
func rolloutOf(networks ...string) *schema.Rollout {
	return &schema.Rollout{Networks: networks, Batches: []schema.Batch{{N: 100, IsPercent: true}}, Parallel: 1, Approval: "none", OnFailure: "rollback"}
}

func randomRollout(r *rand.Rand) *schema.Rollout {
	if r.IntN(2) == 0 {
		return &schema.Rollout{NetworkSelector: map[string]string{"shard": "s"}, Order: []string{"n2"}}
	}
	return rolloutOf(some(r, []string{"n1", "n2"})...)
}

func randomProgress(r *rand.Rand) rollout.Progress {
	p := rollout.Progress{Identity: pick(r, "v1", "v2", "v3") + " of Gateway/gw"}
	for _, n := range []string{"n1", "n2", "n9"} {
		switch r.IntN(3) {
		case 0:
			p.Whole = append(p.Whole, n)
		case 1:
			if p.VMs == nil {
				p.VMs = map[string][]netip.Addr{}
			}
			p.VMs[n] = addressesOf(some(r, worldAddrs)...)
		}
	}
	return p
}

func addressesOf(texts ...string) []netip.Addr {
	var all []netip.Addr
	for _, a := range texts {
		all = append(all, netip.MustParseAddr(a))
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// shard is a gateway, a service and Networks n1, n2, ... of the accounts a1, a2,
// ... with some VMs 10.0.0.1, ... each, and a policy p whose rollout moves them all.
type shard struct {
	*repo
	rollouts map[string]*schema.Rollout
}

const shardBase = switchDoc + "---\n" + percentGateway + `---
apiVersion: gray.dev/v1alpha1
kind: Service
metadata: {name: api}
spec:
  hosts: [api.internal]
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 10.9.1.1, port: 80}]}
  - {name: v2, endpoints: [{address: 10.9.1.2, port: 80}]}
`

func newShard(t testing.TB, vms ...int) *shard {
	s := &shard{repo: newRepo(nil, shardBase), rollouts: map[string]*schema.Rollout{}}
	s.t, _ = t.(*testing.T)
	var names []string
	for i, n := range vms {
		s.network(i+1, n)
		names = append(names, fmt.Sprintf("n%d", i+1))
	}
	s.policy("", rolloutOf(names...))
	return s
}

// network gives Network n so many VMs.
func (s *shard) network(n, vms int) {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: n%d, labels: {shard: s}}\nspec: {vni: %d, account: a%d, routesFrom: n%d.csv}\n", n, n, n, n)
	s.put(fmt.Sprintf("n%d.yaml", n), b.String())
	s.routes(n, vmNumbers(vms)...)
}

func vmNumbers(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i + 1
	}
	return all
}

func vmAddress(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// routes sets the route table of Network n.
func (s *shard) routes(n int, vms ...int) {
	var b strings.Builder
	b.WriteString("vm,prefix,mac,vtep\n")
	for _, vm := range vms {
		fmt.Fprintf(&b, "vm-%d,%s/32,02:00:00:00:00:01,192.0.2.1\n", vm, vmAddress(vm))
	}
	s.put(fmt.Sprintf("n%d.csv", n), b.String())
}

// policy sets the policy p.
func (s *shard) policy(fields string, r *schema.Rollout) {
	s.rollouts["p"] = r
	s.put("p.yaml", "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: p}\nspec:\n  targets: [{kind: Gateway, name: gw}, {kind: Service, name: api}]\n  version: v2\n"+fields+
		fmt.Sprintf("  # %p\n", r))
}

func (s *shard) commit() (*IR, []Name, error) {
	return s.c.Compile(s.set, update(s.set, &schema.Snapshot{Files: s.files}, s.rollouts), s.facts)
}

// gray lists what is gray, as "n1: 10.0.0.1 ..." or "n1: all", and the accounts.
func (s *shard) gray(t testing.TB) string {
	t.Helper()
	ir, _, err := s.commit()
	if err != nil {
		t.Fatal(err)
	}
	return grayOf(ir, s.set)
}

func grayOf(ir *IR, set *schema.Set) string {
	var lines []string
	for _, n := range set.Names() {
		spec, ok := set.Get(n).Spec.(*schema.NetworkSpec)
		if !ok {
			continue
		}
		cell, _ := ir.Get(Name{schema.KindGateway, "gw", fmt.Sprintf("vni/%d", *spec.VNI)}).(*packets.Cell)
		line := ""
		for i := 0; cell != nil && i < len(cell.Rules); i++ {
			switch r := &cell.Rules[i]; {
			case r.Table == packets.TableVPC && r.Pool == "v2":
				line += " all"
			case r.Pool == "v2" && r.Match.Src.IsValid():
				line += " " + r.Match.Src.Addr().String()
			case r.Pool != "v2":
				line += " not " + r.Match.String()
			}
		}
		if a, _ := ir.Get(Name{schema.KindService, "api", "account/" + spec.Account}).(*requests.AccountRoute); a != nil {
			line += " " + spec.Account
		}
		if line != "" {
			lines = append(lines, n.Name+":"+line)
		}
	}
	return strings.Join(lines, "; ")
}

const identity = "v2 of Gateway/gw, Service/api"

func TestProgressMovesUnits(t *testing.T) {
	s := newShard(t, 3, 3)
	some := map[string][]netip.Addr{"n1": addressesOf("10.0.0.1", "10.0.0.2")}
	for _, step := range []struct {
		what   string
		p      rollout.Progress
		change func()
		want   string
	}{
		{"nothing", rollout.Progress{}, nil, ""},
		{"two VMs", rollout.Progress{identity, nil, some}, nil, "n1: 10.0.0.1 10.0.0.2 a1"},
		{"which come to be one less", rollout.Progress{identity, nil, some}, func() { s.routes(1, 2, 3) }, "n1: 10.0.0.2 a1"},
		{"and none", rollout.Progress{identity, nil, some}, func() { s.routes(1, 3) }, ""},
		{"and are back", rollout.Progress{identity, nil, some}, func() { s.routes(1, 1, 2, 3) }, "n1: 10.0.0.1 10.0.0.2 a1"},
		{"a whole Network", rollout.Progress{identity, []string{"n1"}, nil}, nil, "n1: all a1"},
		{"and some of the next", rollout.Progress{identity, []string{"n1"}, map[string][]netip.Addr{"n2": addressesOf("10.0.0.3")}}, nil, "n1: all a1; n2: 10.0.0.3 a2"},
		{"all", rollout.Progress{identity, []string{"n1", "n2"}, nil}, nil, "n1: all a1; n2: all a2"},
		{"one leaves the rollout", rollout.Progress{identity, []string{"n1", "n2"}, nil}, func() { s.policy("", rolloutOf("n2")) }, "n2: all a2"},
		{"and joins it", rollout.Progress{identity, []string{"n1", "n2"}, nil}, func() { s.policy("", rolloutOf("n1", "n2")) }, "n1: all a1; n2: all a2"},
		{"of another version", rollout.Progress{"v3 of Gateway/gw, Service/api", []string{"n1", "n2"}, nil}, nil, ""},
		{"and of this one", rollout.Progress{identity, []string{"n1"}, nil}, nil, "n1: all a1"},
		{"one is excluded", rollout.Progress{identity, []string{"n1"}, nil}, func() {
			s.policy("  exclude:\n  - {vms: [{network: n1, addresses: [10.0.0.2]}]}\n", rolloutOf("n1", "n2"))
		}, "n1: not VNI 1, source 10.0.0.2/32 not VNI 1, destination 10.0.0.2/32 all a1"},
		{"an account is", rollout.Progress{identity, []string{"n1", "n2"}, nil}, func() {
			s.policy("  exclude:\n  - {accounts: [a1]}\n", rolloutOf("n1", "n2"))
		}, "n2: all a2"},
		{"beside a match", rollout.Progress{identity, nil, some}, func() {
			s.policy("  match:\n  - {networks: [n2]}\n", rolloutOf("n1", "n2"))
		}, "n1: 10.0.0.1 10.0.0.2 a1; n2: all"},
		{"the rollout ends", rollout.Progress{identity, nil, some}, func() { s.policy("", nil) }, ""},
	} {
		if step.change != nil {
			step.change()
		}
		s.facts = s.facts.WithProgress("p", step.p)
		if got := s.gray(t); got != step.want {
			t.Errorf("%s: gray is %q, want %q", step.what, got, step.want)
		}
		s.facts = s.facts.WithProgress("p", step.p) // said again it is no change
		if _, units, err := s.commit(); err != nil || len(units) > 0 {
			t.Errorf("%s: said again, %v changed; %v", step.what, units, err)
		}
	}
}

// A step changes the units of the Networks that it moves and no others.
func TestProgressCostsWhatItMoves(t *testing.T) {
	s := newShard(t, 3, 3, 3)
	s.gray(t)
	s.facts = s.facts.WithProgress("p", rollout.Progress{identity, []string{"n1"}, map[string][]netip.Addr{"n2": addressesOf("10.0.0.1")}})
	s.gray(t)
	s.facts = s.facts.WithProgress("p", rollout.Progress{identity, []string{"n1"}, map[string][]netip.Addr{"n2": addressesOf("10.0.0.1", "10.0.0.2")}})
	_, units, err := s.commit()
	if want := []Name{{schema.KindGateway, "gw", "vni/2"}}; err != nil || !slices.Equal(units, want) {
		t.Errorf("%v changed, want %v; %v", units, want, err)
	}
}

// A rollout that will conflict with another policy is refused when it is
// committed, not when it comes to what both move.
func TestRolloutConflictsShowEarly(t *testing.T) {
	other := func(target, match string) string {
		return "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: q}\nspec:\n  targets: [" + target + "]\n  version: v1\n  match:\n  - " + match + "\n"
	}
	const gateway, service = "{kind: Gateway, name: gw}", "{kind: Service, name: api}"
	for _, test := range []struct{ other, want string }{
		{other(gateway, "{vms: [{network: n2, addresses: [10.0.0.1]}]}"), "both match VNI 2, source 10.0.0.1/32 of Gateway gw"},
		{other(gateway, "{networks: [n3]}"), ""},
		{other(service, "{accounts: [a2]}"), "both match account a2 of Service api"},
		{other(service, "{headers: [{name: x, exact: y}], accounts: [a2]}"), `both match x exact "y" of account a2 of Service api`},
		{other(service, "{accounts: [a3]}"), ""},
		{strings.Replace(other(service, "{accounts: [a2]}"), "version: v1", "version: v2", 1), "both match account a2 of Service api with a rollout, so that nobody could tell"},
		{strings.Replace(other(gateway, "{networks: [n2]}"), "  match", "  priority: 7\n  match", 1), ""},
	} {
		s := newShard(t, 2, 2, 2)
		s.policy("", rolloutOf("n1", "n2"))
		s.put("q.yaml", test.other)
		if _, _, err := s.commit(); !strings.Contains(errText(err), test.want) || (err != nil) != (test.want != "") {
			t.Errorf("%s\n%v\nwant %s", test.other, err, test.want)
		}
	}
}

func TestRolloutReferencesAreChecked(t *testing.T) {
	with := func(f func(*schema.Rollout)) *schema.Rollout {
		r := rolloutOf("n1", "n2")
		f(r)
		return r
	}
	for _, test := range []struct {
		rollout *schema.Rollout
		want    string
	}{
		{rolloutOf("n1", "n7"), `there is no Network "n7" in the repository`},
		{with(func(r *schema.Rollout) { r.Order = []string{"n3"} }), `Network "n3" is not one that the rollout moves`},
		{with(func(r *schema.Rollout) { r.Through = &schema.Through{Network: "n3", Batch: 1} }), `Network "n3" is not one that the rollout moves`},
		{
			with(func(r *schema.Rollout) { r.Verify = &schema.Verify{Ping: &schema.PingProbe{Source: "overlay"}} }),
			"overlay pings come from the monitor of a Network, and Network n1 has none; give it one, or say host",
		},
	} {
		s := newShard(t, 1, 1, 1)
		s.policy("", test.rollout)
		if _, _, err := s.commit(); !strings.Contains(errText(err), test.want) {
			t.Errorf("%v\nwant %s", err, test.want)
		}
	}
	s := newShard(t, 1)
	s.put("p.yaml", "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: p}\nspec: {targets: [{kind: Service, name: api}], version: v2, rollout: {networks: [n1], verify: {ping: {}}}}\n")
	delete(s.rollouts, "p")
	if _, _, err := s.commit(); !strings.Contains(errText(err), "spec.rollout.verify.ping.source: overlay pings go through the VIP of a Gateway, and the policy has none among its targets; add one, or say host") {
		t.Error(err)
	}
	s = newShard(t, 1)
	s.policy("", &schema.Rollout{NetworkSelector: map[string]string{"shard": "none"}})
	if _, _, err := s.commit(); err != nil || len(s.c.Warnings()) != 1 {
		t.Errorf("%v, warnings %v", err, s.c.Warnings())
	}
}

func TestRolloutSpecFollowsTheDocuments(t *testing.T) {
	s := newShard(t, 2, 3, 1)
	r := rolloutOf("n1", "n2", "n3")
	r.Order = []string{"n2"}
	s.policy("  exclude:\n  - {vms: [{network: n2, addresses: [10.0.0.2]}]}\n  - {networks: [n3]}\n", r)
	spec := func() *rollout.Spec { s.gray(t); return s.c.Rollout("p") }
	one := spec()
	describe := func(s *rollout.Spec) string {
		var words []string
		for _, n := range s.Networks {
			words = append(words, fmt.Sprintf("%s/%s/%d%v", n.Name, n.Account, n.VNI, n.VMs))
		}
		return strings.Join(words, " ")
	}
	if got, want := describe(one), "n2/a2/2[10.0.0.1 10.0.0.3] n1/a1/1[10.0.0.1 10.0.0.2]"; got != want || one.Identity != identity || one.Version != "v2" {
		t.Errorf("%s of %s, want %s", got, one.Identity, want)
	}
	if n, _ := one.Network("n1"); len(n.Routes) != 2 || n.Routes[1].Prefix.Addr().String() != "10.0.0.2" {
		t.Errorf("the routes of its file are %v", n.Routes)
	}
	if spec() != one {
		t.Error("nothing changed, and the spec is another one")
	}
	s.routes(2, 1, 2)
	two := spec()
	if got, want := describe(two), "n2/a2/2[10.0.0.1] n1/a1/1[10.0.0.1 10.0.0.2]"; got != want || two.Content != one.Content || two.Fingerprint != one.Fingerprint {
		t.Errorf("%s, want %s and the same digests", got, want)
	}
	// The pace changes nothing that a verdict rests on; the check does.
	pace := *r
	pace.Batches, pace.Bake, pace.Parallel, pace.Approval = []schema.Batch{{N: 1}, {N: 100, IsPercent: true}}, 7, 2, "batch"
	const exclude = "  exclude:\n  - {vms: [{network: n2, addresses: [10.0.0.2]}]}\n  - {networks: [n3]}\n"
	s.policy(exclude, &pace)
	if three := spec(); three.Content != two.Content || three.Fingerprint != two.Fingerprint {
		t.Error("another pace is another content")
	}
	check := pace
	check.Verify = &schema.Verify{Exec: &schema.ExecProbe{Command: []string{"x"}}}
	s.policy(exclude, &check)
	if four := spec(); four.Content != two.Content || four.Fingerprint == two.Fingerprint {
		t.Error("another check is to make verdicts void, and is no new content")
	}
	// What the version is, is content; what the default is, verdicts rest on.
	s.put("0.yaml", strings.Replace(shardBase, "address: 10.9.1.1,", "address: 10.9.1.3,", 1))
	five := spec()
	if five.Content != two.Content || five.Fingerprint == two.Fingerprint {
		t.Error("another v1 is no new content, but verdicts rest on it")
	}
	s.put("0.yaml", strings.Replace(shardBase, "address: 10.9.1.2,", "address: 10.9.1.3,", 1))
	if six := spec(); six.Content == two.Content || six.Identity != two.Identity {
		t.Error("another v2 is new content, and the same rollout")
	}
	s.policy("", nil)
	if spec() != nil || len(s.c.Rollouts()) != 0 {
		t.Error("a rollout is left")
	}
}

// pacedRollout is a rollout with a check, in batches such as "1 5 25% 100%".
func pacedRollout(batches string, change ...func(*schema.Rollout)) *schema.Rollout {
	r := rolloutOf()
	r.Batches = nil
	for word := range strings.FieldsSeq(batches) {
		var b schema.Batch
		if err := b.UnmarshalText([]byte(word)); err != nil {
			panic(err)
		}
		r.Batches = append(r.Batches, b)
	}
	r.Verify = &schema.Verify{Exec: &schema.ExecProbe{Command: []string{"check"}}}
	for _, f := range change {
		f(r)
	}
	return r
}

// verdictOf is how a probe ended.
func verdictOf(p rollout.Probe, passed bool, dead ...string) rollout.Verdict {
	return rollout.Verdict{Network: p.Network, Fingerprint: p.Fingerprint, Generation: p.Generation, Attempt: p.Attempt, Baseline: p.Baseline, Passed: passed, Dead: dead, Evidence: dead}
}
