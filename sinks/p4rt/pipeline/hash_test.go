package pipeline

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
)

// equation is how Tofino makes one bit of the hash: of a constant and of bits of
// the fields, all by exclusive or.
type equation struct {
	constant uint32
	bits     map[string]uint32 // by field
}

// equations reads what the assembler printed of the hash: for each bit a line a
// hash table, of which there are two; both have the constant.
func equations(t *testing.T) map[int]equation {
	t.Helper()
	b, err := os.ReadFile("gray_tna.hash.txt")
	if err != nil {
		t.Fatal(err)
	}
	all := map[int]equation{}
	for line := range strings.Lines(string(b)) {
		result, terms, ok := strings.Cut(strings.TrimSpace(line), " = ")
		bit, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(result, "result["), "]"))
		if !ok || err != nil {
			t.Fatalf("this is no equation: %s", line)
		}
		e, had := all[bit]
		if !had {
			e.bits = map[string]uint32{}
		}
		for term := range strings.SplitSeq(terms, " ^ ") {
			field, index, isBit := strings.Cut(strings.TrimSuffix(term, "]"), "[")
			n, err := strconv.Atoi(index)
			switch {
			case !isBit && (term == "0" || term == "1"):
				if constant := uint32(term[0] - '0'); had && constant != e.constant {
					t.Fatalf("bit %d has two constants", bit)
				} else {
					e.constant = constant
				}
			case err != nil || !strings.HasPrefix(field, "m.hash_") || e.bits[field]>>n&1 != 0:
				t.Fatalf("bit %d has the term %q", bit, term)
			default:
				e.bits[field] |= 1 << n
			}
		}
		all[bit] = e
	}
	return all
}

// TestTofinoHashesAlike compares the hash of Tofino's assembler with that of the flow
// model and the software gateway, in all 16 bits that can select a bucket.
func TestTofinoHashesAlike(t *testing.T) {
	bits := equations(t)
	if len(bits) != 16 {
		t.Fatalf("the hash has %d bits, want 16", len(bits))
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		f := packets.HashFields{VNI: r.Uint32() >> 8, Src: r.Uint32(), Dst: r.Uint32(), Protocol: uint8(r.Uint32()), SrcPort: uint16(r.Uint32()), DstPort: uint16(r.Uint32())}
		if i%2 == 0 { // few bits, so that what is wrong shows where
			f = f.Masked(packets.HashFields{VNI: 1 << (i % 24), Src: 1 << (i % 32), Dst: 1 << (i % 31), Protocol: 1 << (i % 8), SrcPort: 1 << (i % 16), DstPort: 1 << (i % 15)})
		}
		values := map[string]uint32{
			"m.hash_vni": f.VNI, "m.hash_src": f.Src, "m.hash_dst": f.Dst, "m.hash_protocol": uint32(f.Protocol),
			"m.hash_src_port": uint32(f.SrcPort), "m.hash_dst_port": uint32(f.DstPort),
		}
		var got uint32
		for bit, e := range bits {
			one := e.constant
			for field, mask := range e.bits {
				for v := values[field] & mask; v != 0; v &= v - 1 {
					one ^= 1
				}
			}
			got |= one << bit
		}
		if want := f.Sum() & 0xffff; got != want {
			t.Fatalf("%+v: Tofino has %#04x, the flow model %#04x", f, got, want)
		}
	}
}
