package packets

import (
	"net/netip"
	"slices"
	"time"

	"github.com/gray-release/gray/schema"
)

// Gateway is a VIP and the servers behind it.
type Gateway struct {
	Name     string
	Origin   schema.Position
	VIPs     []netip.Addr // sorted
	Switches []string     // sorted
	Hash     Hash
	Forward  string // "mac": rewrite the next hop only; "ip": rewrite the outer destination
	Default  string
	Pools    []Pool       // one a version, sorted by version
	Health   *HealthCheck // nil: the servers are not checked

	// What the VIPs point to: Default, or what policies make of the packets of
	// which they say nothing else.
	DefaultPool   string // a version, or a Blend by name
	DefaultPolicy string // the policy that decides it; empty where none does
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

// Alive tells whether some server of the default pool is up; one that has
// buckets only because half of them always stay does not count. Without one the
// gateway's VIPs are not to attract traffic.
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

// Pool returns the pool of a version that the gateway has.
func (g *Gateway) Pool(version string) *Pool {
	i := slices.IndexFunc(g.Pools, func(p Pool) bool { return p.Version == version })
	return &g.Pools[i]
}

// Hash says which fields choose the bucket, and how the buckets are filled.
type Hash struct {
	VNI, Src, Dst, Protocol, SrcPort, DstPort bool
	Algorithm                                 string // "maglev" or "rendezvous"
	Buckets                                   int    // a power of two, 256 to 65536
}

// Pool is the servers of one version and how the hash buckets spread over them.
type Pool struct {
	Version  string
	Origin   schema.Position
	Backends []Backend // sorted by name
	Buckets  []uint16  // bucket -> index into Backends; its length is Hash.Buckets
	Kept     int       // how many have buckets although they are down, as half of them always stay
}

// Backend is one server behind a gateway.
type Backend struct {
	Name    string
	Origin  schema.Position
	Address netip.Addr
	MAC     [6]byte
	Ports   map[string]uint32 // by switch name; every switch of the gateway has one
	Weight  int               // at least 1
	Down    bool              // its health check fails
}

// HealthCheck is how the servers of a gateway or the endpoints of a service are
// checked: one of ICMP, TCP and HTTP. Of a service it is HTTP where that has a
// path, gRPC or else TCP, and a port that is 0 is the endpoint's.
type HealthCheck struct {
	ICMP     bool
	GRPC     bool          // of a service: by gRPC's health service
	TCP      uint16        // the port to connect to; 0: not TCP
	HTTP     HTTPCheck     // port 0: not HTTP
	Interval time.Duration // from one check of a server to the next
	Timeout  time.Duration // of one check; at most Interval
	Rise     int           // passes in a row that bring a server back, at least 1
	Fall     int           // failures in a row that take it out, at least 1
}

// HTTPCheck gets http://server:port/path; any status below 400 passes.
type HTTPCheck struct {
	Port uint16
	Path string // begins with "/"
}

// Table is the kind of table that a rule stands in. A packet takes the version
// of the first table that knows it, in the order of the constants.
type Table uint8

// The tables of step 2 of the pipeline.
const (
	TableFlow  Table = iota + 1 // arbitrary fields, with priority
	TableVMSrc                  // one inner source address of one VNI
	TableVMDst                  // one inner destination address of one VNI
	TableVPC                    // one whole VNI
)

// Rule sends what it matches to a pool.
type Rule struct {
	Table    Table
	IPv6     bool   // which family's table; false for TableVPC, which has no family
	Match    Match  // VM tables: VNI and Src or Dst as a full-length prefix; VPC: VNI alone
	Priority int32  // TableFlow only: 1 to 2^24-1, larger wins; else 0
	Pool     string // a version, or a Blend by name; a rule that keeps traffic at the default names that
	Policy   string // the policy that asks for it; of a blend, the first one
	Origin   schema.Position
}

// Match is a set of packets: a conjunction of fields.
type Match struct {
	AnyVNI           bool
	VNI              uint32
	Src, Dst         netip.Prefix // the zero Prefix: any
	Protocol         int16        // 0 to 255, -1: any
	SrcPort, DstPort PortRange
}

// PortRange is an inclusive range; 0 to 65535 is any port.
type PortRange struct{ Lo, Hi uint16 }

// Any tells whether the range holds every port.
func (r PortRange) Any() bool { return r.Lo == 0 && r.Hi == 65535 }

// TableName is the pipeline's name of the table that a rule stands in.
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
