package policies

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// workbench is a gateway whose policies are claims made by hand, so that they can be
// of any shape and there can be many.
type workbench struct {
	c      *Compiler
	claims []claim
}

func newWorkbench() *workbench {
	b := &workbench{c: NewCompiler(NewIDs(), nil)}
	b.c.set = schema.NewSet()
	gw := &packets.Gateway{
		Name: "gw", VIPs: []netip.Addr{netip.MustParseAddr("203.0.113.10")}, Switches: []string{"sw"},
		Default: "v1", DefaultPool: "v1", Hash: packets.Hash{Src: true, Buckets: 256, Algorithm: "maglev"},
	}
	for _, v := range []string{"v1", "v2", "v3"} {
		server := packets.Backend{Name: "a" + v, Ports: map[string]uint32{"sw": 1}, Weight: 1}
		gw.Pools = append(gw.Pools, packets.Pool{Version: v, Backends: []packets.Backend{server}, Buckets: make([]uint16, 256)})
	}
	b.c.ir.Put(gatewayUnit, gw)
	return b
}

// policy adds a policy; the first exclude boxes of it are what it excludes.
func (b *workbench) policy(version string, priority, exclude int, entries ...entry) {
	spec := &schema.PolicySpec{Version: version, Priority: priority}
	name := fmt.Sprintf("p%d", len(b.claims))
	doc := &schema.Document{Name: schema.Name{Kind: schema.KindPolicy, Name: name}, Position: schema.Position{Path: name + ".yaml", Line: 1}, Spec: spec}
	for i, e := range entries {
		b.claims = append(b.claims, claim{doc: doc, spec: spec, exclude: i < exclude, line: i + 1, box: e.box, percent: e.percent})
	}
}

// compile makes the tables; false where policies conflict.
func (b *workbench) compile() bool {
	for _, cl := range b.claims {
		n := Name{schema.KindGateway, "gw", anyVNI}
		if !cl.box.AnyVNI {
			n.Part = packets.VNIPart(cl.box.VNI)
		}
		b.c.claims[n] = append(b.c.claims[n], cl)
		b.c.touch(n)
	}
	b.c.setDefault("gw")
	for n := range b.c.dirty {
		b.c.compilePart(n)
	}
	for n := range b.c.dirtyBlends {
		b.c.compileBlend(n, true)
	}
	return len(b.c.errs) == 0
}

// rules is the number of rules by table name.
func (b *workbench) rules() map[string]int {
	count := map[string]int{}
	for _, u := range b.c.ir.units {
		if cell, ok := u.(*packets.Cell); ok {
			for i := range cell.Rules {
				count[cell.Rules[i].TableName()]++
			}
		}
	}
	return count
}

// fieldsOf makes random boxes and the packets that tell them apart.
type fieldsOf struct {
	box     func(*rand.Rand) packets.Match
	packets func(*rand.Rand, []claim) []packets.Packet
}

// smallFields is a world of 4096 packets: all of them are tried.
var smallFields = fieldsOf{
	box: func(r *rand.Rand) packets.Match {
		m := packets.AnyMatch
		if r.IntN(3) > 0 {
			m = packets.VNIMatch(uint32(1 + r.IntN(2)))
		}
		for _, p := range []*netip.Prefix{&m.Src, &m.Dst} {
			if r.IntN(3) == 0 {
				*p, _ = netip.AddrFrom4([4]byte{10, 0, 0, byte(r.IntN(8))}).Prefix(29 + r.IntN(4))
			}
		}
		for _, p := range []*packets.PortRange{&m.SrcPort, &m.DstPort} {
			if lo := r.IntN(4); r.IntN(3) == 0 {
				*p = packets.PortRange{uint16(lo), uint16(lo + r.IntN(4-lo))}
			}
		}
		m.Protocol = pick(r, int16(-1), -1, -1, 6)
		return m
	},
	packets: func(*rand.Rand, []claim) []packets.Packet { return smallPackets },
}

var smallPackets = func() (all []packets.Packet) {
	for i := range 1 << 12 {
		all = append(all, packets.Packet{
			VIP: netip.MustParseAddr("203.0.113.10"), VNI: 1 + uint32(i>>11), Protocol: []uint8{6, 17}[i>>10&1],
			Src: netip.AddrFrom4([4]byte{10, 0, 0, byte(i >> 7 & 7)}), Dst: netip.AddrFrom4([4]byte{10, 0, 0, byte(i >> 4 & 7)}),
			SrcPort: uint16(i >> 2 & 3), DstPort: uint16(i & 3),
		})
	}
	return all
}()

// fullFields is a world of all packets: those at the edges of the boxes are
// tried, in random combinations.
var fullFields = fieldsOf{
	box: func(r *rand.Rand) packets.Match {
		m := packets.AnyMatch
		if r.IntN(3) > 0 {
			m = packets.VNIMatch(uint32(r.IntN(3) * schema.MaxVNI / 2))
		}
		v6 := r.IntN(2) == 0
		for _, p := range []*netip.Prefix{&m.Src, &m.Dst} {
			if r.IntN(3) == 0 {
				*p = randomPrefix(r, v6)
			}
		}
		for _, p := range []*packets.PortRange{&m.SrcPort, &m.DstPort} {
			if r.IntN(3) == 0 {
				lo := r.IntN(65536) &^ 0xfff
				*p = packets.PortRange{uint16(lo), uint16(lo + 1<<(12+r.IntN(2)) - 1)}
				if p.Hi < p.Lo {
					p.Hi = 65535
				}
			}
		}
		m.Protocol = pick(r, int16(-1), -1, 6, 17, 255)
		return m
	},
	packets: func(r *rand.Rand, claims []claim) []packets.Packet {
		var all []packets.Packet
		for range 300 {
			a, b, c := &claims[r.IntN(len(claims))].box, &claims[r.IntN(len(claims))].box, &claims[r.IntN(len(claims))].box
			v6 := r.IntN(2) == 0
			p := packets.Packet{
				VIP: netip.MustParseAddr("203.0.113.10"), VNI: pick(r, a.VNI, b.VNI, c.VNI), Protocol: pick(r, uint8(a.Protocol), uint8(b.Protocol), 6, 17),
				Src: edge(r, pick(r, a.Src, b.Src), v6), Dst: edge(r, pick(r, a.Dst, c.Dst), v6),
				SrcPort: portEdge(r, pick(r, a.SrcPort, b.SrcPort)), DstPort: portEdge(r, pick(r, a.DstPort, c.DstPort)),
			}
			all = append(all, p)
		}
		return all
	},
}

// randomPrefix is one of few of each length, so that some are neighbours.
func randomPrefix(r *rand.Rand, v6 bool) netip.Prefix {
	a := netip.AddrFrom4([4]byte{10, 0, byte(r.IntN(4)), byte(r.IntN(4))})
	bits := 21 + r.IntN(12)
	if v6 {
		b := netip.MustParseAddr("2001:db8::").As16()
		b[6], b[15] = byte(r.IntN(4)), byte(r.IntN(4))
		a, bits = netip.AddrFrom16(b), pick(r, 46, 53, 54, 55, 56, 64, 126, 127, 128)
	}
	p, _ := a.Prefix(bits)
	return p
}

// edge is an address at an end of a prefix or just past it.
func edge(r *rand.Rand, p netip.Prefix, v6 bool) netip.Addr {
	if !p.IsValid() || p.Addr().Is6() != v6 {
		if v6 {
			return netip.MustParseAddr("2001:db8::1")
		}
		return netip.MustParseAddr("10.0.1.1")
	}
	last := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return pick(r, p.Addr(), p.Addr().Prev(), end, end.Next())
}

func portEdge(r *rand.Rand, p packets.PortRange) uint16 {
	return pick(r, p.Lo, p.Lo-1, p.Hi, p.Hi+1)
}

// tryPolicies compiles random policies and compares tables and claims.
func tryPolicies(t *testing.T, seed uint64, f fieldsOf) (saved int, ok bool) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	b := newWorkbench()
	entries := 0
	for range 1 + r.IntN(4) {
		boxes := make([]entry, 1+r.IntN(6))
		for i := range boxes {
			boxes[i] = entry{box: f.box(r), percent: pick(r, 100, 100, 100, 40)}
		}
		entries += len(boxes)
		b.policy(pick(r, "v1", "v2", "v3"), 1+r.IntN(5), pick(r, 0, 0, 1, 2), boxes...)
	}
	if !b.compile() {
		return 0, false
	}
	w := newWorld(t, b.c, b.c.ir)
	for _, p := range f.packets(r, b.claims) {
		pool := w.tables(p)
		if got, want := w.pool(pool), w.documents(p); got != want {
			var docs strings.Builder
			for _, cl := range b.claims {
				fmt.Fprintf(&docs, "%s priority %d exclude %v: %s, %d %% -> %s\n", cl.doc.Name.Name, cl.spec.Priority, cl.exclude, cl.box.String(), cl.percent, cl.spec.Version)
			}
			t.Fatalf("seed %d, %s: the tables say %s\n%s\n%s", seed, p, pool, docs.String(), dumpRules(b.c.ir))
		}
	}
	w.checkFlows(fmt.Sprint("seed ", seed))
	for _, n := range b.rules() {
		entries -= n
	}
	return entries, true
}

func TestReducedTablesMeanTheSame(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector finds nothing in it: one goroutine does all")
	}
	for name, f := range map[string]fieldsOf{"by exhaustion": smallFields, "at random": fullFields} {
		t.Run(name, func(t *testing.T) {
			valid := 0
			for seed := range uint64(600) {
				if _, ok := tryPolicies(t, seed, f); ok {
					valid++
				}
			}
			if valid < 300 {
				t.Errorf("only %d of 600 sets of policies did not conflict", valid)
			}
		})
	}
}

func FuzzReducedTablesMeanTheSame(f *testing.F) {
	f.Add(uint64(1), true)
	f.Fuzz(func(t *testing.T, seed uint64, small bool) {
		if small {
			tryPolicies(t, seed, smallFields)
		} else {
			tryPolicies(t, seed, fullFields)
		}
	})
}

// flow is a flow of VNI 1 from a prefix to a range of ports.
func flow(src string, lo, hi uint16) entry {
	m := packets.VNIMatch(1)
	if src != "" {
		m.Src = netip.MustParsePrefix(src)
	}
	m.DstPort = packets.PortRange{lo, hi}
	return entry{box: m, percent: 100}
}

var fewRules = []struct {
	name     string
	policies func(*workbench)
	want     []string
}{
	{"neighbouring prefixes", func(b *workbench) {
		b.policy("v2", 5, 0, flow("10.0.0.0/25", 80, 80), flow("10.0.1.0/24", 80, 80), flow("10.0.0.128/25", 80, 80))
	}, []string{"VNI 1, source 10.0.0.0/23, destination port 80 -> v2 p0.yaml:1"}},
	{"neighbouring and overlapping ports", func(b *workbench) {
		b.policy("v2", 5, 0, flow("", 81, 90), flow("", 0, 80), flow("", 85, 100))
	}, []string{"VNI 1, destination ports 0-100 -> v2 p0.yaml:1"}},
	{"ports with a gap", func(b *workbench) {
		b.policy("v2", 5, 0, flow("", 80, 80), flow("", 82, 82))
	}, []string{"VNI 1, destination port 80 -> v2 p0.yaml:1", "VNI 1, destination port 82 -> v2 p0.yaml:2"}},
	{"in two fields", func(b *workbench) {
		b.policy("v2", 5, 0, flow("10.0.0.0/25", 80, 80), flow("10.0.0.128/25", 80, 80), flow("10.0.0.0/25", 81, 81), flow("10.0.0.128/25", 81, 81))
	}, []string{"VNI 1, source 10.0.0.0/24, destination ports 80-81 -> v2 p0.yaml:1"}},
	{"of two policies", func(b *workbench) {
		b.policy("v2", 5, 0, flow("10.0.0.0/25", 80, 80))
		b.policy("v2", 5, 0, flow("10.0.0.128/25", 80, 80))
	}, []string{"VNI 1, source 10.0.0.0/24, destination port 80 -> v2 p0.yaml:1"}},
	{"hidden by two higher ones together", func(b *workbench) {
		b.policy("v2", 9, 0, flow("10.0.0.0/25", 0, 99))
		b.policy("v3", 8, 0, flow("10.0.0.128/25", 0, 99))
		b.policy("v1", 5, 0, flow("10.0.0.0/24", 80, 80))
		b.policy("v3", 4, 0, flow("10.0.0.0/24", 90, 90))
	}, []string{
		"VNI 1, source 10.0.0.0/25, destination ports 0-99 -> v2 p0.yaml:1",
		"VNI 1, source 10.0.0.128/25, destination ports 0-99 -> v3 p1.yaml:1",
	}},
	{"what lower ones do", func(b *workbench) {
		b.policy("v2", 9, 0, flow("10.0.0.0/24", 80, 80))
		b.policy("v2", 5, 0, flow("10.0.0.0/25", 0, 99))
		b.policy("v2", 4, 0, flow("10.0.0.0/16", 50, 120))
	}, []string{
		"VNI 1, source 10.0.0.0/25, destination ports 0-99 -> v2 p1.yaml:1",
		"VNI 1, source 10.0.0.0/16, destination ports 50-120 -> v2 p2.yaml:1",
	}},
	{"what the default does", func(b *workbench) {
		b.policy("v1", 9, 0, flow("10.0.0.0/24", 80, 80))
		b.policy("v2", 5, 0, flow("10.0.1.0/24", 80, 80))
	}, []string{"VNI 1, source 10.0.1.0/24, destination port 80 -> v2 p1.yaml:1"}},
	{"of the whole VPC", func(b *workbench) {
		b.policy("v2", 9, 0, flow("10.0.0.0/24", 80, 80), flow("10.0.0.5/32", 0, 65535))
		b.policy("v2", 5, 0, entry{box: packets.VNIMatch(1), percent: 100})
	}, []string{"VNI 1 -> v2 p2.yaml:1"}},
	{"not past another", func(b *workbench) {
		b.policy("v2", 9, 0, flow("10.0.0.0/25", 80, 80))
		b.policy("v3", 8, 0, flow("10.0.0.0/24", 80, 443))
		b.policy("v2", 7, 0, flow("10.0.0.128/25", 80, 80), flow("10.0.0.128/25", 444, 444))
	}, []string{
		"VNI 1, source 10.0.0.0/25, destination port 80 -> v2 p0.yaml:1",
		"VNI 1, source 10.0.0.0/24, destination ports 80-443 -> v3 p1.yaml:1",
		"VNI 1, source 10.0.0.128/25, destination port 444 -> v2 p2.yaml:2",
	}},
}

func TestFlowRulesAreFew(t *testing.T) {
	for _, test := range fewRules {
		b := newWorkbench()
		test.policies(b)
		if !b.compile() {
			t.Fatalf("%s: %v", test.name, b.c.errs)
		}
		var got []string
		if cell, ok := b.c.ir.Get(Name{schema.KindGateway, "gw", "vni/1"}).(*packets.Cell); ok {
			for _, r := range cell.Rules {
				if !r.IPv6 {
					got = append(got, fmt.Sprintf("%s -> %s %s", r.Match.String(), r.Pool, r.Origin))
				}
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s:\n%s\nwant\n%s", test.name, strings.Join(got, "\n"), strings.Join(test.want, "\n"))
		}
	}
}

// A rule that names no VNI is copied into a VNI whose rule of the same priority
// disagrees; where the VNI has a rule for the same packets already, that counts.
func TestCopiesRepeatNoRule(t *testing.T) {
	b := newWorkbench()
	wild, vm := packets.AnyMatch, packets.VNIMatch(1)
	wild.Src = netip.MustParsePrefix("10.0.0.1/32")
	vm.Src = wild.Src
	b.policy("v3", 5, 1, entry{box: vm, percent: 100}, entry{box: wild, percent: 100})
	b.policy("v2", 5, 0, entry{box: packets.VNIMatch(1), percent: 100})
	if !b.compile() {
		t.Fatal(b.c.errs)
	}
	w := newWorld(t, b.c, b.c.ir)
	if got := fmt.Sprint(b.rules()); got != "map[gray_flow_v4:2 gray_vpc:1]" {
		t.Errorf("%s\n%s", got, dumpRules(b.c.ir))
	}
	for src, want := range map[string]string{"10.0.0.1": "v2", "10.0.0.2": "v2"} {
		p := packets.Packet{VIP: w.gw.VIPs[0], VNI: 1, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr("10.0.0.9")}
		if got := packets.Follow(b.c.ir, "sw", p).Pool; got != want {
			t.Errorf("%s goes to %s, want %s", src, got, want)
		}
	}
}

// entry is one entry of a policy of a workbench.
type entry struct {
	box     packets.Match
	percent int
}
