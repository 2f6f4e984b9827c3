package schema

import (
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math/bits"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// validator checks one document, beyond the types of its fields.
type validator struct {
	*decoder
	root    *yaml.Node
	decoded Errors // errors of the decoder
}

// errorf adds an error at a field, unless the decoder has one at, in or around that
// field: the value is then not what the user wrote.
func (v *validator) errorf(field, format string, args ...any) {
	if !v.wrong(field) {
		at := Position{v.path, v.line + lineOf(v.root, field) - 1}
		v.list.errorf(at, field, format, args...)
	}
}

// wrong tells whether the decoder has an error at, in or around a field. Checks ask for
// the other fields that they use.
func (v *validator) wrong(fields ...string) bool {
	within := func(inner, outer string) bool {
		rest, ok := strings.CutPrefix(inner, outer)
		return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
	}
	return slices.ContainsFunc(v.decoded, func(e *Error) bool {
		return slices.ContainsFunc(fields, func(f string) bool { return within(e.Field, f) || within(f, e.Field) })
	})
}

// validate checks a document on its own, and fills defaults that depend on several
// fields.
func (d *decoder) validate(doc *Document, root *yaml.Node) {
	if d.exhausted() || d.list.more > 0 {
		return // not everything was read, or some errors were dropped
	}
	v := &validator{decoder: d, root: root, decoded: d.list.errs[d.first:]}
	doc.Spec.(interface{ validate(v *validator) }).validate(v)
}

// once refuses items of a list that are equal to an earlier one; verb formats them.
func once[T comparable](v *validator, field, verb string, list []T) {
	for i, item := range twice(list) {
		v.errorf(fmt.Sprintf("%s[%d]", field, i), verb+" is listed twice; remove one", item)
	}
}

// twice yields the items of a list that are equal to an earlier one, with their index.
func twice[T comparable](list []T) iter.Seq2[int, T] {
	return func(yield func(int, T) bool) {
		seen := make(map[T]bool, len(list))
		for i, item := range list {
			if seen[item] && !yield(i, item) {
				return
			}
			seen[item] = true
		}
	}
}

func (p *PolicySpec) validate(v *validator) {
	kinds := map[string]bool{}
	for _, t := range p.Targets {
		kinds[t.Kind] = true
	}
	for i, t := range twice(p.Targets) {
		v.errorf(fmt.Sprintf("spec.targets[%d]", i), "%s %s is listed twice; remove one", t.Kind, t.Name)
	}
	for i := range p.Match {
		v.match(&p.Match[i], fmt.Sprintf("spec.match[%d]", i), kinds)
	}
	for i := range p.Exclude {
		v.match(&p.Exclude[i], fmt.Sprintf("spec.exclude[%d]", i), kinds)
	}
	if p.Rollout != nil {
		v.rollout(p.Rollout)
	}
}

// match checks one entry. An entry that no target can match is an error.
func (v *validator) match(m *Match, field string, kinds map[string]bool) {
	gateway := m.Networks != nil || m.NetworkSelector != nil || m.VMs != nil || m.Flow != nil
	if !gateway && m.Accounts == nil && m.Headers == nil && m.Percent == nil {
		v.errorf(field, "is empty and would match everything; name accounts, networks, vms, a flow or percent: 100")
		return
	}
	if gateway && !kinds[KindGateway] && !v.wrong("spec.targets") {
		v.errorf(field, "networks, vms and flows are matched by Gateways only; add one to targets")
	}
	if m.Headers != nil && !kinds[KindService] && !v.wrong("spec.targets") {
		v.errorf(field, "headers are matched by Services only; add one to targets")
	}
	if m.Headers != nil && gateway {
		v.errorf(field, "Services cannot match networks, vms or flows, and Gateways cannot match headers; make two entries")
	}
	for i := range m.Headers {
		v.header(&m.Headers[i], fmt.Sprintf("%s.headers[%d]", field, i))
	}
	for i, a := range m.Accounts {
		if a == "" || strings.TrimSpace(a) != a {
			v.errorf(fmt.Sprintf("%s.accounts[%d]", field, i), "%q is empty or has spaces around it", clip(a))
		}
	}
	for i, vm := range m.VMs {
		once(v, fmt.Sprintf("%s.vms[%d].addresses", field, i), "%s", vm.Addresses)
	}
	if m.Flow != nil {
		v.flow(m.Flow, field+".flow")
	}
}

func (v *validator) flow(f *Flow, field string) {
	if *f == (Flow{}) {
		v.errorf(field, "is empty and would match everything; name at least one field")
	}
	if f.Src != nil && f.Dst != nil && !v.wrong(field+".src") && f.Src.Addr().Is4() != f.Dst.Addr().Is4() {
		v.errorf(field+".dst", "%s and src %s are of different IP versions", f.Dst, f.Src)
	}
	ports := f.SrcPort != nil || f.DstPort != nil
	if ports && f.Protocol != nil && *f.Protocol != 6 && *f.Protocol != 17 {
		v.errorf(field+".protocol", "has no ports; remove srcPort and dstPort, or say tcp or udp")
	}
}

func namesOf[T any](list []T, name func(T) string) []string {
	names := make([]string, len(list))
	for i, item := range list {
		names[i] = name(item)
	}
	return names
}

// uniqueNames reports names that are in a list twice.
func (v *validator) uniqueNames(field string, names []string) {
	for i, name := range twice(names) {
		v.errorf(fmt.Sprintf("%s[%d].name", field, i), "%q is listed twice; give each its own name", name)
	}
}

// versions checks that the names of versions are unique and have the default.
func (v *validator) versions(byDefault string, names []string) {
	v.uniqueNames("spec.versions", names)
	if len(names) == 0 || slices.Contains(names, byDefault) {
		return
	}
	for i := range names {
		if v.wrong(fmt.Sprintf("spec.versions[%d].name", i)) {
			return // it may be the default
		}
	}
	v.errorf("spec.default", "there is no version %q in versions", clip(byDefault))
}

func (s *ServiceSpec) validate(v *validator) {
	for i, h := range s.Hosts {
		if err := checkHost(h); err != nil {
			v.errorf(fmt.Sprintf("spec.hosts[%d]", i), "%v", err)
		}
	}
	once(v, "spec.hosts", "%q", s.Hosts)
	if s.RouteBy != nil {
		v.routeBy(s.RouteBy)
	}
	if s.HealthCheck != nil {
		v.serviceHealth(s)
	}
	v.versions(s.Default, namesOf(s.Versions, func(ver ServiceVersion) string { return ver.Name }))
	for i, ver := range s.Versions {
		v.compose(&s.Versions[i], fmt.Sprintf("spec.versions[%d]", i))
		if ver.Etcd != nil {
			v.etcd(&s.Versions[i], fmt.Sprintf("spec.versions[%d]", i))
		}
		addresses := make([]netip.AddrPort, len(ver.Endpoints))
		for j, e := range ver.Endpoints {
			addresses[j] = netip.AddrPortFrom(e.Address.Addr, uint16(e.Port))
		}
		for j, a := range twice(addresses) {
			v.errorf(fmt.Sprintf("spec.versions[%d].endpoints[%d]", i, j), "%s is listed twice; use weight for a larger share", a)
		}
	}
}

// maxTarget bounds an etcd target, in bytes.
const maxTarget = 512

// etcd checks a version with endpoints from etcd.
func (v *validator) etcd(ver *ServiceVersion, field string) {
	if ver.Endpoints != nil {
		v.errorf(field+".etcd", "cannot be used with endpoints; give one of the two")
	}
	target := ver.Etcd.Target
	switch field += ".etcd.target"; {
	case strings.HasSuffix(target, "/"):
		v.errorf(field, "%q ends in a slash; leave it out, keys are %s/<anything>", clip(target), clip(strings.TrimRight(target, "/")))
	case len(target) > maxTarget || !isPrintable(target):
		v.errorf(field, "%q is no target; want up to %d printable ASCII characters without spaces", clip(target), maxTarget)
	}
}

// isPrintable tells whether a text is ASCII without spaces or control characters.
func isPrintable(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// checkHost checks a Host value.
func checkHost(h string) error {
	for label := range strings.SplitSeq(strings.TrimPrefix(h, "*."), ".") {
		if !isLabel(label) {
			return fmt.Errorf("%q is not a host; want lower-case labels with dots between them, without port, the first one perhaps a *", clip(h))
		}
	}
	return nil
}

func (g *GatewaySpec) validate(v *validator) {
	if g.Hash == nil {
		g.Hash = withDefaults[HashSpec]()
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
	once(v, "spec.hash.fields", "%s", g.Hash.Fields)
	once(v, "spec.vips", "%s", g.VIPs)
	for i, vip := range g.VIPs {
		if vip.IsMulticast() || vip.IsUnspecified() || vip.IsLoopback() {
			v.errorf(fmt.Sprintf("spec.vips[%d]", i), "%s cannot be announced as a VIP", vip)
		}
	}
	once(v, "spec.switches", "%q", g.Switches)
	v.versions(g.Default, namesOf(g.Versions, func(ver GatewayVersion) string { return ver.Name }))
	switches := slices.Compact(slices.Sorted(slices.Values(g.Switches)))
	for i, ver := range g.Versions {
		at := fmt.Sprintf("spec.versions[%d].backends", i)
		v.uniqueNames(at, namesOf(ver.Backends, func(b Backend) string { return b.Name }))
		for j := range ver.Backends {
			v.backend(&ver.Backends[j], fmt.Sprintf("%s[%d]", at, j), switches)
		}
	}
}

// backend checks a backend. switches is the gateway's, sorted.
func (v *validator) backend(b *Backend, field string, switches []string) {
	if b.MAC == nil {
		v.errorf(field+".mac", "is missing; the switch needs the MAC address of the next hop, whatever it rewrites")
	}
	if b.Port != nil && b.Ports != nil {
		v.errorf(field+".ports", "cannot be used with port; give one of the two")
	}
	if b.Port == nil && b.Ports == nil {
		v.errorf(field+".port", "is missing; give port, or ports by switch")
	}
	if b.Ports == nil || v.wrong("spec.switches") {
		return
	}
	for _, sw := range slices.Sorted(maps.Keys(b.Ports)) {
		if _, ok := slices.BinarySearch(switches, sw); !ok {
			v.errorf(fieldName(field+".ports", sw), "the gateway is not on a switch %q", clip(sw))
		}
	}
	for _, sw := range switches {
		if _, ok := b.Ports[sw]; !ok {
			v.errorf(field+".ports", "has no port for switch %q", sw)
			break // one error is enough, and it bounds the search
		}
	}
}

func (s *SwitchSpec) validate(v *validator) {
	if s.BGP != nil {
		v.bgp(s.BGP)
	}
	switch {
	case s.Pipeline == PipelineTNA && s.PushPipeline != "never" && !v.wrong("spec.pushPipeline"):
		v.errorf("spec.pipeline", "gray has no device config for a Tofino, which is made with the switch's own SDE; put it and %s into a folder and name that here, or load the pipeline by other means and set pushPipeline: never", P4InfoFile)
	case !fs.ValidPath(s.Pipeline):
		v.errorf("spec.pipeline", "%q is not a clean path within the repository; want %s, %s or a folder", clip(s.Pipeline), PipelineV1Model, PipelineTNA)
	}
	if s.TLS != nil && (s.TLS.Cert == "") != (s.TLS.Key == "") {
		v.errorf("spec.tls", "cert and key go together; give both or none")
	}
	host, port, err := net.SplitHostPort(s.Address)
	if n, portErr := decimal(port, 65535); err != nil || host == "" || portErr != nil || n == 0 {
		v.errorf("spec.address", "%q is not host:port", clip(s.Address))
		return
	}
	if s.TLS == nil && !s.Insecure && !v.wrong("spec.tls", "spec.insecure") && !IsLoopback(host) {
		v.errorf("spec.address", "%s is not on loopback and would be reached in plaintext; give tls, or insecure: true", s.Address)
	}
}

// maxNeighbors bounds the BGP sessions of a switch.
const maxNeighbors = 64

// bgp checks the bgp of a Switch.
func (v *validator) bgp(b *BGPSpec) {
	v.asn("spec.bgp.asn", b.ASN)
	if !b.RouterID.Is4() || b.RouterID.IsUnspecified() {
		v.errorf("spec.bgp.routerID", "%s is not a BGP identifier; want an IPv4 address", b.RouterID)
	}
	for field, hop := range map[string]*Addr{"nextHop": &b.NextHop, "nextHop6": b.NextHop6} {
		if hop != nil && !isHost(*hop) {
			v.errorf("spec.bgp."+field, "%s cannot be a next hop; want the address of one interface", hop)
		}
	}
	if b.NextHop6 != nil && (!b.NextHop6.Is6() || b.NextHop.Is6()) {
		v.errorf("spec.bgp.nextHop6", "is the IPv6 next hop beside an IPv4 nextHop; give nextHop alone where there is one family")
	}
	if len(b.Neighbors) > maxNeighbors {
		v.errorf("spec.bgp.neighbors", "has %d neighbors; gray keeps up to %d sessions a switch, announce to route reflectors", len(b.Neighbors), maxNeighbors)
	}
	seen := map[Addr]bool{}
	for i, n := range b.Neighbors {
		field := fmt.Sprintf("spec.bgp.neighbors[%d]", i)
		v.asn(field+".asn", n.ASN)
		switch {
		case !isHost(n.Address):
			v.errorf(field+".address", "%s cannot be a neighbor; want the address of one router", n.Address)
		case seen[n.Address]:
			v.errorf(field+".address", "%s is listed twice; remove one", n.Address)
		case b.LocalAddress != nil && !v.wrong("spec.bgp.localAddress") && b.LocalAddress.Is4() != n.Address.Is4():
			v.errorf(field+".address", "%s cannot be reached from localAddress %s, they are of different IP versions", n.Address, b.LocalAddress)
		}
		seen[n.Address] = true
	}
	once(v, "spec.bgp.communities", "%s", b.Communities)
}

// asn refuses AS numbers that no router may use (RFC 7607, RFC 6793, RFC 7300).
func (v *validator) asn(field string, asn uint32) {
	if asn == 23456 || asn == 65535 || asn == 1<<32-1 {
		v.errorf(field, "%d is reserved; want the AS number of a network", asn)
	}
}

// isHost tells whether an address can be that of an interface.
func isHost(a Addr) bool { return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() }

// IsLoopback tells whether a host, an IP address or a name, is loopback.
func IsLoopback(host string) bool {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host == "localhost" || err == nil && a.IsLoopback()
}

func (n *NetworkSpec) validate(v *validator) {
	if n.Routes != nil && n.RoutesFrom != "" {
		v.errorf("spec.routesFrom", "cannot be used with routes; give one of the two")
	}
	switch {
	case n.RoutesFrom == "":
	case !fs.ValidPath(n.RoutesFrom):
		v.errorf("spec.routesFrom", "%q is not a clean path within the repository", clip(n.RoutesFrom))
	case path.Ext(n.RoutesFrom) != ".csv":
		v.errorf("spec.routesFrom", "%q does not end in .csv", clip(n.RoutesFrom))
	}
	seen := make(map[Prefix]string, len(n.Routes))
	for i, r := range n.Routes {
		if other, twice := seen[r.Prefix]; twice {
			v.errorf(fmt.Sprintf("spec.routes[%d].prefix", i), "%s is routed to %s already", r.Prefix, clip(other))
		}
		seen[r.Prefix] = r.VM
	}
}

func (n *NodeSpec) validate(v *validator) {
	if n.Proxy == nil {
		n.Proxy = withDefaults[Proxy]()
	}
	if n.Proxy.Bind == nil {
		n.Proxy.Bind = &loopback
	}
	if n.Proxy.Port == n.Proxy.AdminPort {
		v.errorf("spec.proxy.adminPort", "%d is the proxy's port too; give it another", n.Proxy.AdminPort)
	}
	v.uniqueNames("spec.services", namesOf(n.Services, func(s NodeService) string { return s.Name }))
}
