package schema

import "net/netip"

// APIVersion is the only apiVersion that gray reads.
const APIVersion = "gray.dev/v1alpha1"

// The kinds of documents.
const (
	KindPolicy  = "GrayPolicy"
	KindService = "Service"
	KindGateway = "Gateway"
	KindSwitch  = "Switch"
	KindNetwork = "Network"
	KindNode    = "Node"
)

// Kinds lists the kinds, sorted.
func Kinds() []string {
	return []string{KindGateway, KindPolicy, KindNetwork, KindNode, KindService, KindSwitch}
}

// The struct tags of the types below are the single source for reading, for checking
// and for the JSON Schema:
//
//	json:"name"       the field's name in a document
//	gray:"required"   must be present and not empty
//	gray:"nonempty"   a list or mapping that must not be empty if it is present
//	gray:"min=1,max=9" the range of a number
//	gray:"default=5"   the value of an absent number or string
//	gray:"enum=a|b"   the allowed strings; the first is the default unless it is required
//	gray:"label"      an RFC 1123 label
//	doc:"..."         the description in the JSON Schema

// Metadata names a document.
type Metadata struct {
	Name   string            `json:"name" gray:"required,label" doc:"unique among the documents of its kind, an RFC 1123 label"`
	Labels map[string]string `json:"labels" doc:"free labels; networkSelector selects by them"`
}

// PolicySpec is the spec of a GrayPolicy: what goes to which version, and how fast.
type PolicySpec struct {
	Targets  []TargetRef `json:"targets" gray:"required" doc:"the Gateways and Services that the policy is about; one policy may move both planes in one commit"`
	Version  string      `json:"version" gray:"required,label" doc:"the version that matched traffic goes to; every Gateway and Service of targets must have it"`
	Priority int         `json:"priority" gray:"min=1,max=1000,default=100" doc:"1 to 1000, higher wins"`
	Suspend  bool        `json:"suspend" doc:"keep what is live, change nothing"`
	Match    []Match     `json:"match" doc:"a list of entries, any of which matches; within an entry all fields must match; without match and rollout nothing is matched"`
	Exclude  []Match     `json:"exclude" doc:"same shape as match; wins over it"`
	Rollout  *Rollout    `json:"rollout" doc:"move what it names step by step; absent: everything matched moves at once"`
}

// TargetRef names a Service or a Gateway.
type TargetRef struct {
	Kind string `json:"kind" gray:"required,enum=Gateway|Service" doc:"Gateway or Service"`
	Name string `json:"name" gray:"required,label" doc:"the document's name"`
}

// Match is one entry of match or exclude: all its fields have to match.
type Match struct {
	Line            int               `json:"-"`
	Accounts        []string          `json:"accounts" gray:"nonempty" doc:"Service: by the routing header; Gateway: every Network of that account"`
	Headers         []HeaderMatch     `json:"headers" gray:"nonempty" doc:"Service only: tests of request headers, all of which must pass"`
	Networks        []string          `json:"networks" gray:"nonempty,label" doc:"Gateway only: whole VPCs by document name"`
	NetworkSelector map[string]string `json:"networkSelector" gray:"nonempty" doc:"Gateway only: whole VPCs by label"`
	VMs             []VMMatch         `json:"vms" gray:"nonempty" doc:"Gateway only: single VMs, as source or destination"`
	Flow            *Flow             `json:"flow" doc:"Gateway only: down to one TCP flow"`
	Percent         *int              `json:"percent" gray:"min=0,max=100" doc:"Service: that share of accounts, sticky by account, requests without one come last, at 100; Gateway: that share of hash buckets; in exclude, the share that the policy does not get"`
}

// HeaderMatch is a test of one request header.
type HeaderMatch struct {
	Name    string  `json:"name" gray:"required" doc:"the header's name"`
	Exact   *string `json:"exact" doc:"the whole value"`
	Prefix  *string `json:"prefix" doc:"the start of the value"`
	Suffix  *string `json:"suffix" doc:"the end of the value"`
	Regex   *string `json:"regex" doc:"an RE2 expression for the whole value"`
	Present *bool   `json:"present" doc:"whether the header is there"`
	Invert  bool    `json:"invert" doc:"match when the test fails"`
}

// VMMatch is some VMs of one Network, by address.
type VMMatch struct {
	Network   string `json:"network" gray:"required,label" doc:"the Network document's name"`
	Addresses []Addr `json:"addresses" gray:"required" doc:"inner addresses"`
}

// Flow is a set of packets.
type Flow struct {
	VNI      *VNI       `json:"vni" doc:"0 to 16777215; 0 is traffic that is not VXLAN"`
	Src      *Prefix    `json:"src" doc:"inner source prefix (outer for traffic that is not VXLAN)"`
	Dst      *Prefix    `json:"dst" doc:"inner destination prefix (outer for traffic that is not VXLAN)"`
	Protocol *Protocol  `json:"protocol" doc:"tcp, udp, icmp or 0-255"`
	SrcPort  *PortRange `json:"srcPort" doc:"a port or a range, 40000-40999"`
	DstPort  *PortRange `json:"dstPort" doc:"a port or a range, 40000-40999"`
}

// Rollout is how a policy moves Networks batch by batch.
type Rollout struct {
	NetworkSelector map[string]string `json:"networkSelector" gray:"nonempty" doc:"the networks that move, by label"`
	Networks        []string          `json:"networks" gray:"nonempty,label" doc:"the networks that move, by document name"`
	Order           []string          `json:"order" gray:"nonempty,label" doc:"the order of the networks; absent: by name"`
	Batches         []Batch           `json:"batches" gray:"nonempty" doc:"VMs of the VPC that is moving, cumulative: counts and percentages"`
	Parallel        int               `json:"parallel" gray:"min=1,max=1000,default=1" doc:"VPCs that move at the same time"`
	Bake            Duration          `json:"bake" doc:"least time between a batch that passed and the next"`
	Approval        string            `json:"approval" gray:"enum=none|batch|network" doc:"wait for gray rollout promote or for through"`
	Through         *Through          `json:"through" doc:"go no further than this"`
	Verify          *Verify           `json:"verify" doc:"the probe that runs as soon as a batch is live"`
	Deadline        Duration          `json:"deadline" doc:"a rollout that makes no progress for so long is Stalled; absent: 30m"`
	OnFailure       string            `json:"onFailure" gray:"enum=rollback|pause" doc:"what a failed batch does"`
}

// Through is the last batch that a rollout may move.
type Through struct {
	Network string `json:"network" gray:"required,label" doc:"the last network"`
	Batch   int    `json:"batch" gray:"min=1" doc:"the last batch in it"`
}

// Verify is the regression test of a batch.
type Verify struct {
	Ping    *PingProbe `json:"ping" doc:"echo requests to monitored addresses"`
	TCP     *TCPProbe  `json:"tcp" doc:"a TCP connection"`
	HTTP    *HTTPProbe `json:"http" doc:"an HTTP request"`
	Exec    *ExecProbe `json:"exec" doc:"a program of the daemon's --exec-dir"`
	Retries int        `json:"retries" gray:"min=0,max=100" doc:"how often a failed probe is tried again"`
}

// PingProbe pings moved VMs and their peers.
type PingProbe struct {
	Count   int      `json:"count" gray:"min=1,max=1000,default=3" doc:"echo requests to each address"`
	Timeout Duration `json:"timeout" doc:"how long to wait for a reply"`
	MaxLoss Percent  `json:"maxLoss" doc:"the highest loss that passes"`
	Peers   int      `json:"peers" gray:"min=0,max=10000" doc:"peers of the same VPC to ping as well"`
	Source  string   `json:"source" gray:"enum=overlay|host" doc:"where the requests come from"`
}

// TCPProbe opens a connection.
type TCPProbe struct {
	Port    int      `json:"port" gray:"required,min=1,max=65535" doc:"the port"`
	Timeout Duration `json:"timeout" doc:"how long to wait"`
}

// HTTPProbe makes a request.
type HTTPProbe struct {
	URL    string `json:"url" gray:"required" doc:"an http or https URL"`
	Expect int    `json:"expect" gray:"min=100,max=599,default=200" doc:"the status that passes"`
}

// ExecProbe runs a program.
type ExecProbe struct {
	Command []string `json:"command" gray:"required" doc:"the program and its arguments; no shell"`
	Timeout Duration `json:"timeout" doc:"how long it may run"`
}

// ServiceSpec is the spec of a Service: a service behind Envoys.
type ServiceSpec struct {
	Hosts       []string         `json:"hosts" gray:"required" doc:"Host or :authority values; *.example.internal is every host below example.internal"`
	Protocol    string           `json:"protocol" gray:"enum=http|http2|grpc" doc:"what the endpoints speak"`
	RouteBy     *RouteBy         `json:"routeBy" doc:"where a request carries its account; absent: key account_id of header x-ucloud-routeby"`
	Default     string           `json:"default" gray:"required,label" doc:"the version for traffic that no policy matches"`
	Versions    []ServiceVersion `json:"versions" gray:"required" doc:"the versions and where they run"`
	HealthCheck *HealthCheck     `json:"healthCheck" doc:"how Envoys check the endpoints; absent: they do not"`
	Timeout     *Duration        `json:"timeout" doc:"from the end of a request to the end of its answer; it also ends streams on which a gRPC server is still sending; absent: none"`
	Retries     int              `json:"retries" gray:"min=0,max=10" doc:"how often a request that reached no server is sent again"`
}

// RouteBy is where a request carries its account.
type RouteBy struct {
	Header string `json:"header" gray:"required" doc:"the header's name"`
	Key    string `json:"key" gray:"required" doc:"the key in its cookie-encoded value"`
}

// ServiceVersion is one version of a Service.
type ServiceVersion struct {
	Line      int            `json:"-"`
	Name      string         `json:"name" gray:"required,label" doc:"the version's name"`
	Image     string         `json:"image" doc:"the image that nodes run"`
	Compose   map[string]any `json:"compose" doc:"further fields of its compose service, in the shape of the Compose Specification"`
	Endpoints []Endpoint     `json:"endpoints" doc:"where it runs"`
	Etcd      *EtcdTarget    `json:"etcd" doc:"endpoints from etcd's gRPC naming; excludes endpoints"`
}

// EtcdTarget is a target of etcd's gRPC naming.
type EtcdTarget struct {
	Target string `json:"target" gray:"required" doc:"what the endpoints are registered under, without a slash at its end: their keys are <target>/<anything>"`
}

// Endpoint is an address that serves a version.
type Endpoint struct {
	Address Addr `json:"address" gray:"required" doc:"an IP address"`
	Port    int  `json:"port" gray:"required,min=1,max=65535" doc:"the port"`
	Weight  int  `json:"weight" gray:"min=1,max=1000,default=1" doc:"its share of the requests"`
}

// HealthCheck is how servers are checked, by one of the first three fields. A Service
// cannot use icmp. With protocol grpc it may use none: then it is checked by gRPC.
type HealthCheck struct {
	HTTP     *HTTPCheck `json:"http" doc:"an HTTP request"`
	TCP      *TCPCheck  `json:"tcp" doc:"a TCP connection"`
	ICMP     *struct{}  `json:"icmp" doc:"an echo request; Gateway only"`
	Interval Duration   `json:"interval" doc:"time between checks"`
	Timeout  Duration   `json:"timeout" doc:"how long a check may take"`
	Rise     int        `json:"rise" gray:"min=1,max=100,default=2" doc:"passes that bring a server back"`
	Fall     int        `json:"fall" gray:"min=1,max=100,default=3" doc:"failures that take a server out"`
}

// HTTPCheck is an HTTP health check.
type HTTPCheck struct {
	Path string `json:"path" gray:"required" doc:"the path to get"`
	Port int    `json:"port" gray:"min=1,max=65535" doc:"the port, if it is not the endpoint's"`
}

// TCPCheck is a TCP health check.
type TCPCheck struct {
	Port int `json:"port" gray:"min=1,max=65535" doc:"the port, if it is not the endpoint's"`
}

// GatewaySpec is the spec of a Gateway: VIPs on switches and the servers behind them.
type GatewaySpec struct {
	VIPs        []Addr           `json:"vips" gray:"required" doc:"the addresses that the switches attract"`
	Switches    []string         `json:"switches" gray:"required,label" doc:"Switch documents by name"`
	Hash        *HashSpec        `json:"hash" doc:"how flows spread over the servers"`
	Forward     string           `json:"forward" gray:"enum=mac|ip" doc:"mac: rewrite the next hop only, servers own the VIP; ip: rewrite the outer destination"`
	Default     string           `json:"default" gray:"required,label" doc:"the version for traffic that no policy matches"`
	Versions    []GatewayVersion `json:"versions" gray:"required" doc:"the versions and their servers"`
	HealthCheck *HealthCheck     `json:"healthCheck" doc:"how servers are checked; absent: they are not"`
}

// HashSpec is how flows spread over the servers.
type HashSpec struct {
	Fields    []string `json:"fields" gray:"nonempty,enum=vni|src|dst|protocol|srcPort|dstPort" doc:"any non-empty subset; absent: all"`
	Algorithm string   `json:"algorithm" gray:"enum=maglev|rendezvous" doc:"maglev: best balance; rendezvous: strictly least movement"`
	Buckets   int      `json:"buckets" gray:"min=256,max=65536,default=16384" doc:"a power of two, 256 to 65536"`
}

// GatewayVersion is one version of a Gateway.
type GatewayVersion struct {
	Line     int       `json:"-"`
	Name     string    `json:"name" gray:"required,label" doc:"the version's name"`
	Backends []Backend `json:"backends" gray:"required" doc:"its servers"`
}

// Backend is one server behind a Gateway.
type Backend struct {
	Line    int            `json:"-"`
	Name    string         `json:"name" gray:"required,label" doc:"unique within the version"`
	Address Addr           `json:"address" gray:"required" doc:"the server's IP address"`
	MAC     *MAC           `json:"mac" doc:"the server's MAC address"`
	Port    *int           `json:"port" gray:"min=0,max=511" doc:"the switch port that leads to it"`
	Ports   map[string]int `json:"ports" gray:"min=0,max=511" doc:"the port for each switch, if they differ"`
	Weight  int            `json:"weight" gray:"min=1,max=1000,default=1" doc:"its share of the buckets"`
}

// SwitchSpec is the spec of a Switch: a P4Runtime target.
type SwitchSpec struct {
	Address      string   `json:"address" gray:"required" doc:"host:port of its P4Runtime server"`
	DeviceID     uint64   `json:"deviceID" gray:"min=1,default=1" doc:"the P4Runtime device id"`
	MAC          *MAC     `json:"mac" doc:"source of what the switch forwards; absent: made from the device id"`
	Role         string   `json:"role" doc:"P4Runtime role name; empty: full pipeline"`
	Pipeline     string   `json:"pipeline" gray:"default=v1model" doc:"v1model, tna (loaded by other means: pushPipeline never), or a folder of the repository with p4info.txtpb and device_config.bin or device_config.json"`
	PushPipeline string   `json:"pushPipeline" gray:"enum=ifDifferent|never" doc:"whether gray loads the pipeline; compared by cookie, without a device config by P4Info"`
	TLS          *TLS     `json:"tls" doc:"absent: plaintext, loopback only unless insecure"`
	Insecure     bool     `json:"insecure" doc:"allow plaintext beyond loopback"`
	BGP          *BGPSpec `json:"bgp" doc:"absent: VIPs are announced by something else"`
}

// TLS names the files of a client's certificate.
type TLS struct {
	CA   string `json:"ca" gray:"required" doc:"the authority's certificates, below --secrets-dir"`
	Cert string `json:"cert" doc:"the client's certificate, below --secrets-dir"`
	Key  string `json:"key" doc:"the client's key, below --secrets-dir"`
}

// BGPSpec is how a switch's VIPs are announced.
type BGPSpec struct {
	ASN          uint32        `json:"asn" gray:"required,min=1" doc:"the local AS number"`
	RouterID     Addr          `json:"routerID" gray:"required" doc:"the BGP identifier, an IPv4 address"`
	LocalAddress *Addr         `json:"localAddress" doc:"the address of the daemon's host to speak from; absent: the route decides"`
	NextHop      Addr          `json:"nextHop" gray:"required" doc:"the next hop of the announced VIPs of its family"`
	NextHop6     *Addr         `json:"nextHop6" doc:"the next hop of IPv6 VIPs, if nextHop is an IPv4 address"`
	Neighbors    []BGPNeighbor `json:"neighbors" gray:"required" doc:"the peers to announce to"`
	Communities  []Community   `json:"communities" doc:"communities on the announced VIPs, as asn:value"`
}

// BGPNeighbor is a BGP peer.
type BGPNeighbor struct {
	Address      Addr   `json:"address" gray:"required" doc:"the peer's address"`
	ASN          uint32 `json:"asn" gray:"required,min=1" doc:"the peer's AS number"`
	PasswordFile string `json:"passwordFile" doc:"file with the MD5 password, below --secrets-dir"`
}

// NetworkSpec is the spec of a Network: a VPC and its route table.
type NetworkSpec struct {
	VNI        *VNI     `json:"vni" gray:"required" doc:"0 to 16777215, unique among the Networks"`
	Account    string   `json:"account" doc:"the account that owns it"`
	Monitor    *Monitor `json:"monitor" doc:"the address that overlay pings come from"`
	Routes     []Route  `json:"routes" doc:"the route table"`
	RoutesFrom string   `json:"routesFrom" doc:"a CSV file of the repository with the header vm,prefix,mac,vtep"`
}

// Monitor is the address that overlay pings come from.
type Monitor struct {
	Address Addr `json:"address" gray:"required" doc:"inner address"`
	MAC     MAC  `json:"mac" gray:"required" doc:"inner MAC address"`
	VTEP    Addr `json:"vtep" gray:"required" doc:"outer address"`
}

// Route is one entry of a VPC's route table.
type Route struct {
	VM     string `json:"vm" gray:"required" doc:"the VM's name"`
	Prefix Prefix `json:"prefix" gray:"required" doc:"its inner prefix"`
	MAC    MAC    `json:"mac" gray:"required" doc:"its inner MAC address"`
	VTEP   Addr   `json:"vtep" gray:"required" doc:"the host it runs on"`
}

// NodeSpec is the spec of a Node: a host that runs sidecars.
type NodeSpec struct {
	Address  Addr          `json:"address" gray:"required" doc:"the host's IP address"`
	Proxy    *Proxy        `json:"proxy" doc:"its Envoy"`
	Services []NodeService `json:"services" doc:"what runs on it"`
}

// Proxy is a node's Envoy.
type Proxy struct {
	Port      int    `json:"port" gray:"min=1,max=65535,default=15001" doc:"the port that applications send to"`
	Bind      *Addr  `json:"bind" doc:"where it listens; absent: 127.0.0.1"`
	AdminPort int    `json:"adminPort" gray:"min=1,max=65535,default=15000" doc:"Envoy's admin port, on loopback"`
	Image     string `json:"image" doc:"the Envoy image; absent: envoyproxy/envoy:v1.40.0"`
}

// NodeService is a service that runs on a node.
type NodeService struct {
	Name    string `json:"name" gray:"required,label" doc:"the Service document's name"`
	Version string `json:"version" gray:"required,label" doc:"its version"`
}

// newSpec returns a new spec of a kind, or nil.
func newSpec(kind string) any {
	switch kind {
	case KindPolicy:
		return new(PolicySpec)
	case KindService:
		return new(ServiceSpec)
	case KindGateway:
		return new(GatewaySpec)
	case KindSwitch:
		return new(SwitchSpec)
	case KindNetwork:
		return new(NetworkSpec)
	case KindNode:
		return new(NodeSpec)
	}
	return nil
}

// loopback is the default of Proxy.Bind.
var loopback = Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
