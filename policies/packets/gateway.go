// Package packets is sets of packets and what a switch does with them: the rules of a
// gateway with the fewest entries, the conflicts of policies, hash buckets and blends,
// and the flow model that follows a packet through the tables.
//
// It is pure, and does not import the compiler, which makes its Policies from the
// documents.
package packets

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gray-release/gray/schema"
)

// Gateway is VIPs and the backends behind them.
type Gateway struct {
	Name     string
	Origin   schema.Position
	VIPs     []netip.Addr // sorted
	Switches []string     // sorted
	Hash     Hash
	Forward  string // "mac": rewrite the next hop only; "ip": rewrite the outer destination
	Default  string
	Pools    []Pool       // one per version, sorted by version
	Health   *HealthCheck // nil: the backends are not checked

	// The pool for packets that no rule matches, which the VIPs point to: Default, or
	// that of a policy that matches all packets.
	DefaultPool   string // a version, or a Blend by name
	DefaultPolicy string // the policy that sets it; empty: none
	DefaultOrigin schema.Position
}

// HasIPv6 tells whether one of the gateway's VIPs is an IPv6 address.
func (g *Gateway) HasIPv6() bool {
	for _, v := range g.VIPs {
		if v.Is6() {
			return true
		}
	}
	return false
}

// Alive tells whether a backend of the default pool is up. One that is down does not
// count, even if it has buckets (see Pool.Kept). If none is up, the gateway's VIPs must
// not be announced.
func (g *Gateway) Alive() bool {
	for _, s := range sharesOf(g.DefaultPool) {
		for _, b := range g.Pool(s.Version).Backends {
			if !b.Down {
				return true
			}
		}
	}
	return false
}

// Pool returns the pool of a version, which the gateway must have.
func (g *Gateway) Pool(version string) *Pool {
	i := slices.IndexFunc(g.Pools, func(p Pool) bool { return p.Version == version })
	return &g.Pools[i]
}

// Hash is which fields select the bucket, and how backends are assigned to buckets.
type Hash struct {
	VNI, Src, Dst, Protocol, SrcPort, DstPort bool
	Algorithm                                 string // "maglev" or "rendezvous"
	Buckets                                   int    // a power of two, 256 to 65536
}

// Pool is the backends of one version and their hash buckets.
type Pool struct {
	Version  string
	Origin   schema.Position
	Backends []Backend // sorted by name
	Buckets  []uint16  // bucket -> index into Backends; its length is Hash.Buckets
	Kept     int       // how many backends have buckets although they are down, as at least half always do
}

// Backend is one server behind a gateway.
type Backend struct {
	Name    string
	Origin  schema.Position
	Address netip.Addr
	MAC     [6]byte
	Ports   map[string]uint32 // by switch name, for every switch of the gateway
	Weight  int               // at least 1
	Down    bool              // its health check fails
}

// HealthCheck is how the backends of a gateway or the endpoints of a service are
// checked. For a gateway it is one of ICMP, TCP and HTTP. For a service it is HTTP if
// that has a path, else gRPC or TCP, and port 0 is the endpoint's port.
type HealthCheck struct {
	ICMP     bool
	GRPC     bool          // for a service: by gRPC's health service
	TCP      uint16        // the port to connect to; 0: not TCP
	HTTP     HTTPCheck     // port 0: not HTTP
	Interval time.Duration // from one check of a backend to the next
	Timeout  time.Duration // of one check; at most Interval
	Rise     int           // passes in a row that bring a backend back, at least 1
	Fall     int           // failures in a row that take a backend out, at least 1
}

// HTTPCheck gets http://backend:port/path. A status below 400 passes.
type HTTPCheck struct {
	Port uint16
	Path string // begins with "/"
}

// Table is the kind of a rule's table. The first table with a match decides, in the
// order of the constants.
type Table uint8

// The rule tables of the pipeline.
const (
	TableFlow  Table = iota + 1 // arbitrary fields, with priority
	TableVMSrc                  // one inner source address of one VNI
	TableVMDst                  // one inner destination address of one VNI
	TableVPC                    // one whole VNI
)

// Rule sends what it matches to a pool.
type Rule struct {
	Table    Table
	IPv6     bool   // the table is that of IPv6; false for TableVPC, which has both families
	Match    Match  // VM tables: VNI and Src or Dst as a full-length prefix; VPC: VNI alone
	Priority int32  // TableFlow only: 1 to 2^24-1, larger wins; else 0
	Pool     string // a version, or a Blend by name
	Policy   string // the policy that it comes from; for a blend, the first one
	Origin   schema.Position
}

// Match is a set of packets: all its fields have to match.
type Match struct {
	AnyVNI           bool
	VNI              uint32
	Src, Dst         netip.Prefix // the zero Prefix: any
	Protocol         int16        // 0 to 255, -1: any
	SrcPort, DstPort PortRange
}

// PortRange is an inclusive range of ports; 0 to 65535 is any port.
type PortRange struct{ Lo, Hi uint16 }

// Any tells whether the range has every port.
func (r PortRange) Any() bool { return r.Lo == 0 && r.Hi == 65535 }

// TableName is the name of a rule's table in the pipeline.
func (r *Rule) TableName() string {
	name := map[Table]string{TableFlow: "gray_flow", TableVMSrc: "gray_vm_src", TableVMDst: "gray_vm_dst"}[r.Table]
	switch {
	case r.Table == TableVPC:
		return "gray_vpc"
	case r.IPv6:
		return name + "_v6"
	}
	return name + "_v4"
}
