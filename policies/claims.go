package policies

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// The parts of a Service and a Gateway.
const (
	accountPart = "account/"
	policyPart  = "policy/"
	anyVNI      = packets.WildPart
)

// policy reads a GrayPolicy: its claims on its targets.
func (c *Compiler) policy(s *docState, spec *schema.PolicySpec) {
	var targets []schema.Name
	for i, t := range spec.Targets {
		field := fmt.Sprintf("spec.targets[%d].name", i)
		c.dependOn(s, t.Kind, t.Name)
		target := c.exists(s, t.Kind, t.Name, field)
		if target == nil || !c.hasVersion(s, target, spec.Version, "spec.version") {
			continue
		}
		targets = append(targets, schema.Name(t))
		if svc, is := target.Spec.(*schema.ServiceSpec); is && isEmpty(svc, spec.Version) {
			c.warnf(s, "spec.version", "version %s of Service %s has no endpoint, so what goes there gets no answer", spec.Version, t.Name)
		}
		for _, exclude := range []bool{false, true} {
			entries, at := spec.Match, "spec.match"
			if exclude {
				entries, at = spec.Exclude, "spec.exclude"
			}
			for j := range entries {
				entry := entryOf{s: s, spec: spec, m: &entries[j], field: fmt.Sprintf("%s[%d]", at, j), exclude: exclude}
				if t.Kind == schema.KindService {
					c.claimRequests(entry, t.Name)
				} else {
					c.claimPackets(entry, t.Name)
				}
			}
		}
	}
	if spec.Rollout != nil {
		c.rollout(s, spec, targets)
	}
}

// entryOf is one entry of a policy's match or exclude.
type entryOf struct {
	s       *docState
	spec    *schema.PolicySpec
	m       *schema.Match
	field   string
	exclude bool
}

// percent is the entry's share of the buckets or accounts.
func (e entryOf) percent() int {
	if e.m.Percent == nil {
		return 100
	}
	return *e.m.Percent
}

// claim records what an entry says about a unit.
func (c *Compiler) claim(e entryOf, unit Name, box packets.Match) {
	// The claims of a document on a unit follow one another.
	if list := c.claims[unit]; len(list) == 0 || list[len(list)-1].doc != e.s.doc {
		e.s.units = append(e.s.units, unit)
	}
	whole := schema.Name{Kind: unit.Kind, Name: unit.Name}
	if c.parts[whole] == nil {
		c.parts[whole] = map[Name]bool{}
	}
	c.parts[whole][unit] = true
	if c.cells[unit.Part] == nil {
		c.cells[unit.Part] = map[Name]bool{}
	}
	c.cells[unit.Part][unit] = true
	if unit.Kind == schema.KindService && strings.HasPrefix(unit.Part, policyPart) {
		if c.general[unit.Name] == nil {
			c.general[unit.Name] = map[Name]bool{}
		}
		c.general[unit.Name][unit] = true
	}
	c.retake(unit, e.s.doc)
	c.claims[unit] = append(c.claims[unit], claim{doc: e.s.doc, spec: e.spec, exclude: e.exclude, match: e.m, line: e.m.Line, box: box, percent: e.percent()})
	c.touch(unit)
}

// claimPackets claims the packets of an entry on a Gateway. An entry with headers is
// for Services only.
func (c *Compiler) claimPackets(e entryOf, gateway string) {
	if e.m.Headers != nil {
		return
	}
	gw := c.ir.Gateway(gateway)
	boxes := []packets.Match{packets.AnyMatch}
	if e.m.Accounts != nil {
		boxes = intersectAll(boxes, c.accountBoxes(e))
	}
	if e.m.Networks != nil || e.m.NetworkSelector != nil {
		boxes = intersectAll(boxes, c.networkBoxes(e))
	}
	if e.m.VMs != nil {
		boxes = intersectAll(boxes, c.vmBoxes(e, gw))
	}
	if e.m.Flow != nil {
		boxes = intersectAll(boxes, []packets.Match{c.flowBox(e, gw)})
	}
	if e.percent() == 0 {
		return // it takes nothing
	}
	for _, b := range boxes {
		part := anyVNI
		if !b.AnyVNI {
			part = packets.VNIPart(b.VNI)
		}
		c.claim(e, Name{schema.KindGateway, gateway, part}, b)
	}
}

// claimRequests claims the requests of an entry on a Service: those of the accounts
// that it names, or else all. An entry that names packets is for Gateways only.
func (c *Compiler) claimRequests(e entryOf, service string) {
	m := e.m
	if m.Networks != nil || m.NetworkSelector != nil || m.VMs != nil || m.Flow != nil || e.percent() == 0 {
		return
	}
	if m.Accounts == nil {
		c.claim(e, Name{schema.KindService, service, policyPart + e.s.doc.Name.Name}, packets.Match{})
	}
	for i, a := range m.Accounts {
		c.knowAccount(e, i, a)
		c.claim(e, Name{schema.KindService, service, accountPart + a}, packets.Match{})
	}
}

// knowAccount warns of an account that no Network has, where Networks have accounts.
func (c *Compiler) knowAccount(e entryOf, i int, account string) {
	c.dependOn(e.s, depNamed, "")
	c.dependOn(e.s, depAccount, account)
	onGateway := slices.ContainsFunc(e.spec.Targets, func(t schema.TargetRef) bool { return t.Kind == schema.KindGateway })
	if c.named > 0 && len(c.nets[account]) == 0 && !onGateway { // there it is warned of already
		c.warnf(e.s, fmt.Sprintf("%s.accounts[%d]", e.field, i), "no Network has the account %q; is it written rightly?", account)
	}
}

// nothing says what becomes of an entry that nothing matches.
func (e entryOf) nothing() string {
	if e.exclude {
		return "nothing is excluded by it"
	}
	return "nothing matches it"
}

func intersectAll(a, b []packets.Match) []packets.Match {
	var all []packets.Match
	for _, x := range a {
		for _, y := range b {
			if z, some := x.Intersect(y); some && !slices.Contains(all[max(0, len(all)-1):], z) {
				all = append(all, z)
			}
		}
	}
	return all
}

// accountBoxes is the VNIs of the accounts of an entry.
func (c *Compiler) accountBoxes(e entryOf) []packets.Match {
	var boxes []packets.Match
	for i, a := range e.m.Accounts {
		c.dependOn(e.s, depAccount, a)
		found := false
		for name := range c.nets[a] {
			boxes = append(boxes, packets.VNIMatch(uint32(*c.docs[name].doc.Spec.(*schema.NetworkSpec).VNI)))
			found = true
		}
		if !found {
			at := fmt.Sprintf("%s.accounts[%d]", e.field, i)
			if e.exclude {
				c.warnf(e.s, at, "no Network has the account %q, so nothing is excluded by it on a Gateway", a)
			} else {
				c.warnf(e.s, at, "no Network has the account %q, so no Gateway moves any of its traffic", a)
			}
		}
	}
	slices.SortFunc(boxes, func(a, b packets.Match) int { return int(a.VNI) - int(b.VNI) })
	return slices.Compact(boxes)
}

// networkBoxes is the VNIs that an entry names or selects.
func (c *Compiler) networkBoxes(e entryOf) []packets.Match {
	var boxes []packets.Match
	for i, name := range e.m.Networks {
		if n := c.networkRef(e.s, name, fmt.Sprintf("%s.networks[%d]", e.field, i)); n != nil {
			boxes = append(boxes, packets.VNIMatch(uint32(*n.VNI)))
		}
	}
	if e.m.NetworkSelector != nil {
		c.dependOn(e.s, depLabels, "")
		for _, names := range c.nets {
			for name := range names {
				if doc := c.docs[name].doc; selects(e.m.NetworkSelector, doc.Metadata.Labels) {
					boxes = append(boxes, packets.VNIMatch(uint32(*doc.Spec.(*schema.NetworkSpec).VNI)))
				}
			}
		}
		if len(boxes) == 0 {
			c.warnf(e.s, e.field+".networkSelector", "selects no Network, so %s", e.nothing())
		}
	}
	slices.SortFunc(boxes, func(a, b packets.Match) int { return int(a.VNI) - int(b.VNI) })
	return slices.Compact(boxes)
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// networkRef returns the Network that a field refers to, or nil.
func (c *Compiler) networkRef(s *docState, name, field string) *schema.NetworkSpec {
	c.dependOn(s, schema.KindNetwork, name)
	if doc := c.exists(s, schema.KindNetwork, name, field); doc != nil {
		return doc.Spec.(*schema.NetworkSpec)
	}
	return nil
}

// vmBoxes is the packets from and to the VMs of an entry.
func (c *Compiler) vmBoxes(e entryOf, gw *packets.Gateway) []packets.Match {
	var boxes []packets.Match
	for i, vm := range e.m.VMs {
		field := fmt.Sprintf("%s.vms[%d]", e.field, i)
		n := c.networkRef(e.s, vm.Network, field+".network")
		if n == nil {
			continue
		}
		for j, a := range vm.Addresses {
			if a.Is6() {
				c.needIPv6(e.s, gw, fmt.Sprintf("%s.addresses[%d]", field, j), a.String())
			}
			c.knowVM(e, vm.Network, a.Addr, fmt.Sprintf("%s.addresses[%d]", field, j))
			src, dst := packets.VNIMatch(uint32(*n.VNI)), packets.VNIMatch(uint32(*n.VNI))
			src.Src = netip.PrefixFrom(a.Addr, a.BitLen())
			dst.Dst = src.Src
			boxes = append(boxes, src, dst)
		}
	}
	return boxes
}

// knowVM warns of an address that is not in a Network's route table, if it has one.
func (c *Compiler) knowVM(e entryOf, network string, a netip.Addr, field string) {
	c.dependOn(e.s, depRoutes, network)
	n := c.docs[schema.Name{Kind: schema.KindNetwork, Name: network}]
	if n == nil || len(n.vms)+len(n.nets) == 0 {
		return
	}
	if _, known := slices.BinarySearchFunc(n.vms, a, netip.Addr.Compare); known {
		return
	}
	if !slices.ContainsFunc(n.nets, func(p netip.Prefix) bool { return p.Contains(a) }) {
		c.warnf(e.s, field, "%s is not in the route table of Network %s, so %s", a, network, e.nothing())
	}
}

// flowBox is the packets of the flow of an entry.
func (c *Compiler) flowBox(e entryOf, gw *packets.Gateway) packets.Match {
	f, m := e.m.Flow, packets.AnyMatch
	if f.VNI != nil {
		m = packets.VNIMatch(uint32(*f.VNI))
	}
	if f.Src != nil {
		m.Src = f.Src.Prefix
		if f.Src.Addr().Is6() {
			c.needIPv6(e.s, gw, e.field+".flow.src", f.Src.String())
		}
	}
	if f.Dst != nil {
		m.Dst = f.Dst.Prefix
		if f.Dst.Addr().Is6() {
			c.needIPv6(e.s, gw, e.field+".flow.dst", f.Dst.String())
		}
	}
	if f.Protocol != nil {
		m.Protocol = int16(*f.Protocol)
	}
	if f.SrcPort != nil {
		m.SrcPort = packets.PortRange(*f.SrcPort)
	}
	if f.DstPort != nil {
		m.DstPort = packets.PortRange(*f.DstPort)
	}
	return m
}

// needIPv6 reports an IPv6 value of an entry if the gateway has no IPv6 VIP.
func (c *Compiler) needIPv6(s *docState, gw *packets.Gateway, field, value string) {
	if !gw.HasIPv6() {
		c.errorf(s, field, "%s is IPv6, and Gateway %s has no IPv6 VIP", value, gw.Name)
	}
}
