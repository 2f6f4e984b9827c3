package reconciler_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
)

// BenchmarkTurn is a turn of the loop without news, while rollouts wait for their
// batches to be live and 100,000 accounts of a Service that none of them is about are
// pending: a turn costs what changed.
func BenchmarkTurn(b *testing.B) {
	const pending = 100_000
	for _, rollouts := range []int{0, 1, 10} {
		b.Run(fmt.Sprintf("rollouts=%d", rollouts), func(b *testing.B) {
			var files []*schema.File
			add := func(path, text string) { files = append(files, file(path, text)) }
			add("services/busy.yaml", serviceText("busy"))
			for i := range rollouts {
				add(fmt.Sprintf("services/s%d.yaml", i), serviceText(fmt.Sprint("s", i)))
				add(fmt.Sprintf("networks/n%d.yaml", i), fmt.Sprintf(api+"kind: Network\nmetadata: {name: n%d}\nspec: {vni: %d, account: a%d, routes: [{vm: v, prefix: 10.0.0.1/32, mac: \"02:00:00:00:00:01\", vtep: 192.0.2.1}]}\n", i, i+1, i))
				add(fmt.Sprintf("policies/r%d.yaml", i), fmt.Sprintf(api+"kind: GrayPolicy\nmetadata: {name: r%d}\nspec:\n  targets: [{kind: Service, name: s%d}]\n  version: v2\n  rollout: {networks: [n%d]}\n", i, i, i))
			}
			for half := range 2 {
				var accounts strings.Builder
				for i := range pending / 2 {
					fmt.Fprintf(&accounts, "\"%d\", ", 50_000_000+half*pending/2+i)
				}
				add(fmt.Sprintf("policies/many%d.yaml", half), fmt.Sprintf(api+"kind: GrayPolicy\nmetadata: {name: many%d}\nspec:\n  targets: [{kind: Service, name: busy}]\n  version: v2\n  match:\n  - accounts: [%s]\n", half, accounts.String()))
			}
			loop, err := reconciler.NewBench(sinks(b))
			if err != nil {
				b.Fatal(err)
			}
			follow(b, loop, 0, schema.NewFiles(files...))
			loop.Roll(time.Now())
			if n := loop.Pending(); n < pending {
				b.Fatalf("%d resources are pending", n)
			}
			b.ReportAllocs()
			for b.Loop() {
				loop.Turn(b.Context())
			}
		})
	}
}

func serviceText(name string) string {
	return fmt.Sprintf(api+`kind: Service
metadata: {name: %s}
spec:
  hosts: [%s.internal]
  default: v1
  versions:
  - {name: v1, endpoints: [{address: 10.9.1.11, port: 8080}]}
  - {name: v2, endpoints: [{address: 10.9.1.12, port: 8080}]}
`, name, name)
}
