package p4rt

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

const benchEntries = 50_000

// vmRules are rules for single addresses of one VPC.
func vmRules(self *reconciler.Resource, n int, pool uint8) []reconciler.Change {
	all := make([]reconciler.Change, n)
	for i := range all {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		m := vniOnly(1001)
		m.Src = netip.PrefixFrom(a, 32)
		b := &ruleBody{table: pipeline.TableVMSrcV4, vip: 1, pool: pool, match: m}
		key := reconciler.Key{Target: self.Target, Kind: "gray_vm_src_v4", Name: b.name()}
		all[i] = reconciler.Change{New: &reconciler.Resource{Key: key, Rank: rankRule, Body: b}}
	}
	return all
}

// bucketPools are pools that have so many buckets together.
func bucketPools(self *reconciler.Resource, n int) []reconciler.Change {
	const size = 1024
	var all []*reconciler.Resource
	for i := range n / size {
		all = append(all, pool(self, uint8(i+1), size, 1, 2, 3, 4, 5, 6, 7))
	}
	return creates(all...)
}

// BenchmarkWrite50k writes 50,000 entries through Apply, and the same batches, made
// beforehand, in a bare loop. The ratio of the two rates must be at least 0.9.
func BenchmarkWrite50k(b *testing.B) {
	for _, c := range []struct {
		name string
		make func(*reconciler.Resource) []reconciler.Change
	}{
		{"rules", func(self *reconciler.Resource) []reconciler.Change { return vmRules(self, benchEntries, 2) }},
		{"buckets", func(self *reconciler.Resource) []reconciler.Change { return bucketPools(self, benchEntries) }},
	} {
		b.Run(c.name, func(b *testing.B) { benchWrite(b, c.make) })
	}
}

// pairs is how many times each is measured at least. The medians are compared, as
// single measurements vary with the load of the machine.
const pairs = 11

func benchWrite(b *testing.B, makeChanges func(*reconciler.Resource) []reconciler.Change) {
	l := newLab(b)
	s := newSink(b, 1)
	self := l.load(s)
	changes := makeChanges(self)
	batches := capture(b, l, s, self, changes)
	total := 0
	for _, req := range batches {
		total += len(req.GetUpdates())
	}
	d, err := s.device(self)
	if err != nil {
		b.Fatal(err)
	}
	bare := func() {
		for _, req := range batches {
			if _, err := d.client.Write(b.Context(), req); err != nil {
				b.Fatal(err)
			}
		}
	}
	sink := func() { mustApply(b, s, self, changes...) }
	// onEmpty runs one of them on an empty switch. The garbage of one must not be
	// collected in the time of the other.
	onEmpty := func(f func(), timed bool) time.Duration {
		mustApply(b, s, self, creates(self)...)
		runtime.GC()
		if timed {
			b.StartTimer()
			defer b.StopTimer()
		}
		began := time.Now()
		f()
		return time.Since(began)
	}
	var tookSink, tookBare []time.Duration
	pair := func(timed bool) {
		first := len(tookBare)%2 == 0 // in turn the one and the other comes first
		if first {
			tookBare = append(tookBare, onEmpty(bare, false))
		}
		tookSink = append(tookSink, onEmpty(sink, timed))
		if !first {
			tookBare = append(tookBare, onEmpty(bare, false))
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		pair(true)
		b.StartTimer()
	}
	for len(tookSink) < pairs {
		pair(false)
	}
	rate := func(took []time.Duration) float64 {
		slices.Sort(took)
		return float64(total) / took[len(took)/2].Seconds()
	}
	b.ReportMetric(rate(tookSink), "entries/s")
	b.ReportMetric(rate(tookBare), "bare-entries/s")
	b.ReportMetric(rate(tookSink)/rate(tookBare), "ratio")
}

// capture applies changes once and keeps the requests.
func capture(b *testing.B, l *lab, s *Sink, self *reconciler.Resource, changes []reconciler.Change) []*p4v1.WriteRequest {
	b.Helper()
	var mu sync.Mutex
	var batches []*p4v1.WriteRequest
	l.onWrite(func(_ context.Context, req *p4v1.WriteRequest) error {
		mu.Lock()
		batches = append(batches, proto.CloneOf(req))
		mu.Unlock()
		return nil
	})
	mustApply(b, s, self, changes...)
	l.hook.Store(nil)
	return batches
}

// BenchmarkObserve reads a switch of 50,000 entries back.
func BenchmarkObserve(b *testing.B) {
	l := newLab(b)
	s := newSink(b, 1)
	self := l.load(s)
	mustApply(b, s, self, vmRules(self, benchEntries, 2)...)
	b.ReportAllocs()
	for b.Loop() {
		state, err := s.Observe(b.Context(), self.Target, self)
		if err != nil || len(state) != benchEntries+1 {
			b.Fatal(len(state), err)
		}
	}
	b.ReportMetric(float64(benchEntries*b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkOneChange changes one rule on switches that hold few and many: its
// latency does not grow with them.
func BenchmarkOneChange(b *testing.B) {
	for _, n := range []int{100, benchEntries} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			l := newLab(b)
			s := newSink(b, 1)
			self := l.load(s)
			rules := vmRules(self, n, 2)
			mustApply(b, s, self, rules...)
			other := vmRules(self, 1, 3)[0]
			reads := l.reads.Load()
			b.ReportAllocs()
			for b.Loop() {
				mustApply(b, s, self, reconciler.Change{Old: rules[0].New, New: other.New})
				rules[0], other = other, rules[0]
			}
			if l.reads.Load() != reads {
				b.Error("a change reads from the switch")
			}
		})
	}
}
