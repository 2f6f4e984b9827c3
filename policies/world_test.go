package policies

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// The small world of the cell tests: every packet of it is tried.
var (
	worldVNIs  = []uint32{1, 2, 3}
	worldAddrs = []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1", "2001:db8::1"}
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
metadata: {name: n2, labels: {shard: s}}
spec: {vni: 2, account: y}
`

// randomRoutes is a Network whose route table holds some of the world's VMs.
func randomRoutes(r *rand.Rand) string {
	var b strings.Builder
	b.WriteString("apiVersion: gray.dev/v1alpha1\nkind: Network\nmetadata: {name: n1, labels: {shard: s}}\nspec:\n  vni: 1\n  account: x\n  routes:\n")
	b.WriteString("  - {vm: none, prefix: 10.9.0.0/16, mac: \"02:00:00:00:00:01\", vtep: 192.0.2.1}\n") // a network behind a VM
	for _, a := range worldAddrs {
		if r.IntN(3) == 0 {
			fmt.Fprintf(&b, "  - {vm: x, prefix: %q, mac: \"02:00:00:00:00:01\", vtep: 192.0.2.1}\n", a)
		}
	}
	return b.String()
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// some picks at least one of a list.
func some[T any](r *rand.Rand, of []T) []T {
	left := slices.Clone(of)
	r.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	return left[:1+r.IntN(len(left))]
}

// randomEntry is an entry of match or exclude.
func randomEntry(r *rand.Rand) string {
	percent := pick(r, 1, 5, 50, 95, 100, 0)
	switch {
	case r.IntN(3) > 0:
		return randomFields(r)
	case r.IntN(3) == 0:
		return fmt.Sprintf("percent: %d", percent)
	}
	return fmt.Sprintf("%s, percent: %d", randomFields(r), percent)
}

func randomFields(r *rand.Rand) string {
	switch r.IntN(5) {
	case 0:
		return fmt.Sprintf("networks: [%s]", pick(r, "n1", "n2"))
	case 1:
		return "networkSelector: {shard: s}"
	case 2:
		return fmt.Sprintf("vms: [{network: %s, addresses: [\"%s\"]}]", pick(r, "n1", "n2"), strings.Join(some(r, worldAddrs), `", "`))
	case 3:
		return fmt.Sprintf("accounts: [%s]", pick(r, "x", "y"))
	}
	var f []string
	if r.IntN(3) > 0 {
		f = append(f, fmt.Sprintf("vni: %d", pick(r, worldVNIs...)))
	}
	if r.IntN(2) == 0 {
		f = append(f, "src: "+pick(r, "10.0.0.0/24", "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "10.0.1.0/24", "10.0.0.0/16"))
	}
	if r.IntN(2) == 0 {
		f = append(f, "dst: "+pick(r, "10.0.0.0/24", "10.0.1.1/32", "10.0.1.0/24"))
	}
	if r.IntN(2) == 0 || len(f) == 0 {
		f = append(f, "dstPort: "+pick(r, "80", "81", "80-90", "0-65535"))
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
	if r.IntN(5) == 0 {
		b.WriteString("  suspend: true\n") // where it has no rollout, what was in force before counts
	}
	return b.String()
}

func fileOf(name, text string) *schema.File {
	return &schema.File{Path: name, ID: text, Data: []byte(text)}
}

// worldPackets is every packet of the small world.
func worldPackets() []packets.Packet {
	var all []packets.Packet
	for _, vni := range worldVNIs {
		for _, s := range worldAddrs {
			for _, d := range worldAddrs {
				for _, port := range worldPorts {
					p := packets.Packet{
						VIP: netip.MustParseAddr("203.0.113.10"), VNI: vni, Src: netip.MustParseAddr(s), Dst: netip.MustParseAddr(d),
						Protocol: 6, SrcPort: 1000, DstPort: port,
					}
					if p.Src.Is4() == p.Dst.Is4() {
						all = append(all, p)
					}
				}
			}
		}
	}
	return all
}

func holds(m packets.Match, p packets.Packet) bool {
	return m.Contains(p.VNI, p.Src, p.Dst, p.Protocol, [2]uint16{p.SrcPort, p.DstPort})
}

// world is a commit, and what its documents and its tables say about packets.
type world struct {
	t        *testing.T
	ir       *IR
	gw       *packets.Gateway
	policies []said // the highest priority first
	routed   map[uint32][]netip.Addr
	cells    map[uint32]*packets.Cell
	shares   map[string]*packets.Blend // by its name: what one version takes of the buckets
	buckets  map[string]string         // by list of shares: the version of each bucket
	written  map[string]string         // by pool: the version of each bucket
}

// said is what one policy says.
type said struct {
	doc     *schema.Document
	spec    *schema.PolicySpec
	entries []claim
}

func newWorld(t *testing.T, c *Compiler, ir *IR) *world {
	w := &world{
		t: t, ir: ir, gw: ir.Gateway("gw"), routed: c.vms, cells: map[uint32]*packets.Cell{},
		shares: map[string]*packets.Blend{}, buckets: map[string]string{}, written: map[string]string{},
	}
	for _, claims := range c.claims {
		for _, cl := range claims {
			if cl.planned {
				continue
			}
			i := slices.IndexFunc(w.policies, func(s said) bool { return s.doc == cl.doc })
			if i < 0 {
				i = len(w.policies)
				w.policies = append(w.policies, said{doc: cl.doc, spec: cl.spec})
			}
			w.policies[i].entries = append(w.policies[i].entries, cl)
		}
	}
	slices.SortFunc(w.policies, func(a, b said) int { return b.spec.Priority - a.spec.Priority })
	return w
}

// share is the share of the buckets that a policy takes of a packet, 0 to 100.
func (s *said) share(p packets.Packet) int {
	percent, stays := 0, 0
	for i := range s.entries {
		if cl := &s.entries[i]; holds(cl.box, p) {
			if cl.exclude {
				stays = max(stays, cl.percent)
			} else {
				percent = max(percent, cl.percent)
			}
		}
	}
	return min(percent, 100-stays)
}

// documents gives the version of each bucket, one letter each, as the documents
// say: that of the highest policy that matches the packet in this bucket and
// does not exclude it.
func (w *world) documents(p packets.Packet) string {
	var key [64]byte
	for i := range w.policies {
		key[i] = byte(w.policies[i].share(p))
	}
	if known, ok := w.buckets[string(key[:])]; ok {
		return known
	}
	var b strings.Builder
	for bucket := range w.gw.Hash.Buckets {
		version := w.gw.Default
		for i, s := range w.policies {
			if w.takes(s.spec.Version, int(key[i]), bucket) {
				version = s.spec.Version
				break
			}
		}
		b.WriteByte(version[1])
	}
	w.buckets[string(key[:])] = b.String()
	return b.String()
}

// takes tells whether a version with a share of the buckets has one of them.
func (w *world) takes(version string, percent, bucket int) bool {
	if percent == 0 || percent == 100 {
		return percent == 100
	}
	own := slices.IndexFunc(w.gw.Pools, func(p packets.Pool) bool { return p.Version == version })
	name := fmt.Sprintf("%s=%d%%,%s", version, percent, w.gw.Pools[(own+1)%len(w.gw.Pools)].Version)
	if w.shares[name] == nil {
		w.shares[name] = packets.NewBlend(w.gw, name, schema.Position{})
	}
	return int(w.shares[name].Buckets[bucket].Pool) == own
}

// tables asks the tables as the pipeline does and returns the pool.
func (w *world) tables(p packets.Packet) string {
	var best [packets.TableVPC + 1]*packets.Rule
	for _, cell := range []*packets.Cell{w.cell(p.VNI), w.cell(math.MaxUint32)} {
		for i := 0; cell != nil && i < len(cell.Rules); i++ {
			r := &cell.Rules[i]
			if holds(r.Match, p) && (r.Table == packets.TableVPC || r.IPv6 == p.Src.Is6()) && (best[r.Table] == nil || r.Priority > best[r.Table].Priority) {
				best[r.Table] = r
			}
		}
	}
	for _, r := range best {
		if r != nil {
			return r.Pool
		}
	}
	return w.gw.DefaultPool
}

// cell is the cell of a VNI, or that of none.
func (w *world) cell(vni uint32) *packets.Cell {
	if cell, known := w.cells[vni]; known {
		return cell
	}
	part := anyVNI
	if vni <= schema.MaxVNI {
		part = packets.VNIPart(vni)
	}
	w.cells[vni], _ = w.ir.Get(Name{schema.KindGateway, "gw", part}).(*packets.Cell)
	return w.cells[vni]
}

// pool gives the version of each bucket of a pool, one letter each.
func (w *world) pool(name string) string {
	if w.written[name] != "" {
		return w.written[name]
	}
	var b strings.Builder
	for bucket := range w.gw.Hash.Buckets {
		version := name
		if packets.IsBlend(name) {
			slot := w.ir.Blend("gw", name).Buckets[bucket]
			version = w.gw.Pools[slot.Pool].Version
			if slot.Backend != w.gw.Pool(version).Buckets[bucket] {
				w.t.Fatalf("bucket %d of %s is another server's than in %s", bucket, name, version)
			}
		}
		b.WriteByte(version[1])
	}
	w.written[name] = b.String()
	return w.written[name]
}

// strangers tells whether a packet is one between two addresses of a VPC that its
// route table does not know, where an entry for the VPC stands for its VMs.
func (w *world) strangers(p packets.Packet) bool {
	vms := w.routed[p.VNI]
	cell := w.cell(p.VNI)
	return len(vms) > 0 && !slices.Contains(vms, p.Src) && !slices.Contains(vms, p.Dst) &&
		cell != nil && slices.ContainsFunc(cell.Rules, func(r packets.Rule) bool { return r.Match == packets.VNIMatch(p.VNI) })
}

// check compares tables, documents and traces for every packet of the small
// world.
func (w *world) check(docs string) {
	w.t.Helper()
	for _, p := range worldPackets() {
		want, pool := w.documents(p), w.tables(p)
		if got := w.pool(pool); got != want && !w.strangers(p) {
			w.t.Fatalf("%s: the tables say %s,\n%s\nthe documents\n%s\n%s\n%s", p, pool, got, want, docs, dumpRules(w.ir))
		}
		if trace := packets.Follow(w.ir, "sw", p); trace.Pool != pool || trace.Version[1] != w.pool(pool)[trace.Bucket] {
			w.t.Fatalf("%s: the trace says %s, bucket %d of %s, the tables %s\n%s", p, trace.Pool, trace.Bucket, trace.Version, pool, dumpRules(w.ir))
		}
	}
	w.checkFlows(docs)
}

// checkFlows holds that keys are unique and that overlapping flow rules never
// share a priority.
func (w *world) checkFlows(docs string) {
	w.t.Helper()
	var flows []*packets.Rule
	keys := map[string]bool{}
	for n, u := range w.ir.units {
		cell, ok := u.(*packets.Cell)
		for i := 0; ok && i < len(cell.Rules); i++ {
			r := &cell.Rules[i]
			if r.Table == packets.TableFlow {
				flows = append(flows, r)
			}
			if key := fmt.Sprint(r.TableName(), r.Priority, r.Match); keys[key] {
				w.t.Fatalf("two entries of %s have the key %s\n%s", n, key, docs)
			} else {
				keys[key] = true
			}
		}
	}
	for i, a := range flows {
		if a.Priority < 1 || a.Priority >= 1<<24 {
			w.t.Fatalf("priority %d is out of range", a.Priority)
		}
		for _, b := range flows[:i] {
			if a.Priority == b.Priority && a.IPv6 == b.IPv6 && overlap(a.Match, b.Match) {
				w.t.Fatalf("two overlapping flow rules have priority %d: %+v and %+v\n%s", a.Priority, a, b, docs)
			}
		}
	}
}

func overlap(a, b packets.Match) bool {
	_, some := a.Intersect(b)
	return some
}
