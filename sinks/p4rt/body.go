package p4rt

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/reconciler"
	"github.com/gray-release/gray/sinks/p4rt/pipeline"
)

// The bodies of resources. Fields named label are names for people: they are not on
// the switch, and Equal ignores them.

// targetBody is a switch: how to reach it, and the pipeline it runs.
type targetBody struct {
	address  string
	deviceID uint64
	role     string
	push     string
	insecure bool
	tls      policies.TLS // zero: plaintext
	program  *pipeline.Program
	cookie   uint64 // of the pipeline; 0: none is loaded
	lack     string // observed: what the pipeline on the switch lacks, where that is compared by its P4Info
}

func (b *targetBody) Equal(o reconciler.Body) bool {
	t, ok := o.(*targetBody)
	return ok && b.connection() == t.connection() && b.push == t.push && !b.Resets(t)
}

// connection returns the fields that a connection to the switch depends on.
func (b *targetBody) connection() targetBody {
	c := *b
	c.program, c.cookie, c.lack, c.push = nil, 0, "", ""
	return c
}

// Resets tells whether another pipeline is to be loaded, which empties the tables.
func (b *targetBody) Resets(old reconciler.Body) bool {
	o, ok := old.(*targetBody)
	return !ok || b.cookie != o.cookie || b.lack != o.lack
}

// Place is the device: a switch with another one is another switch.
func (b *targetBody) Place() string { return fmt.Sprintf("%s/%d", b.address, b.deviceID) }

func (b *targetBody) String() string {
	s := fmt.Sprintf("%s device %d, pipeline %s", b.address, b.deviceID, b.program.Name)
	if b.program.Loads {
		s += fmt.Sprintf(" cookie %#x", b.cookie)
	}
	return s
}

// Delta names every field that changes, as the Switch document does.
func (b *targetBody) Delta(old reconciler.Body) string {
	o, ok := old.(*targetBody)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	var changes []string
	for _, f := range []struct{ name, was, is string }{
		{"role", o.role, b.role},
		{"tls.ca", o.tls.CA, b.tls.CA},
		{"tls.cert", o.tls.Cert, b.tls.Cert},
		{"tls.key", o.tls.Key, b.tls.Key},
		{"insecure", strconv.FormatBool(o.insecure), strconv.FormatBool(b.insecure)},
		{"pushPipeline", o.push, b.push},
	} {
		if f.was != f.is {
			changes = append(changes, fmt.Sprintf("%s %s -> %s", f.name, cmp.Or(f.was, "none"), cmp.Or(f.is, "none")))
		}
	}
	if b.Resets(o) {
		changes = append(changes, b.loading(o))
	}
	return fmt.Sprintf("%s device %d: %s", b.address, b.deviceID, strings.Join(changes, ", "))
}

// loading says which pipeline replaces which.
func (b *targetBody) loading(old *targetBody) string {
	was := "no pipeline"
	if old.cookie != 0 {
		was = fmt.Sprintf("another pipeline with cookie %#x", old.cookie)
	}
	s := was + " -> " + b.program.Name
	if !b.program.Loads {
		return s + ", to be loaded by other means"
	}
	return s + fmt.Sprintf(" cookie %#x; this empties its tables", b.cookie)
}

// backendBody is a server, and where its frames are sent.
type backendBody struct {
	id             uint16
	dstMAC, srcMAC [6]byte
	port           uint32
	address        netip.Addr // the new outer destination; zero: the VIP stays
	label          string
}

func (b *backendBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*backendBody)
	return ok && b.id == x.id && b.dstMAC == x.dstMAC && b.srcMAC == x.srcMAC && b.port == x.port && b.address == x.address
}

func (b *backendBody) String() string {
	s := fmt.Sprintf("port %d, mac %s from %s", b.port, net.HardwareAddr(b.dstMAC[:]), net.HardwareAddr(b.srcMAC[:]))
	if b.address.IsValid() {
		s += ", address " + b.address.String()
	}
	return withLabel(b.label, s)
}

func (b *backendBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

func (b *backendBody) name() string { return "backend=" + itoa(b.id) }

func withLabel(label, s string) string {
	if label == "" {
		return s
	}
	return label + ": " + s
}

// profileBody says which fields a gateway hashes.
type profileBody struct {
	profile uint8
	masks   [6]uint32 // vni, src, dst, protocol, src_port, dst_port
	label   string
}

var fullMasks = [6]uint32{1<<24 - 1, 1<<32 - 1, 1<<32 - 1, 1<<8 - 1, 1<<16 - 1, 1<<16 - 1}

func (b *profileBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*profileBody)
	return ok && b.profile == x.profile && b.masks == x.masks
}

func (b *profileBody) String() string {
	var fields []string
	for i, name := range []string{"vni", "src", "dst", "protocol", "srcPort", "dstPort"} {
		switch b.masks[i] {
		case 0:
		case fullMasks[i]:
			fields = append(fields, name)
		default:
			fields = append(fields, fmt.Sprintf("%s&%#x", name, b.masks[i]))
		}
	}
	return withLabel(b.label, "hash over "+strings.Join(fields, ", "))
}

func (b *profileBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

func (b *profileBody) name() string { return "profile=" + itoa(uint16(b.profile)) }

// vipBody is a VIP: its ID, its default pool and its hash profile.
type vipBody struct {
	address            netip.Addr
	vip, pool, profile uint8
	label              string
}

func (b *vipBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*vipBody)
	return ok && b.address == x.address && b.vip == x.vip && b.pool == x.pool && b.profile == x.profile
}

func (b *vipBody) String() string {
	return withLabel(b.label, fmt.Sprintf("vip %d, default pool %d, profile %d", b.vip, b.pool, b.profile))
}

func (b *vipBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

func (b *vipBody) name() string { return "dst=" + b.address.String() }

// ruleBody is an entry of a rule table: what it matches and the pool it sends to.
type ruleBody struct {
	table    uint32
	vip      uint8
	pool     uint8
	priority int32
	match    packets.Match
	label    string // the version
}

func (b *ruleBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*ruleBody)
	return ok && b.table == x.table && b.vip == x.vip && b.pool == x.pool && b.priority == x.priority && b.match == x.match
}

// Heir returns the entry of the VPC, which takes the packets of a VM that has none.
func (b *ruleBody) Heir() (kind, name string) {
	if b.table == pipeline.TableVPC || b.priority != 0 {
		return "", ""
	}
	vpc := *b
	vpc.match.Src, vpc.match.Dst = netip.Prefix{}, netip.Prefix{}
	return tableKinds[pipeline.TableVPC], vpc.name()
}

// Takes returns the VNI whose packets the entry takes from the VIP's default version.
func (b *ruleBody) Takes() (vni uint32, account string) { return b.match.VNI, "" }

func (b *ruleBody) String() string {
	if b.label == "" {
		return fmt.Sprintf("-> pool %d", b.pool)
	}
	return fmt.Sprintf("-> %s, pool %d", b.label, b.pool)
}

func (b *ruleBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

// name is the name in the rule's key, which follows from its match alone.
func (b *ruleBody) name() string {
	s := make([]byte, 0, 64)
	number := func(key string, v int64) { s = strconv.AppendInt(append(s, key...), v, 10) }
	if b.priority != 0 {
		number("priority=", int64(b.priority))
		s = append(s, ' ')
	}
	number("vip=", int64(b.vip))
	if !b.match.AnyVNI {
		number(" vni=", int64(b.match.VNI))
	}
	for i, p := range []netip.Prefix{b.match.Src, b.match.Dst} {
		switch key := []string{" src=", " dst="}[i]; {
		case !p.IsValid():
		case b.priority == 0:
			s = p.Addr().AppendTo(append(s, key...))
		default:
			s = p.AppendTo(append(s, key...))
		}
	}
	if b.match.Protocol >= 0 {
		number(" protocol=", int64(b.match.Protocol))
	}
	for i, r := range []packets.PortRange{b.match.SrcPort, b.match.DstPort} {
		if r.Any() {
			continue
		}
		number([]string{" src_port=", " dst_port="}[i], int64(r.Lo))
		if r.Lo != r.Hi {
			number("-", int64(r.Hi))
		}
	}
	return string(s)
}

// poolBody is a pool and its buckets. A bucket holds a backend's ID plus one; 0 is an
// empty bucket, which only an observed pool can have.
type poolBody struct {
	pool       uint8
	generation uint8 // to which the pool entry points
	hasEntry   bool
	mask       uint16
	buckets    []uint32
	unused     []bucketKey // bucket entries to which the pool entry does not lead
	label      string
	backends   map[uint16]string // names of the backends, for people
}

// bucketKey is the key of an entry of the bucket table.
type bucketKey struct {
	pool, generation uint8
	hash             uint16
}

func (b *poolBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*poolBody)
	return ok && b.pool == x.pool && b.hasEntry == x.hasEntry && b.mask == x.mask &&
		len(b.unused) == 0 && len(x.unused) == 0 && slices.Equal(b.buckets, x.buckets)
}

func (b *poolBody) String() string {
	shares := map[uint32]int{}
	for _, v := range b.buckets {
		shares[v]++
	}
	var words []string
	for _, v := range slices.SortedFunc(maps.Keys(shares), cmp.Compare[uint32]) {
		words = append(words, fmt.Sprintf("%s x%d", b.backendName(v), shares[v]))
	}
	s := fmt.Sprintf("%d buckets: %s", len(b.buckets), strings.Join(words, ", "))
	if !b.hasEntry {
		s += ", without its pool entry"
	}
	if len(b.unused) > 0 {
		s += fmt.Sprintf(", %d unused bucket entries", len(b.unused))
	}
	return withLabel(b.label, s)
}

func (b *poolBody) backendName(v uint32) string {
	if v == 0 {
		return "empty"
	}
	if name := b.backends[uint16(v-1)]; name != "" {
		return name
	}
	return fmt.Sprintf("backend %d", v-1)
}

// Delta counts the buckets that change, and names them if they are few.
func (b *poolBody) Delta(old reconciler.Body) string {
	const few = 4
	o, ok := old.(*poolBody)
	if !ok {
		return reconciler.FromTo(old, b)
	}
	var moved []string
	n := 0
	for i := range max(len(b.buckets), len(o.buckets)) {
		was, is := at(o.buckets, i), at(b.buckets, i)
		if was == is {
			continue
		}
		if n++; n <= few {
			moved = append(moved, fmt.Sprintf("%d %s -> %s", i, b.backendName(was), b.backendName(is)))
		}
	}
	s := fmt.Sprintf("%d of %d buckets change", n, len(b.buckets))
	if n > 0 && n <= few {
		s += " (" + strings.Join(moved, ", ") + ")"
	}
	if !o.hasEntry || o.mask != b.mask {
		s += ", its pool entry is set"
	}
	if len(o.unused) > 0 {
		s += fmt.Sprintf(", %d unused bucket entries are deleted", len(o.unused))
	}
	return withLabel(b.label, s)
}

func at(buckets []uint32, i int) uint32 {
	if i < len(buckets) {
		return buckets[i]
	}
	return 0
}

// rawBody is an entry that gray would never write. It is only deleted or overwritten.
type rawBody struct {
	text  string
	proto *p4v1.TableEntry
}

func (b *rawBody) Equal(o reconciler.Body) bool {
	x, ok := o.(*rawBody)
	return ok && b.text == x.text
}

func (b *rawBody) String() string                   { return b.text }
func (b *rawBody) Delta(old reconciler.Body) string { return reconciler.FromTo(old, b) }

// The kind of resource of each table, and the table of each kind.
var (
	tableKinds = map[uint32]string{}
	kindTables = map[string]uint32{}
)

func init() {
	for id, t := range pipeline.Index().Tables {
		tableKinds[id], kindTables[t.Name] = t.Name, id
	}
}
