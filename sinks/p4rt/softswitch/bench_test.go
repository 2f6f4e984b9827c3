package softswitch

import (
	"fmt"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
)

// BenchmarkProcess runs packets through the gateway on one core, in memory: a
// flow, the exact rules alone, and with so many flow rules that none of them
// matches before.
func BenchmarkProcess(b *testing.B) {
	vm := in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(1, 2)))
	for _, c := range []struct {
		name  string
		rules int
		frame []byte
	}{
		{"flow", 0, in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443)))},
		{"vm", 0, vm},
		{"v6", 0, in6(1001, inner6("fd00::5", "fd00::6", tcp(1, 2)))},
		{"vm+2000rules", 2000, vm},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := New(device)
			entries := gateway()
			for i := range c.rules {
				entries = append(entries, flow(int32(100+i), 1, 2, ternary(2, num(uint64(5000+i)), num(1<<24-1))))
			}
			if err := s.load(entries...); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			b.SetBytes(int64(len(c.frame)))
			for b.Loop() {
				if _, _, ok := s.Process(c.frame); !ok {
					b.Fatal("dropped")
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "packets/s")
		})
	}
}

// BenchmarkServe writes batches of entries to the switch over loopback.
func BenchmarkServe(b *testing.B) {
	for _, size := range []int{100, 1000, 8000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			r := ready(b)
			var in, out []*p4v1.Update
			for i := range uint64(size) {
				in = append(in, insert(vpc(1, i, 2)))
				out = append(out, remove(vpc(1, i, 2)))
			}
			b.ReportAllocs()
			for b.Loop() {
				r.mustWrite(in...)
				r.mustWrite(out...)
			}
			b.ReportMetric(float64(2*size*b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
