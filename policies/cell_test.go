package policies

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gray-release/gray/schema"
)

// The small world of the cell tests: every packet of it is tried.
var (
	worldVNIs  = []uint32{1, 2, 3}
	worldAddrs = []string{"10.0.0.1", "10.0.0.2", "10.0.1.1", "2001:db8::1"}
	worldPorts = []uint16{80, 81}
)

const worldBase = `
apiVersion: gray.dev/v1alpha1
kind: Switch
metadata: {name: sw}
spec: {address: "127.0.0.1:9559"}
---
apiVersion: gray.dev/v1alpha1
kind: Gateway
metadata: {name: gw}
spec:
  vips: [203.0.113.10, "2001:db8:ffff::1"]
  switches: [sw]
  default: v1
  hash: {buckets: 256}
  healthCheck: {icmp: {}}
  versions:
  - {name: v1, backends: [{name: a, address: 192.0.2.1, mac: "02:00:00:00:00:01", port: 1}]}
  - name: v2
    backends:
    - {name: b, address: 192.0.2.2, mac: "02:00:00:00:00:02", port: 2}
    - {name: b2, address: 192.0.2.4, mac: "02:00:00:00:00:04", port: 4}
  - {name: v3, backends: [{name: c, address: 192.0.2.3, mac: "02:00:00:00:00:03", port: 3}]}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n1, labels: {shard: s}}
spec: {vni: 1, account: x}
---
apiVersion: gray.dev/v1alpha1
kind: Network
metadata: {name: n2, labels: {shard: s}}
spec: {vni: 2, account: y}
`

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomEntry(r *rand.Rand) string {
	switch r.IntN(5) {
	case 0:
		return fmt.Sprintf("networks: [%s]", pick(r, "n1", "n2"))
	case 1:
		return "networkSelector: {shard: s}"
	case 2:
		return fmt.Sprintf("vms: [{network: %s, addresses: [%q]}]", pick(r, "n1", "n2"), pick(r, worldAddrs...))
	case 3:
		return fmt.Sprintf("accounts: [%s]", pick(r, "x", "y"))
	}
	var f []string
	if r.IntN(3) > 0 {
		f = append(f, fmt.Sprintf("vni: %d", pick(r, worldVNIs...)))
	}
	if r.IntN(2) == 0 {
		f = append(f, "src: "+pick(r, "10.0.0.0/24", "10.0.0.1/32", "10.0.0.0/16"))
	}
	if r.IntN(2) == 0 {
		f = append(f, "dst: "+pick(r, "10.0.0.0/24", "10.0.1.1/32"))
	}
	if r.IntN(2) == 0 || len(f) == 0 {
		f = append(f, "dstPort: "+pick(r, "80", "81", "80-90"))
	}
	return "flow: {" + strings.Join(f, ", ") + "}"
}

func randomPolicy(r *rand.Rand, name string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: gray.dev/v1alpha1\nkind: GrayPolicy\nmetadata: {name: %s}\nspec:\n", name)
	fmt.Fprintf(&b, "  targets: [{kind: Gateway, name: gw}]\n  version: %s\n  priority: %d\n  match:\n", pick(r, "v1", "v2", "v3"), pick(r, 1, 5, 9, 1000))
	for range 1 + r.IntN(3) {
		fmt.Fprintf(&b, "  - {%s}\n", randomEntry(r))
	}
	if r.IntN(2) == 0 {
		b.WriteString("  exclude:\n")
		for range 1 + r.IntN(2) {
			fmt.Fprintf(&b, "  - {%s}\n", randomEntry(r))
		}
	}
	return b.String()
}

func fileOf(name, text string) *schema.File {
	return &schema.File{Path: name, ID: text, Data: []byte(text)}
}

// meaning is what the documents say about a packet, read off them directly: the
// version of the highest policy that matches it and does not exclude it.
func meaning(c *Compiler, vni uint32, src, dst netip.Addr, port uint16) string {
	var groups []group
	for _, cl := range c.claims {
		for _, g := range groupClaims(cl) {
			groups = append(groups, g)
		}
	}
	in := func(ms []Match) bool {
		return slices.ContainsFunc(ms, func(m Match) bool { return m.Contains(vni, src, dst, 6, [2]uint16{1000, port}) })
	}
	verdict := map[string][2]bool{}
	specs := map[string]*schema.PolicySpec{}
	for _, g := range groups {
		v := verdict[g.doc.Name.Name]
		verdict[g.doc.Name.Name] = [2]bool{v[0] || in(g.matches), v[1] || in(g.exclude)}
		specs[g.doc.Name.Name] = g.spec
	}
	best, version := 0, "v1"
	for name, v := range verdict {
		if v[0] && !v[1] && specs[name].Priority > best {
			best, version = specs[name].Priority, specs[name].Version
		}
	}
	return version
}

// lookup asks the tables as the pipeline does.
func lookup(ir *IR, vni uint32, src, dst netip.Addr, port uint16) string {
	best := map[Table]*Rule{}
	for _, part := range []string{anyVNI, fmt.Sprintf("vni/%d", vni)} {
		cell, _ := ir.Get(Name{schema.KindGateway, "gw", part}).(*Cell)
		if cell == nil {
			continue
		}
		for i := range cell.Rules {
			r := &cell.Rules[i]
			hit := r.Match.Contains(vni, src, dst, 6, [2]uint16{1000, port}) && (r.Table == TableVPC || r.IPv6 == src.Is6())
			if hit && (best[r.Table] == nil || r.Priority > best[r.Table].Priority) {
				best[r.Table] = r
			}
		}
	}
	for t := TableFlow; t <= TableVPC; t++ {
		if best[t] != nil {
			return best[t].Version
		}
	}
	return "v1"
}

// checkWorld compares tables and documents for every packet of the small world,
// and holds that overlapping flow rules never share a priority.
func checkWorld(t *testing.T, c *Compiler, ir *IR, docs string) {
	t.Helper()
	for _, vni := range worldVNIs {
		for _, s := range worldAddrs {
			for _, d := range worldAddrs {
				src, dst := netip.MustParseAddr(s), netip.MustParseAddr(d)
				if src.Is4() != dst.Is4() {
					continue
				}
				for _, port := range worldPorts {
					want, got := meaning(c, vni, src, dst, port), lookup(ir, vni, src, dst, port)
					if got != want {
						t.Fatalf("vni %d, %s -> %s port %d: the tables say %s, the documents %s\n%s\n%s", vni, s, d, port, got, want, docs, dumpRules(ir))
					}
					packet := Packet{VIP: netip.MustParseAddr("203.0.113.10"), VNI: vni, Src: src, Dst: dst, Protocol: 6, SrcPort: 1000, DstPort: port}
					if trace := ir.TracePacket("sw", packet); trace.Pool != got {
						t.Fatalf("%s: the trace says %s, the tables %s\n%+v\n%s", packet, trace.Pool, got, trace.Steps, dumpRules(ir))
					}
				}
			}
		}
	}
	var flows []*Rule
	for _, u := range ir.units {
		if cell, ok := u.(*Cell); ok {
			for i := range cell.Rules {
				if r := &cell.Rules[i]; r.Table == TableFlow {
					flows = append(flows, r)
				}
			}
		}
	}
	for i, a := range flows {
		for _, b := range flows[:i] {
			if a.Priority == b.Priority && a.IPv6 == b.IPv6 && a.Match.overlaps(b.Match) {
				t.Fatalf("two overlapping flow rules have priority %d: %+v and %+v\n%s", a.Priority, a, b, docs)
			}
			if a.Priority < 1 || a.Priority >= 1<<24 {
				t.Fatalf("priority %d is out of range", a.Priority)
			}
		}
	}
}

func dumpRules(ir *IR) string {
	var b strings.Builder
	for n, u := range ir.units {
		if cell, ok := u.(*Cell); ok {
			for _, r := range cell.Rules {
				fmt.Fprintf(&b, "%s: table %d v6=%v prio %d %s -> %s (%s)\n", n, r.Table, r.IPv6, r.Priority, r.Match.describe(), r.Version, r.Policy)
			}
		}
	}
	return b.String()
}

// runWorld drives random commits through one compiler and holds after each that
// the tables mean what the documents say, and that a fresh compiler makes the
// same IR.
func runWorld(t *testing.T, seed uint64) (valid int) {
	r := rand.New(rand.NewPCG(seed, 1))
	set, c := schema.NewSet(), NewCompiler(NewIDs())
	files := schema.NewFiles(fileOf("base.yaml", worldBase))
	state := map[Name]any{}
	for range 6 {
		name := fmt.Sprintf("p%d", r.IntN(4))
		if r.IntN(4) == 0 {
			files = files.With(nil, []string{name + ".yaml"})
		} else {
			files = files.With([]*schema.File{fileOf(name+".yaml", randomPolicy(r, name))}, nil)
		}
		snap := &schema.Snapshot{Files: files}
		ids := c.IDs()
		down := slices.DeleteFunc([]string{"v1/a", "v2/b", "v2/b2"}, func(string) bool { return r.IntN(2) == 0 })
		c.SetDown("gw", down)
		ir, units, err := c.Compile(set, set.Update(snap))
		fullSet := schema.NewSet()
		full := NewCompiler(ids)
		full.SetDown("gw", down)
		fullIR, _, fullErr := full.Compile(fullSet, fullSet.Update(snap))
		if diff := cmp.Diff(errText(fullErr), errText(err)); diff != "" {
			t.Fatalf("seed %d: errors of a full pass and of an incremental one differ:\n%s", seed, diff)
		}
		if err != nil {
			continue
		}
		valid++
		var docs strings.Builder
		for f := range files.All() {
			if f.Path != "base.yaml" {
				docs.Write(f.Data)
			}
		}
		checkWorld(t, c, ir, docs.String())
		for _, u := range units {
			delete(state, u)
			if x := ir.Get(u); x != nil {
				state[u] = x
			}
		}
		if diff := cmp.Diff(fullIR.units, state, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
			t.Fatalf("seed %d: a full pass (-) and the reported units of incremental ones (+) differ:\n%s", seed, diff)
		}
	}
	return valid
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTablesMeanWhatTheDocumentsSay(t *testing.T) {
	valid := 0
	for seed := range uint64(400) {
		valid += runWorld(t, seed)
	}
	if valid < 500 {
		t.Errorf("only %d of 2400 random commits were valid; the test looks at too little", valid)
	}
}

func FuzzIncrementalEqualsFull(f *testing.F) {
	f.Add(uint64(1))
	f.Add(uint64(1068)) // a rule without VNI that is narrowed, then hidden by an exclude
	f.Fuzz(func(t *testing.T, seed uint64) { runWorld(t, seed) })
}
