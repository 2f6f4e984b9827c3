package p4rt

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/proto"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// padded is an entry as a sloppy switch returns it.
func padded(e *p4v1.TableEntry) *p4v1.TableEntry {
	e = proto.CloneOf(e)
	pad := func(b *[]byte) { *b = append([]byte{0, 0}, *b...) }
	given := map[uint32]bool{}
	for _, m := range e.GetMatch() {
		given[m.GetFieldId()] = true
		switch v := m.GetFieldMatchType().(type) {
		case *p4v1.FieldMatch_Exact_:
			pad(&v.Exact.Value)
		case *p4v1.FieldMatch_Ternary_:
			pad(&v.Ternary.Value)
			pad(&v.Ternary.Mask)
		case *p4v1.FieldMatch_Range_:
			pad(&v.Range.Low)
			pad(&v.Range.High)
		}
	}
	for _, p := range e.GetAction().GetAction().GetParams() {
		pad(&p.Value)
	}
	table := pipeline.Index().Tables[e.GetTableId()]
	for i := range table.Fields {
		f := &table.Fields[len(table.Fields)-1-i]
		switch {
		case given[f.ID]:
		case f.Kind.String() == "TERNARY":
			e.Match = append([]*p4v1.FieldMatch{ternary(f.ID, make([]byte, 3), make([]byte, 3))}, e.Match...)
		case f.Kind.String() == "RANGE":
			e.Match = append([]*p4v1.FieldMatch{ranged(f.ID, packets.PortRange{Hi: 65535})}, e.Match...)
		}
	}
	e.CounterData = &p4v1.CounterData{PacketCount: 5}
	e.Metadata = []byte("x")
	return e
}

// randomBodies makes a body of every kind.
func randomBodies(r *rand.Rand) []entryBody {
	mac := func() (m [6]byte) {
		for i := range m {
			m[i] = byte(r.IntN(4) * r.IntN(256))
		}
		return m
	}
	addr := func(v6 bool) netip.Addr {
		size := 4
		if v6 {
			size = 16
		}
		b := make([]byte, size)
		for i := range b {
			b[i] = byte(r.IntN(3) * r.IntN(256))
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	b16 := func() uint16 { return uint16(r.IntN(1 << (r.IntN(16) + 1))) }
	bodies := []entryBody{
		&backendBody{id: b16(), dstMAC: mac(), srcMAC: mac(), port: uint32(r.IntN(512))},
		&backendBody{id: b16(), dstMAC: mac(), srcMAC: mac(), port: uint32(r.IntN(512)), address: addr(false)},
		&backendBody{id: b16(), dstMAC: mac(), srcMAC: mac(), port: uint32(r.IntN(512)), address: addr(true)},
		&profileBody{profile: uint8(b16()), masks: [6]uint32{r.Uint32N(1 << 24), r.Uint32(), r.Uint32(), r.Uint32N(256), r.Uint32N(1 << 16), r.Uint32N(1 << 16)}},
		&vipBody{address: addr(false), vip: uint8(b16()), pool: uint8(b16()), profile: uint8(b16())},
		&vipBody{address: addr(true), vip: uint8(b16()), pool: uint8(b16()), profile: uint8(b16())},
		&ruleBody{table: pipeline.TableVPC, vip: uint8(b16()), pool: uint8(b16()), match: vniOnly(r.Uint32N(1 << 24))},
	}
	for v6, tables := range [][3]uint32{
		{pipeline.TableVMSrcV4, pipeline.TableVMDstV4, pipeline.TableFlowV4},
		{pipeline.TableVMSrcV6, pipeline.TableVMDstV6, pipeline.TableFlowV6},
	} {
		src, dst := vniOnly(r.Uint32N(1<<24)), vniOnly(r.Uint32N(1<<24))
		a := addr(v6 == 1)
		src.Src, dst.Dst = netip.PrefixFrom(a, a.BitLen()), netip.PrefixFrom(a, a.BitLen())
		bodies = append(bodies,
			&ruleBody{table: tables[0], vip: uint8(b16()), pool: uint8(b16()), match: src},
			&ruleBody{table: tables[1], vip: uint8(b16()), pool: uint8(b16()), match: dst},
			&ruleBody{table: tables[2], vip: uint8(b16()), pool: uint8(b16()), priority: 1 + r.Int32N(1<<24), match: randomMatch(r, func() netip.Addr { return addr(v6 == 1) })})
	}
	return bodies
}

// randomMatch is a flow as the compiler may make it, prefixes of no bits included.
func randomMatch(r *rand.Rand, addr func() netip.Addr) packets.Match {
	m := packets.Match{AnyVNI: r.IntN(2) == 0, VNI: r.Uint32N(1 << 24), Protocol: int16(r.IntN(257)) - 1, SrcPort: packets.PortRange{Hi: 65535}, DstPort: packets.PortRange{Hi: 65535}}
	for _, p := range []*netip.Prefix{&m.Src, &m.Dst} {
		if a := addr(); r.IntN(3) > 0 {
			*p = netip.PrefixFrom(a, r.IntN(a.BitLen()+1)).Masked()
		}
	}
	for _, p := range []*packets.PortRange{&m.SrcPort, &m.DstPort} {
		if r.IntN(2) == 0 {
			p.Lo = uint16(r.IntN(65536))
			p.Hi = p.Lo + uint16(r.IntN(65536-int(p.Lo)))
		}
	}
	return canonical(m)
}

// TestRoundTrip encodes bodies and reads them back, as they were written and as
// sloppy switches return them.
func TestRoundTrip(t *testing.T) {
	for seed := range uint64(100) {
		r := rand.New(rand.NewPCG(seed, 1))
		others := randomBodies(rand.New(rand.NewPCG(seed, 2)))
		for i, b := range randomBodies(r) {
			names := map[string]bool{}
			for _, e := range []*p4v1.TableEntry{entryOf(b), padded(entryOf(b))} {
				got, name := decode(e, new(block))
				if !got.Equal(b) || !b.Equal(got) {
					t.Fatalf("seed %d: wrote %#v, read %#v", seed, b, got)
				}
				if again, ok := got.(entryBody); !ok || !proto.Equal(entryOf(again), entryOf(b)) {
					t.Fatalf("seed %d: %#v becomes another entry", seed, got)
				}
				names[name] = true
			}
			if len(names) != 1 || names[""] {
				t.Fatalf("seed %d: names %v", seed, names)
			}
			if got, _ := decode(entryOf(others[i]), new(block)); b.Equal(got) != proto.Equal(entryOf(b), entryOf(others[i])) {
				t.Fatalf("seed %d: %#v equal to %#v: %t", seed, b, others[i], b.Equal(got))
			}
		}
	}
}

// TestForeignKeys reads entries with gray's match and another action: they get the name
// of gray's own entry, so that they are modified instead of deleted.
func TestForeignKeys(t *testing.T) {
	own := &ruleBody{table: pipeline.TableVPC, vip: 1, pool: 2, match: vniOnly(7)}
	_, want := decode(entryOf(own), new(block))
	for name, change := range map[string]func(*p4v1.TableEntry){
		"no action":      func(e *p4v1.TableEntry) { e.Action = nil },
		"another action": func(e *p4v1.TableEntry) { e.GetAction().GetAction().ActionId = pipeline.ActionFlowPoolV4 },
		"no parameter":   func(e *p4v1.TableEntry) { e.GetAction().GetAction().Params = nil },
		"wide parameter": func(e *p4v1.TableEntry) { e.GetAction().GetAction().Params[0].Value = []byte{1, 2} },
		"second parameter": func(e *p4v1.TableEntry) {
			e.Action.GetAction().Params = append(e.Action.GetAction().Params, &p4v1.Action_Param{ParamId: 2, Value: []byte{1}})
		},
		"member": func(e *p4v1.TableEntry) {
			e.Action = &p4v1.TableAction{Type: &p4v1.TableAction_ActionProfileMemberId{ActionProfileMemberId: 1}}
		},
	} {
		e := entryOf(own)
		change(e)
		body, got := decode(e, new(block))
		raw, ok := body.(*rawBody)
		if !ok || got != want || raw.Equal(own) || own.Equal(raw) || !proto.Equal(entryOf(raw), e) {
			t.Errorf("%s: %T under the name %q, want a raw one under %q", name, body, got, want)
			continue
		}
		res := &reconciler.Resource{Key: reconciler.Key{Target: "p4rt/x", Kind: "gray_vpc", Name: got}, Rank: rankRule, Body: raw}
		now := &reconciler.Resource{Key: res.Key, Rank: rankRule, Body: own}
		for u := range updatesOf([]reconciler.Change{{Old: res, New: now}}, phaseFill, newRoom) {
			if u.proto.GetType() != p4v1.Update_MODIFY || !proto.Equal(u.proto.GetEntity().GetTableEntry(), entryOf(own)) {
				t.Errorf("%s: put right by %v", name, u.proto)
			}
		}
	}
	for name, change := range map[string]func(*p4v1.TableEntry){
		"missing field": func(e *p4v1.TableEntry) { e.Match = e.Match[:1] },
		"priority":      func(e *p4v1.TableEntry) { e.Priority = 5 },
		"ternary field": func(e *p4v1.TableEntry) { e.Match[1] = ternary(2, []byte{7}, []byte{255}) },
		"wide value":    func(e *p4v1.TableEntry) { e.Match[0].GetExact().Value = []byte{9, 1} },
		"field twice":   func(e *p4v1.TableEntry) { e.Match = append(e.Match, e.Match[0]) },
		"unknown fields": func(e *p4v1.TableEntry) {
			e.Match = append(e.Match, ternary(4, []byte{1}, []byte{1}))
		},
		"unknown table": func(e *p4v1.TableEntry) { e.TableId = 99 },
	} {
		e := entryOf(own)
		change(e)
		body, got := decode(e, new(block))
		if got == want || !proto.Equal(entryOf(body.(entryBody)), e) {
			t.Errorf("%s: %T under the name %q, would delete %v", name, body, got, entryOf(body.(entryBody)))
		}
	}
}

func newRoom() *block { return new(block) }

// FuzzDecode reads any entry: it never panics, gray's own entries encode to the same
// entry again, and others are deleted as they were read.
func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, b := range randomBodies(r) {
		for _, e := range []*p4v1.TableEntry{entryOf(b), padded(entryOf(b))} {
			raw, err := proto.Marshal(e)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw)
		}
	}
	stranger, err := proto.Marshal(&p4v1.TableEntry{TableId: 99, Match: []*p4v1.FieldMatch{ranged(1, packets.PortRange{Lo: 1, Hi: 2})}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(stranger)
	f.Fuzz(func(t *testing.T, b []byte) {
		e := new(p4v1.TableEntry)
		if proto.Unmarshal(b, e) != nil {
			return
		}
		before := proto.CloneOf(e)
		body, name := decode(e, new(block))
		if body == nil || name == "" || body.String() == "" || !body.Equal(body) {
			t.Fatalf("%T %q", body, name)
		}
		if !proto.Equal(before, e) {
			t.Fatal("decode changes what it reads")
		}
		switch own := body.(type) {
		case *rawBody:
			if !proto.Equal(entryOf(own), e) {
				t.Fatalf("read %v, would delete %v", e, entryOf(own))
			}
		case entryBody:
			if !proto.Equal(entryOf(own), normal(e)) || !sameKey(entryOf(own), normal(e)) {
				t.Fatalf("read %v, would write %v", e, entryOf(own))
			}
			if again, n := decode(entryOf(own), new(block)); n != name || !again.Equal(own) {
				t.Fatalf("%q becomes %q", name, n)
			}
		}
		r := &reader{target: "p4rt/x", state: reconciler.State{}, pools: map[uint8]*poolBody{}, buckets: map[bucketKey]uint32{}}
		r.add(e)
		r.finish()
		for _, res := range r.state {
			for phase := range phases {
				for u := range updatesOf([]reconciler.Change{{Old: res}}, phase, newRoom) {
					if u.proto.GetType() != p4v1.Update_DELETE {
						t.Fatalf("to be rid of %v: %v", e, u.proto)
					}
				}
			}
		}
	})
}
