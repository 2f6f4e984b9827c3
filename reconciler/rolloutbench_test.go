package reconciler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/schema"
	"github.com/gray-release/gray/stores/bolt"
)

// bigShard is a shard of so many VPCs of 1,000 VMs each on one gateway, and the
// policy that moves it by 250 VMs at a time.
func bigShard(vpcs int) schema.Files {
	var all []*schema.File
	for f := range repository(0).All() {
		all = append(all, f)
	}
	for n := 1; n <= vpcs; n++ {
		var b strings.Builder
		fmt.Fprintf(&b, api+"kind: Network\nmetadata: {name: n%04d, labels: {shard: s1}}\nspec:\n  account: \"%d\"\n  vni: %d\n  routes:\n", n, 50_000_000+n, n)
		for i := range 1000 {
			fmt.Fprintf(&b, "  - {vm: vm%d, prefix: 10.0.%d.%d/32, mac: \"02:00:00:00:%02x:%02x\", vtep: 192.0.2.%d}\n", i, i/250, i%250+1, i/250, i%250, 100+i%50)
		}
		all = append(all, file(fmt.Sprintf("networks/n%04d.yaml", n), b.String()))
	}
	return schema.NewFiles(append(all, file("policies/p.yaml", api+`kind: GrayPolicy
metadata: {name: p}
spec:
  targets: [{kind: Gateway, name: g0}, {kind: Service, name: s0}]
  version: v2
  rollout: {networkSelector: {shard: s1}, batches: [25%, 50%, 75%, 100%]}
`))...)
}

// BenchmarkRolloutLoop is all that the loop does about a batch of 250 VMs, its I/O to
// the switches apart: step, compile, lower, store (a file, with its fsync) and diff.
func BenchmarkRolloutLoop(b *testing.B) {
	for _, vpcs := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("units=%d", vpcs*1000), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "state.db")
			store, err := bolt.Open("file:" + path)
			if err != nil {
				b.Fatal(err)
			}
			defer store.Close()
			files := bigShard(vpcs)
			loop, err := reconciler.NewRollBench(sinks(b), store)
			if err != nil {
				b.Fatal(err)
			}
			loop.Done(follow(b, loop, 0, files))
			now := time.Unix(1e9, 0)
			batch := func() {
				loop.Roll(now)
				loop.Done(loop.Plan())
			}
			for range vpcs * 2 { // to the middle of it
				batch()
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n++; n > vpcs { // it goes round in the second half
					b.StopTimer()
					n = 0
					if err := loop.Say(rollout.VerbAbort, now); err != nil {
						b.Fatal(err)
					}
					for range 3 { // the switch, the accounts, and that both have confirmed
						batch()
					}
					if err := loop.Say(rollout.VerbRetry, now); err != nil {
						b.Fatal(err)
					}
					for range vpcs * 2 {
						batch()
					}
					b.StartTimer()
				}
				batch()
			}
			if info, err := os.Stat(path); err == nil {
				b.ReportMetric(float64(info.Size())/1e6, "store-MB")
			}
			stored := 0
			err = store.Load(reconciler.BucketRollouts, func(key string, v []byte) error {
				if strings.HasPrefix(key, reconciler.PrefixState) {
					stored += len(v)
				}
				return nil
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(stored), "state-bytes")
		})
	}
}

// BenchmarkRolloutStatus is the time that the status of a rollout of a million units
// takes of the loop, and of its caller.
func BenchmarkRolloutStatus(b *testing.B) {
	loop, err := reconciler.NewBench(sinks(b))
	if err != nil {
		b.Fatal(err)
	}
	loop.Done(follow(b, loop, 0, bigShard(1000)))
	for range 2000 {
		loop.Roll(time.Unix(1e9, 0))
		loop.Done(loop.Plan())
	}
	b.Run("loop", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			loop.Rollouts()
		}
	})
	b.Run("caller", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s := loop.Rollouts()()[0]; s.Total != 1_000_000 || s.Moved < s.Total/4 {
				b.Fatalf("%d of %d have moved", s.Moved, s.Total)
			}
		}
	})
}
