package policies

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/schema"
)

// Name names one unit of the IR: what is compiled, lowered and diffed on its
// own. Kind and Name are those of a document; Part is empty for the document
// itself and otherwise names one small part of what the policies make of it:
//
//	{Service vpc-api ""}                 -> *Service
//	{Service vpc-api "account/50002001"} -> *AccountRoute
//	{Service vpc-api "policy/canary"}    -> *RequestRule, about all requests
//	{Gateway vpc-gw ""}                  -> *Gateway
//	{Gateway vpc-gw "vni/1001"}          -> *Cell, the rules of one VNI
//	{Gateway vpc-gw "vni/*"}             -> *Cell, the rules that name no VNI
//	{Gateway vpc-gw "pool/v2=5%,v1"}     -> *Blend, a pool that versions share
//	{Switch gw-a ""}                     -> *Switch
//	{Node host-1 ""}                     -> *Node
type Name struct{ Kind, Name, Part string }

// String gives "Kind/name" or "Kind/name/part".
func (n Name) String() string {
	s := n.Kind + "/" + n.Name
	if n.Part != "" {
		s += "/" + n.Part
	}
	return s
}

// IR says what a commit means. It is a view of the compiler's state: valid
// until the next Compile, and read-only.
type IR struct {
	units    map[Name]any
	gateways map[string]*Gateway
	looked   map[string]*Service // those with versions whose endpoints are looked up
	ids      *IDs
}

// NewIR returns an empty IR over a table of numbers; Put fills it.
func NewIR(ids *IDs) *IR {
	return &IR{units: map[Name]any{}, gateways: map[string]*Gateway{}, looked: map[string]*Service{}, ids: ids}
}

// Put sets the unit of a name (see Name for its type); a nil unit removes it.
func (ir *IR) Put(n Name, unit any) {
	if n.Kind == schema.KindGateway && n.Part == "" {
		delete(ir.gateways, n.Name)
		if gw, ok := unit.(*Gateway); ok {
			ir.gateways[n.Name] = gw
		}
	}
	if n.Kind == schema.KindService && n.Part == "" {
		delete(ir.looked, n.Name)
		if s, ok := unit.(*Service); ok && slices.ContainsFunc(s.Versions, func(v ServiceVersion) bool { return v.Etcd != "" }) {
			ir.looked[n.Name] = s
		}
	}
	if unit == nil {
		delete(ir.units, n)
		return
	}
	ir.units[n] = unit
}

// Get returns the unit of that name (see Name for its type), or nil where the
// commit holds none.
func (ir *IR) Get(n Name) any { return ir.units[n] }

// Len is the number of units.
func (ir *IR) Len() int { return len(ir.units) }

// Service returns the service of that name, or nil.
func (ir *IR) Service(name string) *Service {
	s, _ := ir.units[Name{Kind: schema.KindService, Name: name}].(*Service)
	return s
}

// Gateway returns the gateway of that name, or nil.
func (ir *IR) Gateway(name string) *Gateway { return ir.gateways[name] }

// Gateways returns all gateways, sorted by name.
func (ir *IR) Gateways() []*Gateway {
	return slices.SortedFunc(maps.Values(ir.gateways), func(a, b *Gateway) int { return strings.Compare(a.Name, b.Name) })
}

// Switch returns the switch of that name, or nil.
func (ir *IR) Switch(name string) *Switch {
	s, _ := ir.units[Name{Kind: schema.KindSwitch, Name: name}].(*Switch)
	return s
}

// ID is the number that stands for a name on a switch; it never is zero for a
// name that the IR holds. Key is the gateway's name for SpaceVIP, "gateway/pool"
// for SpacePool (a version or the name of a Blend), "gateway/version/backend" for
// SpaceBackend.
func (ir *IR) ID(switchName string, space Space, key string) uint32 {
	return ir.ids.get(switchName, space, key)
}

// Service is a cluster behind Envoy and its versions.
type Service struct {
	Name     string
	Origin   schema.Position
	Hosts    []string // sorted, lower case, without port
	Protocol string   // what the endpoints speak: "http", "http2" or "grpc"
	RouteBy  RouteBy
	Default  string           // the version of accounts that no policy names
	Versions []ServiceVersion // sorted by name
	Health   *HealthCheck     // nil: the endpoints are not checked
	Timeout  time.Duration    // of a whole request; 0: none
	Retries  int
}

// RouteBy says where a request carries its account: the value of Key in the
// cookie-encoded header Header (lower case).
type RouteBy struct {
	Header string `json:"header"`
	Key    string `json:"key"`
}

// String is "key KEY of header HEADER".
func (r RouteBy) String() string { return "key " + r.Key + " of header " + r.Header }

// DefaultRouteBy is where requests carry their account unless a Service says
// otherwise.
var DefaultRouteBy = RouteBy{Header: "x-ucloud-routeby", Key: "account_id"}

// ServiceVersion is one version of a service and where it runs.
type ServiceVersion struct {
	Name      string
	Origin    schema.Position
	Endpoints []Endpoint     // sorted by address and port
	Etcd      string         // the target that the endpoints are registered under; empty: the document lists them
	Unknown   bool           // nobody has told yet what is registered there; what is live stays
	Image     string         // what nodes run; empty: something else runs it
	Compose   map[string]any // further fields of its compose service, as schema has checked them; read-only
}

// Version returns the version of that name, or nil.
func (s *Service) Version(name string) *ServiceVersion {
	for i := range s.Versions {
		if s.Versions[i].Name == name {
			return &s.Versions[i]
		}
	}
	return nil
}

// Endpoint is an address that serves a version.
type Endpoint struct {
	Address netip.Addr
	Port    uint16
	Weight  uint32 // at least 1
}

// AccountRoute is what holds for the requests of one account for one service,
// beside the rules that are about all requests; see OrderRules.
type AccountRoute struct {
	Service, Account string
	Rules            []RequestRule // in order of precedence
	Instead          []string      // the policies whose rules about all requests do not count for it, sorted
	Origin           schema.Position
}

func (r *AccountRoute) equal(o *AccountRoute) bool {
	return r.Origin == o.Origin && slices.Equal(r.Instead, o.Instead) &&
		slices.EqualFunc(r.Rules, o.Rules, func(a, b RequestRule) bool { return a.equal(&b) })
}

// Node is a host with an Envoy sidecar.
type Node struct {
	Name      string
	Origin    schema.Position
	Address   netip.Addr
	Bind      netip.Addr // where the proxy listens
	Port      uint16
	AdminPort uint16
	Image     string        // of the proxy
	Services  []NodeService // what runs on it, sorted by name
}

// NodeService is a service that runs on a node, in one version.
type NodeService struct {
	Name, Version string
	Origin        schema.Position
}

// Switch is a P4Runtime target.
type Switch struct {
	Name     string
	Origin   schema.Position
	Address  string // host:port
	DeviceID uint64
	MAC      [6]byte // source of what the switch forwards
	Role     string
	Pipeline string   // "v1model", "tna" or a folder of the repository
	Program  *Program // what is in the folder; nil: the pipeline is gray's own
	Push     string   // "ifDifferent" or "never"
	TLS      *TLS     // nil: plaintext
	Insecure bool     // plaintext is allowed beyond loopback
	BGP      *BGP     // nil: the VIPs are announced by something else

	sizes map[string]int // of its tables; nil: TableSizes
}

// BGP is how the VIPs of a switch are announced.
type BGP struct {
	ASN          uint32
	RouterID     netip.Addr    // IPv4
	LocalAddress netip.Addr    // that sessions come from; zero: the route decides
	NextHop      netip.Addr    // of the VIPs of its family
	NextHop6     netip.Addr    // of IPv6 VIPs; zero: NextHop is all there is
	Neighbors    []BGPNeighbor // sorted by address
	Communities  []uint32      // sorted; the AS number in the upper half
}

// NextHopOf is the next hop that a VIP is announced with; zero where none is of
// its family.
func (b *BGP) NextHopOf(vip netip.Addr) netip.Addr {
	for _, hop := range []netip.Addr{b.NextHop, b.NextHop6} {
		if hop.IsValid() && hop.Is4() == vip.Is4() {
			return hop
		}
	}
	return netip.Addr{}
}

// BGPNeighbor is a BGP peer.
type BGPNeighbor struct {
	Address      netip.Addr
	ASN          uint32
	PasswordFile string // below the daemon's secrets folder; empty: no MD5
}

// TLS names the files of a client's certificate, all below the daemon's
// secrets folder.
type TLS struct{ CA, Cert, Key string }

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

// Check is one server that is to be checked.
type Check struct {
	Gateway string
	Server  string // "version/backend", as Compiler.SetDown takes it
	Address netip.Addr
	How     HealthCheck
}

// Checks lists all servers that are to be checked, sorted by gateway and server.
func (ir *IR) Checks() []Check {
	var all []Check
	for _, g := range ir.Gateways() {
		if g.Health == nil {
			continue
		}
		for _, p := range g.Pools {
			for _, b := range p.Backends {
				all = append(all, Check{g.Name, p.Version + "/" + b.Name, b.Address, *g.Health})
			}
		}
	}
	return all
}

// Cell is the rules of a gateway that share a VNI (or name none).
type Cell struct {
	Gateway string
	Rules   []Rule // in canonical order: by table, then by key
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

// Blend returns the blend of that name of a gateway, or nil.
func (ir *IR) Blend(gateway, name string) *Blend {
	b, _ := ir.units[Name{schema.KindGateway, gateway, poolPart + name}].(*Blend)
	return b
}

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
