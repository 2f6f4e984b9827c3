package softswitch

import (
	"bytes"
	"testing"
)

// FuzzProcess gives the gateway any bytes. It never panics, counts each drop once, and
// what it sends differs from what it received only in the next hop.
func FuzzProcess(f *testing.F) {
	for _, p := range packets() {
		f.Add(p.frame)
		f.Add(p.frame[:len(p.frame)-p.rest])
	}
	s := New(device)
	if err := s.load(gateway()...); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := total(s.Stats().Dropped)
		port, out, ok := s.Process(bytes.Clone(frame))
		if dropped := total(s.Stats().Dropped) - before; ok == (dropped != 0) || dropped > 1 {
			t.Fatalf("sent %t, %d drops counted", ok, dropped)
		}
		if !ok {
			return
		}
		if port < 1 || port > 5 || len(out) != len(frame) {
			t.Fatalf("port %d, %d bytes of %d", port, len(out), len(frame))
		}
		if !bytes.Equal(out[12:], frame[12:]) || out[5] != byte(port) || out[6] != 11 {
			t.Fatalf("came in %x\nwent out %x", frame, out)
		}
	})
}
