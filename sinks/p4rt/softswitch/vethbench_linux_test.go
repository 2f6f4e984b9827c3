package softswitch

import (
	"runtime"
	"testing"
	"time"
)

// BenchmarkVeth sends bursts of frames through the gateway over veth interfaces;
// one goroutine reads the port that they come in by. It needs root.
func BenchmarkVeth(b *testing.B) {
	inNamespace(b)
	s := New(device)
	if err := s.load(gateway()...); err != nil {
		b.Fatal(err)
	}
	in := newWire(b, "in")
	newWire(b, "flows")
	for number, name := range map[uint32]string{9: "in", flowPool: "flows"} {
		if err := s.AttachInterface(number, name); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	frame := in4(1001, inner4("10.0.0.5", "10.0.0.6", tcp(40001, 443)))
	const burst = 64 // fits into the buffer of the port
	sent := uint64(0)
	b.ReportAllocs()
	b.SetBytes(int64(burst * len(frame)))
	for b.Loop() {
		for range burst {
			in.send(frame)
		}
		sent += burst
		for end := time.Now().Add(patience); s.stats.forwarded.Load() < sent; runtime.Gosched() {
			if time.Now().After(end) {
				b.Fatalf("%d frames were sent, and not all come through: %+v", sent, s.Stats())
			}
		}
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "packets/s")
}
