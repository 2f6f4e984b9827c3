package p4rt

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// fullSwitch is what a full switch holds, or a part of it: 65,536 VM entries, 2,048
// flow rules and 16 pools of 16,384 buckets each.
func fullSwitch(self *reconciler.Resource, part int) (changes []reconciler.Change, entries int) {
	const pools, buckets = 16, 16_384
	var all []*reconciler.Resource
	add := func(entries int, r *reconciler.Resource) int {
		all = append(all, r)
		return entries
	}
	n := 0
	for i := range uint16(32) {
		n += add(1, resourceOf(self, &backendBody{id: i, port: uint32(i), dstMAC: [6]byte{2, 0, 0, 0, 0, byte(i)}}))
	}
	for i := range pools / min(part, pools) {
		n += add(1+buckets, pool(self, uint8(i+1), buckets, 0, 1, 2, 3, 4, 5, 6, 7))
	}
	for i := range 65_536 / 2 / part {
		for _, vm := range oneVM(self, i) {
			n += add(1, vm)
		}
	}
	for i := range 2048 / part {
		src := netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), 32)
		m := packets.Match{VNI: uint32(i), Protocol: 6, Src: src, SrcPort: anyPorts, DstPort: packets.PortRange{Lo: 443, Hi: 443}}
		n += add(1, resourceOf(self, &ruleBody{table: pipeline.TableFlowV4, vip: 1, pool: 2, priority: int32(i + 1), match: m}))
	}
	return creates(all...), n
}

// oneVM is the two entries of a VM.
func oneVM(self *reconciler.Resource, i int) []*reconciler.Resource {
	a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	return []*reconciler.Resource{
		resourceOf(self, vmBody(pipeline.TableVMSrcV4, 1001, a)), resourceOf(self, vmBody(pipeline.TableVMDstV4, 1001, a)),
	}
}

// BenchmarkFullSwitch programs a full switch from nothing.
func BenchmarkFullSwitch(b *testing.B) {
	l := newLab(b)
	s := newSink(b, 1)
	self := l.load(s)
	changes, entries := fullSwitch(self, 1)
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		l.load(s) // empties the switch
		b.StartTimer()
		if err := s.Apply(b.Context(), self, changes); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(entries), "entries")
	b.ReportMetric(float64(entries*b.N)/b.Elapsed().Seconds(), "entries/s")
}

// BenchmarkOneVM adds and removes one VM on a switch that is full, and on one that
// holds a sixteenth: it writes two entries, reads nothing, and takes as long.
func BenchmarkOneVM(b *testing.B) {
	for _, part := range []int{16, 1} {
		b.Run(fmt.Sprintf("1of%d", part), func(b *testing.B) {
			l := newLab(b)
			s := newSink(b, 1)
			self := l.load(s)
			changes, entries := fullSwitch(self, part)
			if err := s.Apply(b.Context(), self, changes); err != nil {
				b.Fatal(err)
			}
			vm := oneVM(self, 1<<20)
			next, other := creates(vm...), deletes(vm...)
			before := l.calls()
			runtime.GC() // or what the programming left is cleaned up in the time of the changes
			b.ReportAllocs()
			for b.Loop() {
				mustApply(b, s, self, next...)
				next, other = other, next
			}
			n := int64(b.N)
			if got := l.calls().since(before); got != (calls{n, 2 * n, 0}) {
				b.Errorf("%d changes made the calls %+v", n, got)
			}
			b.ReportMetric(float64(entries), "entries")
			b.ReportMetric(float64(b.Elapsed())/float64(time.Microsecond)/float64(n), "us/change")
		})
	}
}

// BenchmarkFlip changes all 16,384 buckets of a pool by its other generation, on a
// full switch: they are written, read back, and the old ones cleared.
func BenchmarkFlip(b *testing.B) {
	l := newLab(b)
	s := newSink(b, 1)
	self := l.load(s)
	changes, _ := fullSwitch(self, 1)
	if err := s.Apply(b.Context(), self, changes); err != nil {
		b.Fatal(err)
	}
	const buckets = 16_384
	old, now := pool(self, 1, buckets, 0, 1, 2, 3, 4, 5, 6, 7), pool(self, 1, buckets, 8, 9, 10, 11)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Apply(b.Context(), self, []reconciler.Change{{Old: old, New: now}}); err != nil {
			b.Fatal(err)
		}
		old, now = now, old
	}
	b.ReportMetric(float64(buckets*b.N)/b.Elapsed().Seconds(), "buckets/s")
}
