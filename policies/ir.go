package policies

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// Name names one unit of the IR, which is compiled, lowered and diffed on its own.
// Kind and Name are those of a document. Part is empty for the document itself, or
// names a part of what the policies make of it:
//
//	{Service vpc-api ""}                 -> *requests.Service
//	{Service vpc-api "account/50002001"} -> *requests.AccountRoute
//	{Service vpc-api "policy/canary"}    -> *requests.Rule, for all requests
//	{Gateway vpc-gw ""}                  -> *packets.Gateway
//	{Gateway vpc-gw "vni/1001"}          -> *packets.Cell, the rules of one VNI
//	{Gateway vpc-gw "vni/*"}             -> *packets.Cell, the rules that name no VNI
//	{Gateway vpc-gw "pool/v2=5%,v1"}     -> *packets.Blend, a pool that versions share
//	{Switch gw-a ""}                     -> *Switch
//	{Node host-1 ""}                     -> *Node
//	{Network vpc-1001 ""}                -> *Network
type Name struct{ Kind, Name, Part string }

// String gives "Kind/name" or "Kind/name/part".
func (n Name) String() string {
	s := n.Kind + "/" + n.Name
	if n.Part != "" {
		s += "/" + n.Part
	}
	return s
}

// Compare orders names by kind, name and part.
func (n Name) Compare(o Name) int {
	return cmp.Or(strings.Compare(n.Kind, o.Kind), strings.Compare(n.Name, o.Name), strings.Compare(n.Part, o.Part))
}

// IR is what a commit means. It is a read-only view of the compiler's state, valid
// until the next Compile.
type IR struct {
	units    map[Name]any
	gateways map[string]*packets.Gateway
	lookups  map[string]*requests.Service // services with endpoints from etcd
	checked  map[string]*requests.Service // services with a health check
	ids      *IDs
}

// NewIR returns an empty IR over a table of IDs; Put fills it.
func NewIR(ids *IDs) *IR {
	return &IR{units: map[Name]any{}, gateways: map[string]*packets.Gateway{}, lookups: map[string]*requests.Service{}, checked: map[string]*requests.Service{}, ids: ids}
}

// Put sets the unit of a name (see Name for its type); a nil unit removes it.
func (ir *IR) Put(n Name, unit any) {
	if n.Kind == schema.KindGateway && n.Part == "" {
		delete(ir.gateways, n.Name)
		if gw, ok := unit.(*packets.Gateway); ok {
			ir.gateways[n.Name] = gw
		}
	}
	if n.Kind == schema.KindService && n.Part == "" {
		delete(ir.lookups, n.Name)
		delete(ir.checked, n.Name)
		if s, ok := unit.(*requests.Service); ok && s.Health != nil {
			ir.checked[n.Name] = s
		}
		if s, ok := unit.(*requests.Service); ok && slices.ContainsFunc(s.Versions, func(v requests.ServiceVersion) bool { return v.Etcd != "" }) {
			ir.lookups[n.Name] = s
		}
	}
	if unit == nil {
		delete(ir.units, n)
		return
	}
	ir.units[n] = unit
}

// Get returns the unit of that name (see Name for its type), or nil.
func (ir *IR) Get(n Name) any { return ir.units[n] }

// Len is the number of units.
func (ir *IR) Len() int { return len(ir.units) }

// Service returns the service of that name, or nil.
func (ir *IR) Service(name string) *requests.Service {
	s, _ := ir.units[Name{Kind: schema.KindService, Name: name}].(*requests.Service)
	return s
}

// Gateway returns the gateway of that name, or nil.
func (ir *IR) Gateway(name string) *packets.Gateway { return ir.gateways[name] }

// Gateways returns all gateways, sorted by name.
func (ir *IR) Gateways() []*packets.Gateway {
	return slices.SortedFunc(maps.Values(ir.gateways), func(a, b *packets.Gateway) int { return strings.Compare(a.Name, b.Name) })
}

// Switch returns the switch of that name, or nil.
func (ir *IR) Switch(name string) *Switch {
	s, _ := ir.units[Name{Kind: schema.KindSwitch, Name: name}].(*Switch)
	return s
}

// ID is the ID of a name on a switch. It is never zero for a name in the IR. The key is
// the gateway's name for SpaceVIP, "gateway/pool" for SpacePool (the pool is a version
// or the name of a Blend) and "gateway/version/backend" for SpaceBackend.
func (ir *IR) ID(switchName string, space Space, key string) uint32 {
	return ir.ids.get(switchName, space, key)
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

// Network is a VPC: where overlay pings come from, and whom they may ask.
type Network struct {
	Name    string
	Origin  schema.Position
	VNI     uint32
	Monitor *schema.Monitor // nil: pings come from nowhere
	Routes  int             // in its route table
	Digest  string          // of the route table, in its order
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
	Program  *Program // the folder's pipeline; nil: it is gray's own
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
	LocalAddress netip.Addr    // the source of sessions; zero: the route decides
	NextHop      netip.Addr    // of the VIPs of its family
	NextHop6     netip.Addr    // of IPv6 VIPs; zero: there is only NextHop
	Neighbors    []BGPNeighbor // sorted by address
	Communities  []uint32      // sorted; the AS number in the upper half
}

// NextHopOf is the next hop of a VIP, or zero if there is none of its family.
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

// Check is the health check of one server.
type Check struct {
	Of      string // the Gateway's name, or OfService
	Server  string // "version/backend", as in Facts.Down; "version/address:port" of a Service
	Address netip.Addr
	How     packets.HealthCheck
}

// OfService is the Check.Of of a Service.
func OfService(name string) string { return schema.KindService + "/" + name }

// Checks lists the health checks of all gateways and services, sorted by owner and server.
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
	for _, s := range ir.checked {
		for _, v := range s.Versions {
			for _, e := range v.Endpoints {
				all = append(all, Check{OfService(s.Name), v.Name + "/" + e.HostPort(), e.Address, checkOf(s, e)})
			}
		}
	}
	slices.SortFunc(all, func(a, b Check) int { return cmp.Or(strings.Compare(a.Of, b.Of), strings.Compare(a.Server, b.Server)) })
	return all
}

// checkOf is how the daemon checks an endpoint of a service. It routes nothing by it: it
// is for status. What Envoys ask in HTTP/2 is a connection here.
func checkOf(s *requests.Service, e requests.Endpoint) packets.HealthCheck {
	how := *s.Health
	port := cmp.Or(how.HTTP.Port, how.TCP, e.Port)
	how.TCP, how.HTTP.Port, how.GRPC = port, 0, false
	if how.HTTP.Path != "" && s.Protocol == "http" {
		how.TCP, how.HTTP.Port = 0, port
	}
	return how
}

// Cell returns the rules of a part of a gateway, or nil.
func (ir *IR) Cell(gateway, part string) *packets.Cell {
	c, _ := ir.units[Name{schema.KindGateway, gateway, part}].(*packets.Cell)
	return c
}

// Blend returns the blend of that name of a gateway, or nil.
func (ir *IR) Blend(gateway, name string) *packets.Blend {
	b, _ := ir.units[Name{schema.KindGateway, gateway, poolPart + name}].(*packets.Blend)
	return b
}

// Services yields all services, in no order.
func (ir *IR) Services() iter.Seq[*requests.Service] {
	return func(yield func(*requests.Service) bool) {
		for _, unit := range ir.units {
			if s, ok := unit.(*requests.Service); ok && !yield(s) {
				return
			}
		}
	}
}

// Account returns the route of one account of a service, or nil.
func (ir *IR) Account(service, account string) *requests.AccountRoute {
	r, _ := ir.units[Name{schema.KindService, service, accountPart + account}].(*requests.AccountRoute)
	return r
}

// Rules is the rules for all requests of a service, sorted by policy.
func (ir *IR) Rules(service string) []*requests.Rule {
	var rules []*requests.Rule
	for n, unit := range ir.units {
		if r, ok := unit.(*requests.Rule); ok && n.Name == service {
			rules = append(rules, r)
		}
	}
	slices.SortFunc(rules, func(a, b *requests.Rule) int { return strings.Compare(a.Policy, b.Policy) })
	return rules
}

// depEtcd is the kind of the dep on an etcd target.
const depEtcd = "etcd"

// Lookup is a version whose endpoints come from etcd.
type Lookup struct {
	Service, Version string
	Target           string
	Origin           schema.Position
}

// Lookups lists all versions whose endpoints come from etcd, sorted by service and
// version.
func (ir *IR) Lookups() []Lookup {
	var all []Lookup
	for _, s := range ir.lookups {
		for _, v := range s.Versions {
			if v.Etcd != "" {
				all = append(all, Lookup{s.Name, v.Name, v.Etcd, v.Origin})
			}
		}
	}
	slices.SortFunc(all, func(a, b Lookup) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Version, b.Version))
	})
	return all
}
