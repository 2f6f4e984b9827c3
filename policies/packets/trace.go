package packets

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/schema"
)

// Trace is the path of one packet through the pipeline of one switch.
type Trace struct {
	Switch  string     `json:"switch"`
	Gateway string     `json:"gateway,omitempty"` // whose VIP it is
	Steps   []Step     `json:"steps"`             // in the order of the pipeline
	Pool    string     `json:"pool,omitempty"`
	Hash    uint32     `json:"hash"`
	Bucket  int        `json:"bucket"`
	Version string     `json:"version,omitempty"` // of the backend
	Backend string     `json:"backend,omitempty"`
	MAC     string     `json:"mac,omitempty"`    // the next hop
	Address netip.Addr `json:"address,omitzero"` // the new outer destination; zero: the VIP stays
	Port    uint32     `json:"port"`             // the switch port that the packet leaves by
	Dropped string     `json:"dropped,omitempty"`
}

// Step is one table's lookup.
type Step struct {
	Table  string          `json:"table"`           // its name in the pipeline
	Entry  string          `json:"entry,omitempty"` // what the entry matches; empty: there is no match
	Says   string          `json:"says,omitempty"`  // what the entry does
	Policy string          `json:"policy,omitempty"`
	Origin schema.Position `json:"origin,omitzero"` // the place in the documents that the entry comes from
	Wins   bool            `json:"wins,omitempty"`  // the entry decides the pool
}

// SameWay tells whether two packets are treated the same: both are dropped, or leave by
// the same port to the same backend with the same addresses.
func (t *Trace) SameWay(o *Trace) bool {
	return t.Dropped == o.Dropped && t.Version == o.Version && t.Backend == o.Backend &&
		t.MAC == o.MAC && t.Address == o.Address && t.Port == o.Port
}

// Tables is what a switch is programmed with.
type Tables interface {
	Gateways() []*Gateway              // sorted by name
	Cell(gateway, part string) *Cell   // part is WildPart or a VNIPart; nil: none
	Blend(gateway, name string) *Blend // nil: none
}

// WildPart names the cell of the rules that name no VNI.
const WildPart = "vni/*"

// VNIPart names the cell of a VNI's rules.
func VNIPart(vni uint32) string { return fmt.Sprintf("vni/%d", vni) }

// Follow traces a packet through a switch that is programmed with the tables. It is the
// flow model: it looks things up as the pipeline does, table by table.
func Follow(tables Tables, switchName string, p Packet) *Trace {
	t := &Trace{Switch: switchName}
	gw := t.vip(tables, p)
	if gw == nil {
		return t
	}
	t.Pool = gw.DefaultPool
	for table := TableFlow; table <= TableVPC; table++ {
		t.table(tables, gw, table, p)
	}
	if !slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Wins }) {
		t.Steps[0].Wins = true
	}
	t.Hash = p.HashFields().Masked(gw.Hash.Masks()).Sum()
	t.step("hash_profile", gw.Name, fmt.Sprintf("crc32 of %s: %#08x", gw.Hash, t.Hash), gw.Origin)
	t.backend(tables, gw)
	return t
}

func (t *Trace) step(table, entry, says string, origin schema.Position) {
	t.Steps = append(t.Steps, Step{Table: table, Entry: entry, Says: says, Origin: origin})
}

// vip finds the gateway of a packet, or nil if the switch drops it.
func (t *Trace) vip(tables Tables, p Packet) *Gateway {
	table := "vip_v4"
	if p.VIP.Is6() {
		table = "vip_v6"
	}
	for _, gw := range tables.Gateways() {
		if !slices.Contains(gw.VIPs, p.VIP) {
			continue
		}
		if !slices.Contains(gw.Switches, t.Switch) {
			t.Dropped = fmt.Sprintf("Gateway %s has the VIP %s, but not on switch %s", gw.Name, p.VIP, t.Switch)
			break
		}
		t.Gateway = gw.Name
		t.step(table, p.VIP.String(), fmt.Sprintf("%s, default pool %s", gw.Name, gw.DefaultPool), gw.DefaultOrigin)
		t.Steps[0].Policy = gw.DefaultPolicy
		return gw
	}
	if t.Dropped == "" {
		t.Dropped = fmt.Sprintf("no Gateway has the VIP %s", p.VIP)
	}
	t.Steps = append(t.Steps, Step{Table: table})
	return nil
}

// table looks a packet up in one kind of rule table. The first match decides the pool;
// the other tables are traced too.
func (t *Trace) table(tables Tables, gw *Gateway, table Table, p Packet) {
	decided := slices.ContainsFunc(t.Steps, func(s Step) bool { return s.Wins })
	name := (&Rule{Table: table, IPv6: p.isIPv6()}).TableName()
	r := lookup(tables, gw, table, p)
	if r == nil {
		t.Steps = append(t.Steps, Step{Table: name})
		return
	}
	entry := r.Match.String()
	if r.Priority != 0 {
		entry = fmt.Sprintf("priority %d: %s", r.Priority, entry)
	}
	t.Steps = append(t.Steps, Step{
		Table: name, Entry: entry, Says: "pool " + r.Pool, Policy: r.Policy, Origin: r.Origin, Wins: !decided,
	})
	if !decided {
		t.Pool = r.Pool
	}
}

// lookup finds the rule in one kind of table that a packet matches, or nil.
func lookup(tables Tables, gw *Gateway, table Table, p Packet) *Rule {
	cell := tables.Cell(gw.Name, VNIPart(p.VNI))
	if table == TableFlow {
		a, b := cell.flow(p), tables.Cell(gw.Name, WildPart).flow(p)
		if a == nil || b != nil && b.Priority > a.Priority {
			return b
		}
		return a
	}
	want := Rule{Table: table, Match: VNIMatch(p.VNI)}
	switch table {
	case TableVMSrc:
		want.IPv6, want.Match.Src = p.isIPv6(), fullPrefix(p.Src)
	case TableVMDst:
		want.IPv6, want.Match.Dst = p.isIPv6(), fullPrefix(p.Dst)
	}
	return cell.exact(want)
}

func fullPrefix(a netip.Addr) netip.Prefix {
	if !a.IsValid() {
		a = netip.IPv4Unspecified()
	}
	return netip.PrefixFrom(a, a.BitLen())
}

// exact finds a rule by its key, or nil.
func (c *Cell) exact(want Rule) *Rule {
	if c == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(c.Rules, want, compareRules)
	if !found {
		return nil
	}
	return &c.Rules[i]
}

// flow finds the flow rule of the highest priority that matches a packet, or nil.
func (c *Cell) flow(p Packet) *Rule {
	if c == nil {
		return nil
	}
	src, dst := fullPrefix(p.Src).Addr(), fullPrefix(p.Dst).Addr()
	var best *Rule
	for i := range c.Rules {
		r := &c.Rules[i]
		if r.Table != TableFlow {
			break
		}
		if r.IPv6 == p.isIPv6() && (best == nil || r.Priority > best.Priority) &&
			r.Match.Contains(p.VNI, src, dst, p.Protocol, [2]uint16{p.SrcPort, p.DstPort}) {
			best = r
		}
	}
	return best
}

// backend goes from the pool by the hash to a backend.
func (t *Trace) backend(tables Tables, gw *Gateway) {
	t.Bucket = int(t.Hash) & (gw.Hash.Buckets - 1)
	version, index, origin := backendOf(tables, gw, t.Pool, t.Bucket)
	b := &gw.Pool(version).Backends[index]
	t.Version, t.Backend, t.Port, t.MAC = version, b.Name, b.Ports[t.Switch], net.HardwareAddr(b.MAC[:]).String()
	says := fmt.Sprintf("port %d, next hop %s", t.Port, t.MAC)
	if gw.Forward == "ip" {
		t.Address = b.Address
		says += fmt.Sprintf(", outer destination %s", t.Address)
	}
	t.step("pool", t.Pool, fmt.Sprintf("bucket %d of %d", t.Bucket, gw.Hash.Buckets), origin)
	t.step("bucket", fmt.Sprintf("pool %s, bucket %d", t.Pool, t.Bucket), fmt.Sprintf("backend %s of %s", b.Name, t.Version), origin)
	t.step("backend", fmt.Sprintf("%s of %s", b.Name, t.Version), says, b.Origin)
}

// backendOf is the backend of a bucket of a pool: its version and its index in that
// version's pool, and the place that the pool comes from.
func backendOf(tables Tables, gw *Gateway, pool string, bucket int) (version string, backend uint16, origin schema.Position) {
	if b := tables.Blend(gw.Name, pool); b != nil {
		slot := b.Buckets[bucket]
		return gw.Pools[slot.Pool].Version, slot.Backend, b.Origin
	}
	p := gw.Pool(pool)
	return pool, p.Buckets[bucket], p.Origin
}
