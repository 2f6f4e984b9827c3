package p4rt

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
	"github.com/gray-release/gray/tools/testnet"
)

// TestForeignEntries adds 5,000 entries to a switch of a dozen resources: the guard never
// counts them as live. Drift is corrected in one cycle, a commit is applied, and an abort
// ends at the default version, all under the default guard.
func TestForeignEntries(t *testing.T) {
	sw := newLab(t)
	routes := ""
	for _, a := range addresses(0, 4) {
		routes += fmt.Sprintf("  - {vm: vm-%s, prefix: %s/32, mac: \"02:00:00:00:00:09\", vtep: 192.0.2.9}\n", strings.ReplaceAll(a, ".", "-"), a)
	}
	base := []string{
		switchDoc("sw", sw.address), gatewayDoc("sw"), networkDoc(1),
		head + "kind: Network\nmetadata: {name: n2}\nspec:\n  vni: 2\n  account: y\n  routes:\n" + routes,
	}
	shard := policyDoc("shard", "flow: {vni: 9}") + "  rollout: {networks: [n2], batches: [1, 50%, 100%], approval: batch}\n"
	l := newGuardedLoop(t, 30, nil, append(base, vmsDoc(1, addresses(0, 2)...), shard)...)
	l.settle()
	o := newOther(t, sw.client(), "other", &p4v1.Uint128{Low: 1})
	intrude := func() {
		t.Helper()
		var all []*p4v1.Update
		for i := range 5000 {
			all = append(all, updateOf(p4v1.Update_INSERT, entryOf(vmBody(pipeline.TableVMSrcV4, uint32(5000+i), "10.0.0.1"))))
		}
		o.write(all...)
	}
	keysOf := func() []string { return slices.Sorted(maps.Keys(entriesAt(t, sw))) }
	before := keysOf()

	intrude()
	l.look()
	if after := keysOf(); !slices.Equal(after, before) {
		t.Errorf("after one cycle %d entries are there, want the %d of before", len(after), len(before))
	}

	intrude()
	if err := l.ObserveAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.adopt(append(base, vmsDoc(1, addresses(0, 1)...), shard)...)
	l.settle()
	if after := keysOf(); len(after) != len(before)-2 {
		t.Errorf("after a commit that takes two away %d entries are there, %d were", len(after), len(before))
	}

	who := rollout.Verb{Verb: rollout.VerbPromote, Who: "ann"}
	for _, moved := range []int{1, 2} {
		if _, err := l.Do(t.Context(), "shard", who); err != nil {
			t.Fatal(err)
		}
		testnet.Eventually(t, l.log.String, func() bool {
			all, _, err := l.Rollouts(t.Context(), "shard")
			return err == nil && all[0].Moved == moved && len(all[0].Gates) > 0
		})
	}
	intrude()
	if _, err := l.Do(t.Context(), "shard", rollout.Verb{Verb: rollout.VerbAbort, Who: "ann"}); err != nil {
		t.Fatal(err)
	}
	testnet.Eventually(t, l.log.String, func() bool {
		all, _, err := l.Rollouts(t.Context(), "shard")
		return err == nil && all[0].Phase == rollout.PhaseRolledBack
	})
	l.look()
	if after := keysOf(); len(after) != len(before)-2 {
		t.Errorf("after the abort %d entries are there, want %d: everybody at the default, and nobody else's", len(after), len(before)-2)
	}
}
