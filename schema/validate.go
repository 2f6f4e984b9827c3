package schema

import (
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
)

// validator collects what is wrong within one document, beyond its types.
type validator struct {
	doc  *Document
	errs Errors
}

func (v *validator) errorf(field, format string, args ...any) {
	v.errs = append(v.errs, v.doc.Errorf(field, format, args...))
}

// validate checks a document on its own and fills defaults that depend on more
// than one field.
func validate(doc *Document) Errors {
	v := &validator{doc: doc}
	switch spec := doc.Spec.(type) {
	case *PolicySpec:
		v.policy(spec)
	case *ServiceSpec:
		v.service(spec)
	case *GatewaySpec:
		v.gateway(spec)
	case *SwitchSpec:
		v.swtch(spec)
	case *NetworkSpec:
		v.network(spec)
	case *NodeSpec:
		v.node(spec)
	}
	return v.errs
}

func (v *validator) policy(p *PolicySpec) {
	kinds := map[string]bool{}
	for i, t := range p.Targets {
		kinds[t.Kind] = true
		if slices.Index(p.Targets, t) < i {
			v.errorf(fmt.Sprintf("spec.targets[%d]", i), "%s %s stands here twice; remove one", t.Kind, t.Name)
		}
	}
	for i := range p.Match {
		v.match(&p.Match[i], fmt.Sprintf("spec.match[%d]", i), kinds)
	}
	for i := range p.Exclude {
		v.match(&p.Exclude[i], fmt.Sprintf("spec.exclude[%d]", i), kinds)
	}
}

// match checks one entry; an entry that no target can act on is an error.
func (v *validator) match(m *Match, field string, kinds map[string]bool) {
	gateway := m.Networks != nil || m.NetworkSelector != nil || m.VMs != nil || m.Flow != nil
	if !gateway && m.Accounts == nil && m.Percent == nil {
		v.errorf(field, "is empty and would match everything; name accounts, networks, vms, a flow or percent: 100")
		return
	}
	if m.Percent != nil {
		v.percent(field, kinds)
	}
	if gateway && !kinds[KindGateway] {
		v.errorf(field, "networks, vms and flows are matched by Gateways, and no target is one")
	}
	for i, a := range m.Accounts {
		if a == "" || strings.TrimSpace(a) != a {
			v.errorf(fmt.Sprintf("%s.accounts[%d]", field, i), "%q is empty or has spaces around it", a)
		}
	}
	for i, vm := range m.VMs {
		for j, a := range vm.Addresses {
			if slices.Index(vm.Addresses, a) < j {
				v.errorf(fmt.Sprintf("%s.vms[%d].addresses[%d]", field, i, j), "%s stands here twice; remove one", a)
			}
		}
	}
	if m.Flow != nil {
		v.flow(m.Flow, field+".flow")
	}
}

func (v *validator) flow(f *Flow, field string) {
	if *f == (Flow{}) {
		v.errorf(field, "is empty and would match everything; name at least one field")
	}
	if f.Src != nil && f.Dst != nil && f.Src.Addr().Is4() != f.Dst.Addr().Is4() {
		v.errorf(field+".dst", "%s and src %s are of different IP versions", f.Dst, f.Src)
	}
	ports := f.SrcPort != nil || f.DstPort != nil
	if ports && f.Protocol != nil && *f.Protocol != 6 && *f.Protocol != 17 {
		v.errorf(field+".protocol", "has no ports; remove srcPort and dstPort, or say tcp or udp")
	}
}

// uniqueNames reports names that come twice in a list.
func (v *validator) uniqueNames(field string, n int, name func(int) string) {
	seen := map[string]bool{}
	for i := range n {
		if seen[name(i)] {
			v.errorf(fmt.Sprintf("%s[%d].name", field, i), "%q stands here twice; give each its own name", name(i))
		}
		seen[name(i)] = true
	}
}

func (v *validator) service(s *ServiceSpec) {
	for i, h := range s.Hosts {
		if err := checkHost(h); err != nil {
			v.errorf(fmt.Sprintf("spec.hosts[%d]", i), "%v", err)
		}
		if slices.Index(s.Hosts, h) < i {
			v.errorf(fmt.Sprintf("spec.hosts[%d]", i), "%q stands here twice; remove one", h)
		}
	}
	v.uniqueNames("spec.versions", len(s.Versions), func(i int) string { return s.Versions[i].Name })
	if !slices.ContainsFunc(s.Versions, func(x ServiceVersion) bool { return x.Name == s.Default }) {
		v.errorf("spec.default", "there is no version %q in versions", s.Default)
	}
	for i, ver := range s.Versions {
		for j, e := range ver.Endpoints {
			if slices.ContainsFunc(ver.Endpoints[:j], func(x Endpoint) bool { return x.Address == e.Address && x.Port == e.Port }) {
				v.errorf(fmt.Sprintf("spec.versions[%d].endpoints[%d]", i, j), "%s stands here twice; use weight for a larger share",
					netip.AddrPortFrom(e.Address.Addr, uint16(e.Port)))
			}
		}
	}
}

// checkHost checks a Host value.
func checkHost(h string) error {
	if strings.HasPrefix(h, "*.") {
		return fmt.Errorf("%q: hosts with a wildcard are not supported yet; list the hosts", h)
	}
	for label := range strings.SplitSeq(h, ".") {
		if !isLabel(label) {
			return fmt.Errorf("%q is not a host; want lower-case labels with dots between them, without port", h)
		}
	}
	return nil
}

func (v *validator) gateway(g *GatewaySpec) {
	if g.Hash == nil {
		g.Hash = &HashSpec{}
		for _, f := range fieldsOf(hashSpecType).list {
			f.rules.setDefault(fieldOf(g.Hash, f.index))
		}
	}
	if g.Forward == "ip" {
		v.forwardIP(g)
	}
	if g.HealthCheck != nil {
		v.gatewayHealth(g.HealthCheck)
	}
	if bits.OnesCount(uint(g.Hash.Buckets)) != 1 {
		v.errorf("spec.hash.buckets", "%d is not a power of two; want one from 256 to 65536", g.Hash.Buckets)
	}
	if g.Hash.Fields == nil {
		g.Hash.Fields = []string{"vni", "src", "dst", "protocol", "srcPort", "dstPort"}
	}
	if len(g.Hash.Fields) == 0 {
		v.errorf("spec.hash.fields", "is empty; name at least one field, or leave it out for all")
	}
	for i, vip := range g.VIPs {
		if slices.Index(g.VIPs, vip) < i {
			v.errorf(fmt.Sprintf("spec.vips[%d]", i), "%s stands here twice; remove one", vip)
		}
		if vip.IsMulticast() || vip.IsUnspecified() || vip.IsLoopback() {
			v.errorf(fmt.Sprintf("spec.vips[%d]", i), "%s cannot be announced as a VIP", vip)
		}
	}
	for i, sw := range g.Switches {
		if slices.Index(g.Switches, sw) < i {
			v.errorf(fmt.Sprintf("spec.switches[%d]", i), "%q stands here twice; remove one", sw)
		}
	}
	v.uniqueNames("spec.versions", len(g.Versions), func(i int) string { return g.Versions[i].Name })
	if !slices.ContainsFunc(g.Versions, func(x GatewayVersion) bool { return x.Name == g.Default }) {
		v.errorf("spec.default", "there is no version %q in versions", g.Default)
	}
	for i, ver := range g.Versions {
		at := fmt.Sprintf("spec.versions[%d].backends", i)
		v.uniqueNames(at, len(ver.Backends), func(j int) string { return ver.Backends[j].Name })
		for j := range ver.Backends {
			v.backend(g, &ver.Backends[j], fmt.Sprintf("%s[%d]", at, j))
		}
	}
}

func (v *validator) backend(g *GatewaySpec, b *Backend, field string) {
	if b.MAC == nil {
		v.errorf(field+".mac", "is missing; the switch needs the MAC address of the next hop, whatever it rewrites")
	}
	if b.Port != nil && b.Ports != nil {
		v.errorf(field+".ports", "stands beside port; give one of the two")
	}
	if b.Port == nil && b.Ports == nil {
		v.errorf(field+".port", "is missing; give port, or ports by switch")
	}
	for sw := range b.Ports {
		if !slices.Contains(g.Switches, sw) {
			v.errorf(field+".ports."+sw, "the gateway is not on a switch %q", sw)
		}
	}
	for _, sw := range g.Switches {
		if _, ok := b.Ports[sw]; b.Ports != nil && !ok {
			v.errorf(field+".ports", "has no port for switch %q", sw)
		}
	}
}

func (v *validator) swtch(s *SwitchSpec) {
	host, port, err := net.SplitHostPort(s.Address)
	if err != nil || host == "" || port == "" {
		v.errorf("spec.address", "%q is not host:port", s.Address)
		return
	}
	if s.DeviceID == 0 {
		s.DeviceID = 1
	}
	if s.Pipeline == "" {
		s.Pipeline = "v1model"
	}
	if s.Pipeline != "v1model" {
		v.errorf("spec.pipeline", "%q is not supported yet; want v1model", s.Pipeline)
	}
	if s.TLS != nil && (s.TLS.Cert == "") != (s.TLS.Key == "") {
		v.errorf("spec.tls", "cert and key go together; give both or none")
	}
	if s.TLS == nil && !s.Insecure && !isLoopbackHost(host) {
		v.errorf("spec.address", "%s is not on loopback and would be spoken to in plaintext; give tls, or insecure: true", s.Address)
	}
}

func isLoopbackHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (v *validator) network(n *NetworkSpec) {
	if n.Routes != nil && n.RoutesFrom != "" {
		v.errorf("spec.routesFrom", "stands beside routes; give one of the two")
	}
	if n.RoutesFrom != "" && (path.IsAbs(n.RoutesFrom) || path.Clean(n.RoutesFrom) != n.RoutesFrom || strings.HasPrefix(n.RoutesFrom, "..")) {
		v.errorf("spec.routesFrom", "%q is not a clean path within the repository", n.RoutesFrom)
	}
	seen := make(map[Prefix]string, len(n.Routes))
	for i, r := range n.Routes {
		if other, twice := seen[r.Prefix]; twice {
			v.errorf(fmt.Sprintf("spec.routes[%d].prefix", i), "%s is routed to %s already", r.Prefix, other)
		}
		seen[r.Prefix] = r.VM
	}
}

func (v *validator) node(n *NodeSpec) {
	if n.Proxy == nil {
		n.Proxy = &Proxy{}
		for _, f := range fieldsOf(proxyType).list {
			f.rules.setDefault(fieldOf(n.Proxy, f.index))
		}
	}
	if n.Proxy.Bind == nil {
		n.Proxy.Bind = &loopback
	}
	if n.Proxy.Port == n.Proxy.AdminPort {
		v.errorf("spec.proxy.adminPort", "%d is the proxy's port too; give it another", n.Proxy.AdminPort)
	}
	v.uniqueNames("spec.services", len(n.Services), func(i int) string { return n.Services[i].Name })
}
