package reconciler

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// TestDryRunOfRollouts holds what a dry run says of a commit that lets a rollout go
// on, of one that ends it, and of one that begins another: what the loop then does
// at once is what the plan said.
func TestDryRunOfRollouts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		g := startRoll(t, newWorld(t), newKeeper())
		plan := func(docs ...string) string {
			t.Helper()
			p, err := g.DryRun(t.Context(), &schema.Snapshot{Revision: "next", Files: files(docs...)})
			if err != nil {
				t.Fatal(err)
			}
			return p.String() + strings.Join(append(p.Rollouts, ""), "\n")
		}
		want := func(docs []string, text string) {
			t.Helper()
			if diff := cmp.Diff(text, plan(docs...)); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		}
		none := shard("batches: [1, 50%, 100%]")[:5]
		g.commit("c0", none...)
		first := shard("batches: [1, 50%, 100%], through: {network: n1, batch: 1}")
		want(first, `+ mem/sw rule 1/10.0.1.1: -> v2  # f.yaml:7
+ web account 10: -> v2
+ rollout p: to v2 of Gateway/gw, Service/api; moves 8 VMs of 2 Networks (n1, n2); batches 1, 50%, 100%; parallel 1; approval none; through batch 1 of n1; deadline 30m0s; onFailure rollback
> rollout p: Network n1 is next, 4 VMs
> rollout p: batch 1 of 3 of Network n1: 1 of 4 VMs
`)
		g.rules()
		g.commit("c1", first...)
		g.rules("rule 1/10.0.1.1: -> v2", "account 10: -> v2")
		want(first, "")
		second := shard("batches: [1, 50%, 100%], through: {network: n1, batch: 2}")
		want(second, `+ mem/sw rule 1/10.0.1.2: -> v2  # f.yaml:7
~ rollout p: through batch 1 of n1 -> batch 2 of n1
> rollout p: batch 2 of 3 of Network n1: 2 of 4 VMs
`)
		g.stands(rollout.PhasePaused, "ThroughReached", 1, 0)
		g.commit("c2", second...)
		g.stands(rollout.PhasePaused, "ThroughReached", 2, 0)
		want(none, `- mem/sw rule 1/10.0.1.1: -> v2  # f.yaml:7
- mem/sw rule 1/10.0.1.2: -> v2  # f.yaml:7
- web account 10: -> v2
- rollout p: to v2 of Gateway/gw, Service/api; moves 8 VMs of 2 Networks (n1, n2); batches 1, 50%, 100%; parallel 1; approval none; through batch 2 of n1; deadline 30m0s; onFailure rollback; all its units go to the default
`)
		held := append([]string(nil), second...)
		held[5] = strings.Replace(held[5], "version: v2", "suspend: true\n  version: v2", 1)
		want(held, "~ rollout p: suspend none -> true\n")
	})
}
