package policies

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// rollouts is the rollouts in the documents.
type rollouts struct {
	rolls  map[string]*declaredRollout // by policy
	scopes map[string]map[string]bool  // by Network: the policies whose rollouts move it
	plans  map[Name]map[string]bool    // by unit that a move claims: these policies
}

// declaredRollout is the rollout of one policy as the documents declare it.
type declaredRollout struct {
	doc      *schema.Document
	spec     *schema.PolicySpec
	line     int
	identity string
	targets  []schema.Name
	names    []string          // of the Networks, in order
	units    map[string][]Name // by Network: the units that its move claims

	made  *rollout.Spec                    // as Rollout returned it last; nil: never
	stale map[string]bool                  // Networks whose routes changed since
	anew  bool                             // other policies took or left some of what it moves
	of    map[schema.Name]*schema.Document // the targets that it was made from
}

// rollout reads a policy's rollout: which Networks move, in which order, and which
// units their moves claim. Each unit gets a planned claim that matches nothing yet, so
// that a conflict with another policy is reported in the commit that makes it and not
// in the middle of a rollout.
func (c *Compiler) rollout(s *docState, spec *schema.PolicySpec, targets []schema.Name) {
	const at = "spec.rollout"
	r := &declaredRollout{
		doc: s.doc, spec: spec, line: s.doc.At(at).Line, targets: targets, units: map[string][]Name{}, stale: map[string]bool{},
	}
	r.identity = identityOf(spec)
	c.rolls[s.doc.Name.Name] = r
	gateway := func(t schema.TargetRef) bool { return t.Kind == schema.KindGateway }
	if pingsOverlay(spec.Rollout.Verify) && !slices.ContainsFunc(spec.Targets, gateway) {
		c.errorf(s, at+".verify.ping.source", "overlay pings go through the VIP of a Gateway, and the policy has none among its targets; add one, or say host")
	}
	r.names = c.inOrder(s, spec.Rollout, c.selected(s, spec.Rollout))
	e := entryOf{s: s, spec: spec, m: &schema.Match{Line: r.line}, field: at}
	for _, n := range r.names {
		doc := c.docs[schema.Name{Kind: schema.KindNetwork, Name: n}]
		net := doc.doc.Spec.(*schema.NetworkSpec)
		for _, t := range targets {
			u := Name{schema.KindGateway, t.Name, packets.VNIPart(doc.vni)}
			if t.Kind == schema.KindService {
				u.Part = accountPart + net.Account
				u.Kind = schema.KindService
				if net.Account == "" {
					continue
				}
			} else {
				c.checkIPv6(s, t.Name, doc)
			}
			r.units[n] = append(r.units[n], u)
			c.plan(e, u, packets.VNIMatch(doc.vni))
		}
		c.checkMonitor(s, spec.Rollout.Verify, n, net)
		if c.scopes[n] == nil {
			c.scopes[n] = map[string]bool{}
		}
		c.scopes[n][s.doc.Name.Name] = true
	}
	if p, ok := c.facts.Progress[s.doc.Name.Name]; ok {
		c.touchMoves(s.doc.Name.Name, &p)
	}
}

// plan adds a planned claim on a unit.
func (c *Compiler) plan(e entryOf, u Name, box packets.Match) {
	c.claim(e, u, box)
	list := c.claims[u]
	list[len(list)-1].planned = true
	if c.plans[u] == nil {
		c.plans[u] = map[string]bool{}
	}
	c.plans[u][e.s.doc.Name.Name] = true
}

// endRollout undoes what a policy's rollout contributed, except its claims, which are
// the document's.
func (c *Compiler) endRollout(policy string) {
	r := c.rolls[policy]
	if r == nil {
		return
	}
	for _, n := range r.names {
		if delete(c.scopes[n], policy); len(c.scopes[n]) == 0 {
			delete(c.scopes, n)
		}
		for _, u := range r.units[n] {
			if delete(c.plans[u], policy); len(c.plans[u]) == 0 {
				delete(c.plans, u)
			}
		}
	}
	delete(c.rolls, policy)
}

// identityOf is the rollout.Digests.Identity of a policy.
func identityOf(spec *schema.PolicySpec) string {
	var targets []string
	for _, t := range spec.Targets {
		targets = append(targets, t.Kind+"/"+t.Name)
	}
	slices.Sort(targets)
	return spec.Version + " of " + strings.Join(targets, ", ")
}

// selected is the Networks that a rollout names or selects, sorted.
func (c *Compiler) selected(s *docState, r *schema.Rollout) []string {
	var names []string
	for i, n := range r.Networks {
		if c.networkRef(s, n, fmt.Sprintf("spec.rollout.networks[%d]", i)) != nil && c.docs[schema.Name{Kind: schema.KindNetwork, Name: n}] != nil {
			names = append(names, n)
		}
	}
	if r.NetworkSelector != nil {
		c.dependOn(s, depLabels, "")
		for _, all := range c.nets {
			for n := range all {
				if selects(r.NetworkSelector, c.docs[n].doc.Metadata.Labels) {
					names = append(names, n.Name)
				}
			}
		}
		if len(names) == 0 {
			c.warnf(s, "spec.rollout.networkSelector", "selects no Network, so nothing moves")
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// inOrder sorts Networks in the order of a rollout: those in order first, then the
// others by name.
func (c *Compiler) inOrder(s *docState, r *schema.Rollout, names []string) []string {
	var order []string
	for i, n := range r.Order {
		if _, ok := slices.BinarySearch(names, n); ok {
			order = append(order, n)
		} else if !c.set.Broken(schema.Name{Kind: schema.KindNetwork, Name: n}) {
			c.errorf(s, fmt.Sprintf("spec.rollout.order[%d]", i), "Network %q is not one that the rollout moves", n)
		}
	}
	if t := r.Through; t != nil {
		if _, ok := slices.BinarySearch(names, t.Network); !ok && !c.set.Broken(schema.Name{Kind: schema.KindNetwork, Name: t.Network}) {
			c.errorf(s, "spec.rollout.through.network", "Network %q is not one that the rollout moves", t.Network)
		}
	}
	if len(order) == 0 {
		return names
	}
	listed := make(map[string]bool, len(order))
	for _, n := range order {
		listed[n] = true
	}
	return append(order, slices.DeleteFunc(names, func(n string) bool { return listed[n] })...)
}

// checkIPv6 reports a Network with IPv6 VMs that moves on a Gateway without an IPv6
// VIP, as needIPv6 does for a match.
func (c *Compiler) checkIPv6(s *docState, gateway string, network *docState) {
	if gw := c.ir.Gateway(gateway); gw != nil && network.ipv6() && !gw.HasIPv6() {
		c.errorf(s, "spec.rollout", "Network %s has IPv6 VMs, and Gateway %s has no IPv6 VIP", network.doc.Name.Name, gateway)
	}
}

// ipv6 tells whether a Network has IPv6 VMs, which are last in vms.
func (s *docState) ipv6() bool { return len(s.vms) > 0 && s.vms[len(s.vms)-1].Is6() }

// overlays tells whether a verification sends overlay pings.
func pingsOverlay(v *schema.Verify) bool {
	return v != nil && v.Ping != nil && v.Ping.Source == "overlay"
}

// checkMonitor reports a Network without a monitor if overlay pings need one.
func (c *Compiler) checkMonitor(s *docState, v *schema.Verify, name string, n *schema.NetworkSpec) {
	if pingsOverlay(v) && n.Monitor == nil {
		c.errorf(s, "spec.rollout.verify.ping.source", "overlay pings come from the monitor of a Network, and Network %s has none; give it one, or say host", name)
	}
}

// Rollout returns the rollout of a policy as the documents of the last Compile declare
// it, or nil if there is none. The pointer changes only when its value does.
func (c *Compiler) Rollout(policy string) *rollout.Spec {
	r := c.rolls[policy]
	if r == nil {
		return nil
	}
	if r.anew {
		r.made, r.anew = nil, false
	}
	same := r.made != nil && len(r.stale) == 0
	for _, t := range r.targets {
		same = same && r.of[t] == c.docs[t].doc
	}
	if same {
		return r.made
	}
	spec := &rollout.Spec{
		Policy: policy, Version: r.spec.Version, Digests: c.digests(r), Targets: r.targets, Suspend: r.spec.Suspend, Rollout: r.spec.Rollout,
	}
	if r.made == nil {
		for _, n := range r.names {
			net, had := c.rolloutNetwork(r, n)
			if net != nil {
				spec.Networks = append(spec.Networks, *net)
			}
			if had.VMs > 0 || had.Whole {
				spec.Had = append(spec.Had, had)
			}
		}
	} else {
		spec.Networks, spec.Had = slices.Clone(r.made.Networks), r.made.Had
		for n := range r.stale {
			if _, i := r.made.Network(n); i >= 0 {
				net, had := c.rolloutNetwork(r, n)
				if net == nil || had.VMs > 0 || len(spec.Had) > 0 { // whose it is may have changed too
					r.anew = true
					return c.Rollout(policy)
				}
				spec.Networks[i] = *net
			}
		}
	}
	spec.Index()
	clear(r.stale)
	spec.VIPs, spec.Servers = c.addresses(r.targets)
	r.made = spec
	return spec
}

// rolloutNetwork is a Network for the state machine, or nil if the policy excludes all
// of it or other policies move all of it, and what of it these move.
func (c *Compiler) rolloutNetwork(r *declaredRollout, name string) (*rollout.Network, rollout.Had) {
	doc := c.docs[schema.Name{Kind: schema.KindNetwork, Name: name}]
	net := doc.doc.Spec.(*schema.NetworkSpec)
	n := &rollout.Network{Name: name, Account: net.Account, VNI: doc.vni, VMs: doc.vms, Routes: c.set.Routes(name), Monitor: net.Monitor}
	var wide []packets.Match
	single := map[packets.Match]bool{} // one VM as source or destination
	for _, cl := range c.excludes(r, name) {
		switch {
		case cl.box.Covers(packets.VNIMatch(n.VNI)):
			return nil, rollout.Had{}
		case cl.box.Table() == packets.TableVMSrc || cl.box.Table() == packets.TableVMDst:
			single[cl.box] = true
		default:
			wide = append(wide, cl.box)
		}
	}
	had := c.had(r, name, n)
	if had.Whole {
		return nil, had
	}
	if len(single)+len(wide) == 0 {
		return n, had
	}
	stays := func(m packets.Match) bool {
		return single[m] || slices.ContainsFunc(wide, func(w packets.Match) bool { return w.Covers(m) })
	}
	n.VMs = slices.DeleteFunc(slices.Clone(n.VMs), func(a netip.Addr) bool {
		pair := vmPair(n.VNI, a)
		return stays(pair[0]) && stays(pair[1])
	})
	return n, had
}

// excludes is the policy's excludes of 100 percent for a Network that its rollout
// moves: on its first Gateway, or else for the account.
func (c *Compiler) excludes(r *declaredRollout, network string) []claim {
	var out []claim
	take := func(u Name) {
		for _, cl := range c.claims[u] {
			if cl.doc == r.doc && cl.exclude && cl.percent == 100 && len(cl.match.Headers) == 0 {
				if u.Kind == schema.KindService {
					cl.box = packets.AnyMatch
				}
				out = append(out, cl)
			}
		}
	}
	units := slices.Clone(r.units[network])
	slices.SortStableFunc(units, func(a, b Name) int { return strings.Compare(a.Kind, b.Kind) }) // Gateways first
	for i, u := range units {
		if i == 0 {
			take(u)
		}
		if i == 0 && u.Kind == schema.KindGateway {
			take(Name{u.Kind, u.Name, anyVNI})
		}
	}
	return out
}

// addresses returns the VIPs and servers of targets.
func (c *Compiler) addresses(targets []schema.Name) (vips, servers []netip.Addr) {
	for _, t := range targets {
		switch spec := c.docs[t].doc.Spec.(type) {
		case *schema.GatewaySpec:
			for _, v := range spec.VIPs {
				vips = append(vips, v.Addr)
			}
			for _, v := range spec.Versions {
				for _, b := range v.Backends {
					servers = append(servers, b.Address.Addr)
				}
			}
		case *schema.ServiceSpec:
			for _, v := range spec.Versions {
				for _, e := range v.Endpoints {
					servers = append(servers, e.Address.Addr)
				}
			}
		}
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	slices.SortFunc(servers, netip.Addr.Compare)
	return slices.Compact(vips), slices.Compact(servers)
}

// Rollouts lists the policies with a rollout, sorted.
func (c *Compiler) Rollouts() []string {
	names := make([]string, 0, len(c.rolls))
	for n := range c.rolls {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// digests works out the digests of a rollout, and keeps the targets they depend on.
func (c *Compiler) digests(r *declaredRollout) rollout.Digests {
	r.of = map[schema.Name]*schema.Document{}
	versions, whole := []any{r.identity}, []any{r.identity}
	for _, t := range r.targets {
		doc := c.docs[t].doc
		r.of[t] = doc
		whole = append(whole, doc.Spec)
		switch spec := doc.Spec.(type) {
		case *schema.ServiceSpec:
			i := slices.IndexFunc(spec.Versions, func(v schema.ServiceVersion) bool { return v.Name == r.spec.Version })
			versions = append(versions, spec.Versions[i])
		case *schema.GatewaySpec:
			i := slices.IndexFunc(spec.Versions, func(v schema.GatewayVersion) bool { return v.Name == r.spec.Version })
			versions = append(versions, spec.Versions[i])
		}
	}
	moves := schema.Rollout{Networks: r.spec.Rollout.Networks, NetworkSelector: r.spec.Rollout.NetworkSelector}
	content := digest(append(versions, moves, r.spec.Exclude))
	moves.Verify = r.spec.Rollout.Verify
	return rollout.Digests{
		Identity: r.identity, Content: content, Fingerprint: digest(append(whole, content, r.spec.Priority, r.spec.Match, moves)),
	}
}

// digest is a short hash of values.
func digest(values []any) string {
	b, err := json.Marshal(values)
	if err != nil {
		panic("policies: encode a document: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}
