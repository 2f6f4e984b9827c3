package policies

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// examine reads a document: its unit of the IR, its claims, what others see of it,
// and its errors that concern other documents.
func (c *Compiler) examine(s *docState) {
	unit := Name{Kind: s.doc.Kind, Name: s.doc.Name.Name}
	switch spec := s.doc.Spec.(type) {
	case *schema.SwitchSpec:
		c.switches[s.doc.Name] = true
		c.ir.Put(unit, c.swtch(s, spec))
	case *schema.NetworkSpec:
		c.ir.Put(unit, c.network(s, spec))
	case *schema.ServiceSpec:
		c.ir.Put(unit, c.service(s, spec))
	case *schema.GatewaySpec:
		c.ir.Put(unit, c.gateway(s, spec))
	case *schema.NodeSpec:
		c.ir.Put(unit, c.node(s, spec))
	case *schema.PolicySpec:
		c.policy(s, spec)
	}
}

func (c *Compiler) swtch(s *docState, spec *schema.SwitchSpec) *Switch {
	sw := &Switch{
		Name: s.doc.Name.Name, Origin: s.doc.Position, Address: spec.Address, DeviceID: spec.DeviceID,
		Role: spec.Role, Pipeline: spec.Pipeline, Push: spec.PushPipeline, Insecure: spec.Insecure,
	}
	sw.Program, sw.sizes = c.program(s, spec)
	if spec.TLS != nil {
		sw.TLS = &TLS{CA: spec.TLS.CA, Cert: spec.TLS.Cert, Key: spec.TLS.Key}
	}
	if spec.BGP != nil {
		sw.BGP = bgpOf(spec.BGP)
	}
	// Locally administered, and different for each device.
	id := spec.DeviceID
	sw.MAC = [6]byte{0x02, 0x67, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id)}
	if spec.MAC != nil {
		sw.MAC = *spec.MAC
	}
	// What gateways on the switch are lowered with.
	s.facade = fmt.Sprint("switch ", sw.MAC)
	if b := sw.BGP; b != nil {
		s.facade += fmt.Sprint(" announces by ", b.NextHop, b.NextHop6, b.Communities)
		for _, n := range b.Neighbors {
			c.own(s, "neighbor", neighborKey(b.LocalAddress, n.Address))
		}
	}
	return sw
}

// neighborKey identifies a BGP session of this host. A neighbor tells its peers apart
// by address alone, so two switches cannot share one.
func neighborKey(local, neighbor netip.Addr) string {
	if local.IsValid() {
		return fmt.Sprintf("%s from %s", neighbor, local)
	}
	return neighbor.String()
}

func bgpOf(b *schema.BGPSpec) *BGP {
	out := &BGP{ASN: b.ASN, RouterID: b.RouterID.Addr, NextHop: b.NextHop.Addr}
	if b.LocalAddress != nil {
		out.LocalAddress = b.LocalAddress.Addr
	}
	if b.NextHop6 != nil {
		out.NextHop6 = b.NextHop6.Addr
	}
	for _, n := range b.Neighbors {
		out.Neighbors = append(out.Neighbors, BGPNeighbor{n.Address.Addr, n.ASN, n.PasswordFile})
	}
	slices.SortFunc(out.Neighbors, func(a, b BGPNeighbor) int { return a.Address.Compare(b.Address) })
	for _, c := range b.Communities {
		out.Communities = append(out.Communities, uint32(c))
	}
	slices.Sort(out.Communities)
	return out
}

func (c *Compiler) network(s *docState, spec *schema.NetworkSpec) *Network {
	c.own(s, "vni", fmt.Sprint(*spec.VNI))
	if c.nets[spec.Account] == nil {
		c.nets[spec.Account] = map[schema.Name]bool{}
	}
	c.nets[spec.Account][s.doc.Name] = true
	if spec.Account != "" {
		c.named++
	}
	s.vni = uint32(*spec.VNI)
	routes := c.set.Routes(s.doc.Name.Name)
	for _, r := range routes {
		if r.Prefix.IsSingleIP() {
			s.vms = append(s.vms, r.Prefix.Addr())
		} else {
			s.nets = append(s.nets, r.Prefix.Prefix)
		}
	}
	slices.SortFunc(s.vms, netip.Addr.Compare)
	s.vms = slices.Compact(s.vms)
	c.vms[s.vni] = s.vms
	s.facade = fmt.Sprint(*spec.VNI, spec.Account, s.doc.Metadata.Labels, s.ipv6(), spec.Monitor != nil)
	return &Network{
		Name: s.doc.Name.Name, Origin: s.doc.Position, VNI: s.vni, Monitor: spec.Monitor,
		Routes: len(routes), Digest: digestOf(routes),
	}
}

// digestOf tells route tables apart.
func digestOf(routes []schema.Route) string {
	h := sha256.New()
	var line []byte
	for _, r := range routes {
		line = fmt.Appendln(line[:0], r.VM, r.Prefix, r.MAC, r.VTEP)
		_, _ = h.Write(line)
	}
	return hex.EncodeToString(h.Sum(nil)[:6])
}

func (c *Compiler) service(s *docState, spec *schema.ServiceSpec) *requests.Service {
	svc := &requests.Service{
		Name: s.doc.Name.Name, Origin: s.doc.Position, Hosts: slices.Sorted(slices.Values(spec.Hosts)),
		Protocol: spec.Protocol, RouteBy: requests.DefaultRouteBy,
		Default: spec.Default, Health: healthOf(spec.HealthCheck), Retries: spec.Retries,
	}
	if spec.RouteBy != nil {
		svc.RouteBy = requests.RouteBy{Header: spec.RouteBy.Header, Key: spec.RouteBy.Key}
	}
	if h := spec.HealthCheck; h != nil {
		svc.Health.GRPC = h.HTTP == nil && h.TCP == nil
	}
	if spec.Timeout != nil {
		svc.Timeout = time.Duration(*spec.Timeout)
	}
	var names, runs []string
	if isEmpty(spec, spec.Default) {
		c.warnf(s, "spec.default", "version %s has no endpoint, so what goes there gets no answer", spec.Default)
	}
	for _, v := range spec.Versions {
		version := requests.ServiceVersion{
			Name: v.Name, Origin: schema.Position{Path: s.doc.Path, Line: v.Line}, Image: v.Image, Compose: v.Compose,
		}
		for _, e := range v.Endpoints {
			version.Endpoints = append(version.Endpoints, requests.Endpoint{e.Address.Addr, uint16(e.Port), uint32(e.Weight)})
		}
		slices.SortFunc(version.Endpoints, func(a, b requests.Endpoint) int {
			return netip.AddrPortFrom(a.Address, a.Port).Compare(netip.AddrPortFrom(b.Address, b.Port))
		})
		runs = append(runs, fmt.Sprint(version)) // without endpoints from etcd
		if v.Etcd != nil {
			c.dependOn(s, depEtcd, v.Etcd.Target)
			found, known := c.facts.Endpoints[v.Etcd.Target]
			version.Etcd, version.Endpoints, version.Unknown = v.Etcd.Target, found, !known
		}
		svc.Versions = append(svc.Versions, version)
		names = append(names, v.Name)
		if isEmpty(spec, v.Name) {
			s.empty += " " + v.Name
		}
	}
	slices.SortFunc(svc.Versions, func(a, b requests.ServiceVersion) int { return strings.Compare(a.Name, b.Name) })
	for _, h := range svc.Hosts {
		c.own(s, "host", h)
	}
	slices.Sort(names)
	slices.Sort(runs)
	s.facade = fmt.Sprint(svc.Default, names)
	s.runs = fmt.Sprint(svc.Health, svc.Protocol, runs)
	return svc
}

// isEmpty tells whether nothing can serve a version of a Service.
func isEmpty(spec *schema.ServiceSpec, version string) bool {
	return slices.ContainsFunc(spec.Versions, func(v schema.ServiceVersion) bool {
		return v.Name == version && len(v.Endpoints) == 0 && v.Etcd == nil
	})
}

func (c *Compiler) gateway(s *docState, spec *schema.GatewaySpec) *packets.Gateway {
	g := &packets.Gateway{
		Name: s.doc.Name.Name, Origin: s.doc.Position, Switches: slices.Sorted(slices.Values(spec.Switches)),
		Hash: hashOf(spec.Hash), Forward: spec.Forward, Health: healthOf(spec.HealthCheck),
		Default: spec.Default, DefaultPool: spec.Default, DefaultOrigin: s.doc.Position,
	}
	down := map[string]bool{}
	if g.Health != nil {
		for _, server := range c.facts.Down[g.Name] {
			down[server] = true
		}
	}
	for _, vip := range spec.VIPs {
		g.VIPs = append(g.VIPs, vip.Addr)
		c.own(s, "vip", vip.String())
	}
	slices.SortFunc(g.VIPs, netip.Addr.Compare)
	for i, sw := range spec.Switches {
		c.dependOn(s, schema.KindSwitch, sw)
		if doc := c.exists(s, schema.KindSwitch, sw, fmt.Sprintf("spec.switches[%d]", i)); doc != nil {
			c.checkNextHops(s, spec, doc)
		}
	}
	var names []string
	for _, v := range spec.Versions {
		names = append(names, v.Name)
		g.Pools = append(g.Pools, poolOf(s.doc, g, v, down))
	}
	slices.Sort(names)
	slices.SortFunc(g.Pools, func(a, b packets.Pool) int { return strings.Compare(a.Version, b.Version) })
	s.facade = fmt.Sprint(g.Default, names, g.Switches, g.HasIPv6())
	for _, sw := range g.Switches {
		s.ids = append(s.ids, idKey{sw, SpaceVIP, g.Name})
		for _, p := range g.Pools {
			s.ids = append(s.ids, idKey{sw, SpacePool, g.Name + "/" + p.Version})
			for _, b := range p.Backends {
				s.ids = append(s.ids, idKey{sw, SpaceBackend, g.Name + "/" + p.Version + "/" + b.Name})
			}
		}
	}
	return g
}

// checkNextHops reports VIPs for which a switch's BGP has no next hop.
func (c *Compiler) checkNextHops(s *docState, spec *schema.GatewaySpec, sw *schema.Document) {
	b := sw.Spec.(*schema.SwitchSpec).BGP
	if b == nil {
		return
	}
	bgp := bgpOf(b)
	for i, vip := range spec.VIPs {
		if !bgp.NextHopOf(vip.Addr).IsValid() {
			remedy := "give its bgp an IPv4 nextHop"
			if vip.Is6() {
				remedy = "give its bgp nextHop6"
			}
			c.errorf(s, fmt.Sprintf("spec.vips[%d]", i), "Switch %s (%s) has no next hop to announce %s with; %s", sw.Name.Name, sw.Position, vip, remedy)
		}
	}
}

func hashOf(h *schema.HashSpec) packets.Hash {
	has := func(f string) bool { return slices.Contains(h.Fields, f) }
	return packets.Hash{
		VNI: has("vni"), Src: has("src"), Dst: has("dst"), Protocol: has("protocol"),
		SrcPort: has("srcPort"), DstPort: has("dstPort"), Algorithm: h.Algorithm, Buckets: h.Buckets,
	}
}

func healthOf(h *schema.HealthCheck) *packets.HealthCheck {
	if h == nil {
		return nil
	}
	out := &packets.HealthCheck{
		ICMP: h.ICMP != nil, Interval: time.Duration(h.Interval), Timeout: time.Duration(h.Timeout), Rise: h.Rise, Fall: h.Fall,
	}
	if h.TCP != nil {
		out.TCP = uint16(h.TCP.Port)
	}
	if h.HTTP != nil {
		out.HTTP = packets.HTTPCheck{Port: uint16(h.HTTP.Port), Path: h.HTTP.Path}
	}
	return out
}

// poolOf makes the pool of a version; down has the backends that fail their health
// checks, as "version/backend".
func poolOf(doc *schema.Document, g *packets.Gateway, v schema.GatewayVersion, down map[string]bool) packets.Pool {
	p := packets.Pool{Version: v.Name, Origin: schema.Position{Path: doc.Path, Line: v.Line}}
	for _, b := range v.Backends {
		backend := packets.Backend{
			Name: b.Name, Origin: schema.Position{Path: doc.Path, Line: b.Line}, Address: b.Address.Addr,
			MAC: *b.MAC, Ports: map[string]uint32{}, Weight: b.Weight, Down: down[v.Name+"/"+b.Name],
		}
		for _, sw := range g.Switches {
			if b.Port != nil {
				backend.Ports[sw] = uint32(*b.Port)
			} else {
				backend.Ports[sw] = uint32(b.Ports[sw])
			}
		}
		p.Backends = append(p.Backends, backend)
	}
	slices.SortFunc(p.Backends, func(a, b packets.Backend) int { return strings.Compare(a.Name, b.Name) })
	p.Buckets, p.Kept = g.Hash.Fill(p.Backends)
	return p
}

// proxyImage is the image of a node's Envoy unless the Node says otherwise.
const proxyImage = "envoyproxy/envoy:v1.40.0"

func (c *Compiler) node(s *docState, spec *schema.NodeSpec) *Node {
	n := &Node{
		Name: s.doc.Name.Name, Origin: s.doc.Position, Address: spec.Address.Addr, Bind: spec.Proxy.Bind.Addr,
		Port: uint16(spec.Proxy.Port), AdminPort: uint16(spec.Proxy.AdminPort), Image: spec.Proxy.Image,
	}
	if n.Image == "" {
		n.Image = proxyImage
	}
	for i, ns := range spec.Services {
		field := fmt.Sprintf("spec.services[%d]", i)
		c.dependOn(s, schema.KindService, ns.Name)
		c.dependOn(s, depRuns, ns.Name)
		if doc := c.exists(s, schema.KindService, ns.Name, field+".name"); doc != nil {
			c.hasVersion(s, doc, ns.Version, field+".version")
		}
		n.Services = append(n.Services, NodeService{ns.Name, ns.Version, s.doc.At(field)})
	}
	slices.SortFunc(n.Services, func(a, b NodeService) int { return strings.Compare(a.Name, b.Name) })
	return n
}

// exists returns the document that a field refers to, or nil. It reports a missing
// document, but not one whose own errors are reported already.
func (c *Compiler) exists(s *docState, kind, name, field string) *schema.Document {
	ref := schema.Name{Kind: kind, Name: name}
	doc := c.set.Get(ref)
	if doc == nil && !c.set.Broken(ref) {
		c.errorf(s, field, "there is no %s %q in the repository", kind, name)
	}
	return doc
}

// hasVersion tells whether a Service or Gateway has a version, and reports if not.
func (c *Compiler) hasVersion(s *docState, target *schema.Document, version, field string) bool {
	var names []string
	switch spec := target.Spec.(type) {
	case *schema.ServiceSpec:
		for _, v := range spec.Versions {
			names = append(names, v.Name)
		}
	case *schema.GatewaySpec:
		for _, v := range spec.Versions {
			names = append(names, v.Name)
		}
	}
	if slices.Contains(names, version) {
		return true
	}
	c.errorf(s, field, "%s %s has no version %q; it has %s", target.Kind, target.Name.Name, version, strings.Join(names, ", "))
	return false
}

// Program is a pipeline from a folder of the repository. Its bytes are read-only.
type Program struct {
	P4Info       []byte // as the file has it
	DeviceConfig []byte `json:"-"` // too large to be stored with the switch
	Loads        bool   // there is a device config for gray to load
	Cookie       uint64 // a hash of both, never 0
	Origin       schema.Position
}

// program reads the pipeline of a switch from its folder and returns it with the sizes
// of its tables. It returns nil for a pipeline of gray's own or one with errors.
func (c *Compiler) program(s *docState, spec *schema.SwitchSpec) (*Program, map[string]int) {
	if spec.Pipeline == schema.PipelineV1Model || spec.Pipeline == schema.PipelineTNA {
		return nil, nil
	}
	files := c.set.Pipeline(spec.Pipeline)
	if files.P4Info == nil || files.P4Info.Err != nil || files.DeviceConfig != nil && files.DeviceConfig.Err != nil {
		return nil, nil // the set reports it
	}
	if c.sizes == nil {
		c.errorf(s, "spec.pipeline", "a pipeline of the repository cannot be read here; name v1model or tna")
		return nil, nil
	}
	sizes, err := c.sizes(files.P4Info.Data)
	if err != nil {
		c.errorf(s, "spec.pipeline", "%s is no P4Info in protobuf's text format: %w", files.P4Info.Path, err)
		return nil, nil
	}
	p := &Program{P4Info: files.P4Info.Data, Origin: s.doc.At("spec.pipeline")}
	h := fnv.New64a()
	_, _ = h.Write(p.P4Info)
	if files.DeviceConfig != nil {
		p.DeviceConfig, p.Loads = files.DeviceConfig.Data, true
		_, _ = h.Write(p.DeviceConfig)
	}
	p.Cookie = max(h.Sum64(), 1)
	return p, sizes
}
