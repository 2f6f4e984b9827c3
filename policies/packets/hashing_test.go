package packets

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// servers makes n backends of one weight, sorted by name.
func servers(prefix string, n int) []Backend {
	all := make([]Backend, n)
	for i := range all {
		all[i] = Backend{Name: fmt.Sprintf("%s%d", prefix, i+1), Weight: 1}
	}
	slices.SortFunc(all, func(a, b Backend) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func fill(algorithm string, buckets int, backends []Backend) []uint16 {
	table, _ := Hash{Algorithm: algorithm, Buckets: buckets}.Fill(backends)
	return table
}

// imbalance is the largest share of a table over the mean, by weight.
func imbalance(table []uint16, backends []Backend) float64 {
	count, weights := make([]int, len(backends)), 0
	for _, b := range table {
		count[b]++
	}
	for _, b := range backends {
		weights += b.Weight
	}
	worst := 0.0
	for i, b := range backends {
		worst = max(worst, float64(count[i])*float64(weights)/float64(len(table)*b.Weight))
	}
	return worst
}

// moved counts the buckets of a server that leaves and those of others that go
// to another server with it.
func moved(was, now []uint16, left int) (own, others int) {
	for i := range was {
		switch {
		case int(was[i]) == left:
			own++
		case was[i] != now[i]:
			others++
		}
	}
	return own, others
}

// The figures of the design: 32 servers, 16,384 buckets, one leaves.
func TestOneOf32Leaves(t *testing.T) {
	const buckets = 16384
	for _, prefix := range []string{"gw", "10.0.0.", "s47-"} { // plain steps fail on the last
		backends := servers(prefix, 32)
		for _, test := range []struct {
			algorithm string
			others    int     // how many buckets of others may move
			balance   float64 // largest share over the mean
		}{{"rendezvous", 0, 1.13}, {"maglev", buckets / 100, 1.00}} {
			was := fill(test.algorithm, buckets, backends)
			if got := imbalance(was, backends); got > test.balance+0.005 {
				t.Errorf("%s over %s1 to 32: the largest share is %.3f of the mean, want at most %.2f", test.algorithm, prefix, got, test.balance)
			}
			for left := range backends {
				gone := slices.Clone(backends)
				gone[left].Down = true
				now := fill(test.algorithm, buckets, gone)
				own, others := moved(was, now, left)
				if others > test.others || own < buckets/32*3/4 || slices.Contains(now, uint16(left)) {
					t.Errorf("%s: %s leaves its %d buckets and %d others move, want at most %d", test.algorithm, backends[left].Name, own, others, test.others)
				}
				// It is the same whether its document goes or its health.
				without := fill(test.algorithm, buckets, slices.Delete(slices.Clone(backends), left, left+1))
				for i := range now {
					if index := without[i]; int(now[i]) != int(index)+boolInt(int(index) >= left) {
						t.Fatalf("%s: bucket %d differs between a server that is down and one that is gone", test.algorithm, i)
					}
				}
			}
		}
	}
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

func TestWeightsShareTheBuckets(t *testing.T) {
	const buckets = 65536
	backends := servers("gw", 16)
	weights := 0
	for i := range backends {
		backends[i].Weight = []int{1, 2, 3, 10}[i%4]
		weights += backends[i].Weight
	}
	for _, algorithm := range []string{"maglev", "rendezvous"} {
		was, count := fill(algorithm, buckets, backends), make([]int, 16)
		for _, b := range was {
			count[b]++
		}
		for i, b := range backends {
			share := float64(b.Weight) / float64(weights)
			tolerance := 2.0 // of turns
			if algorithm == "rendezvous" {
				tolerance = 4 * math.Sqrt(buckets*share*(1-share))
			}
			if off := math.Abs(float64(count[i]) - buckets*share); off > tolerance {
				t.Errorf("%s: %s of weight %d has %d buckets, %.0f off", algorithm, b.Name, b.Weight, count[i], off)
			}
		}
		for left := range backends {
			gone := slices.Clone(backends)
			gone[left].Down = true
			_, others := moved(was, fill(algorithm, buckets, gone), left)
			if most := map[string]int{"maglev": buckets * 3 / 100}[algorithm]; others > most {
				t.Errorf("%s: %s of weight %d leaves and %d buckets of others move, want at most %d", algorithm, backends[left].Name, backends[left].Weight, others, most)
			}
		}
	}
}

// A server that changes its weight changes nobody's share but for its own.
func TestWeightsMoveOneWay(t *testing.T) {
	const buckets = 16384
	backends := servers("gw", 8)
	was := fill("rendezvous", buckets, backends)
	backends[3].Weight = 2
	now := fill("rendezvous", buckets, backends)
	for i := range was {
		if was[i] != now[i] && now[i] != 3 {
			t.Fatalf("bucket %d goes from %d to %d as the weight of 3 grows", i, was[i], now[i])
		}
	}
}

func TestFewServers(t *testing.T) {
	for _, algorithm := range []string{"maglev", "rendezvous"} {
		one := servers("gw", 1)
		if table := fill(algorithm, 256, one); slices.Max(table) != 0 {
			t.Errorf("%s over one server gives index %d", algorithm, slices.Max(table))
		}
		one[0].Down = true
		if table, kept := (Hash{Algorithm: algorithm, Buckets: 256}).Fill(one); kept != 1 || slices.Max(table) != 0 {
			t.Errorf("%s over one server that is down: %d are kept", algorithm, kept)
		}
		many := servers("gw", 4096)
		if table := fill(algorithm, 65536, many); imbalance(table, many) > 2.9 {
			t.Errorf("%s over 4096 servers: the largest share is %.2f of the mean", algorithm, imbalance(table, many))
		}
	}
}

func benchmarkFill(b *testing.B, algorithm string) {
	backends := servers("gw", 32)
	for _, buckets := range []int{16384, 65536} {
		b.Run(fmt.Sprintf("buckets=%d/servers=32", buckets), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				fill(algorithm, buckets, backends)
			}
		})
	}
}

func BenchmarkMaglev(b *testing.B)     { benchmarkFill(b, "maglev") }
func BenchmarkRendezvous(b *testing.B) { benchmarkFill(b, "rendezvous") }
