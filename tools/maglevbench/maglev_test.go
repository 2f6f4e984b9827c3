package maglevbench

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	cmtypes "github.com/cilium/cilium/pkg/clustermesh/types"
	"github.com/cilium/cilium/pkg/loadbalancer"
	"github.com/cilium/cilium/pkg/maglev"
	"github.com/cilium/hive/cell"

	"github.com/gray-release/gray/policies/packets"
)

// sizes are gray's number of buckets and the nearest prime, which Cilium wants.
var sizes = []struct {
	buckets int
	prime   uint
}{{16384, 16381}, {65536, 65537}}

const servers = 32

// gray returns a function that fills gray's table once.
func gray(buckets int) func() []uint16 {
	h := packets.Hash{Algorithm: "maglev", Buckets: buckets}
	backends := make([]packets.Backend, servers)
	for i := range backends {
		backends[i] = packets.Backend{Name: fmt.Sprintf("gw%d", i+1), Weight: 1}
	}
	slices.SortFunc(backends, func(a, b packets.Backend) int { return strings.Compare(a.Name, b.Name) })
	return func() []uint16 {
		table, _ := h.Fill(backends)
		return table
	}
}

// cilium returns a function that fills Cilium's table once.
func cilium(tb testing.TB, prime uint) func() []loadbalancer.BackendID {
	cfg := maglev.DefaultConfig
	cfg.TableSize = prime
	m := maglev.New(cfg, &cell.DefaultLifecycle{})
	if err := m.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = m.Stop(context.Background()) }) // its workers
	backends := make([]maglev.BackendInfo, servers)
	for i := range backends {
		addr := cmtypes.AddrClusterFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 0)
		backends[i] = maglev.BackendInfo{
			ID:     loadbalancer.BackendID(i + 1),
			Addr:   loadbalancer.NewL3n4Addr(loadbalancer.TCP, addr, 80, loadbalancer.ScopeExternal),
			Weight: 1,
		}
	}
	return func() []loadbalancer.BackendID { return m.GetLookupTable(slices.Values(backends)) }
}

func BenchmarkTable(b *testing.B) {
	for _, size := range sizes {
		b.Run(fmt.Sprintf("gray/buckets=%d", size.buckets), func(b *testing.B) {
			b.ReportAllocs()
			fill := gray(size.buckets)
			for b.Loop() {
				fill()
			}
		})
		b.Run(fmt.Sprintf("cilium/buckets=%d", size.prime), func(b *testing.B) {
			b.ReportAllocs()
			fill := cilium(b, size.prime)
			for b.Loop() {
				fill()
			}
		})
	}
}

// TestAtLeastAsFast holds gray to Cilium's time: the best of many rounds, taken
// in turns, as other work on the machine only ever makes a round slower.
func TestAtLeastAsFast(t *testing.T) {
	for _, size := range sizes {
		ours, theirs := gray(size.buckets), cilium(t, size.prime)
		best := [2]float64{}
		for range 5 {
			for i, f := range []func(){func() { ours() }, func() { theirs() }} {
				r := testing.Benchmark(func(b *testing.B) {
					for b.Loop() {
						f()
					}
				})
				ns := float64(r.T.Nanoseconds()) / float64(r.N)
				if best[i] == 0 || ns < best[i] {
					best[i] = ns
				}
			}
		}
		t.Logf("%d buckets: gray %.0f ns; %d: cilium %.0f ns", size.buckets, best[0], size.prime, best[1])
		if best[0] > best[1] {
			t.Errorf("gray fills %d buckets in %.0f ns, Cilium %d in %.0f ns", size.buckets, best[0], size.prime, best[1])
		}
	}
}
