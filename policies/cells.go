package policies

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// policiesOf groups claims on packets by policy, in order of precedence. It also
// returns the policies' documents by name.
func policiesOf(claims []claim) ([]packets.Policy, map[string]*schema.Document) {
	byDoc := map[*schema.Document]int{}
	var all []packets.Policy
	matched := map[*schema.Document]bool{}
	for i := range claims {
		cl := &claims[i]
		at := schema.Position{Path: cl.doc.Path, Line: cl.line}
		n, ok := byDoc[cl.doc]
		if !ok {
			n = len(all)
			byDoc[cl.doc] = n
			all = append(all, packets.Policy{Name: cl.doc.Name.Name, Priority: cl.spec.Priority, Version: cl.spec.Version, Origin: at})
		}
		p, e := &all[n], packets.Entry{cl.box, cl.percent, at}
		switch {
		case cl.planned:
			p.Planned = append(p.Planned, e)
		case cl.exclude:
			p.Exclude = append(p.Exclude, e)
		default:
			if !matched[cl.doc] {
				p.Origin, matched[cl.doc] = at, true
			}
			p.Matches = append(p.Matches, e)
		}
	}
	packets.SortPolicies(all)
	docs := make(map[string]*schema.Document, len(byDoc))
	for doc := range byDoc {
		docs[doc.Name.Name] = doc
	}
	return all, docs
}

// cell makes the rules of one VNI, or the rules that name no VNI, from the claims.
func (c *Compiler) cell(n Name, gw *packets.Gateway, claims []claim) *packets.Cell {
	in, all := packets.Scope{Wild: n.Part == anyVNI}, claims
	if !in.Wild {
		in.VNI = claims[0].box.VNI
		in.VMs = c.vms[in.VNI]
		all = slices.Concat(claims, c.claims[Name{n.Kind, n.Name, anyVNI}])
	}
	policies, docs := policiesOf(all)
	cell, conflicts, err := packets.NewCell(gw, in, policies)
	sideOf := func(p *packets.Policy) side {
		doc := docs[p.Name]
		return side{doc, doc.Spec.(*schema.PolicySpec), p.Origin.Line}
	}
	for _, f := range conflicts {
		c.conflict(n, sideOf(&policies[f.A]), sideOf(&policies[f.B]), f.Both.String())
	}
	if much, is := errors.AsType[*packets.TooMany](err); is {
		at := &schema.Error{Position: policies[much.Most].Origin, Err: fmt.Errorf("the policies for %s of Gateway %s %w; match whole networks or fewer flows", n.Part, n.Name, err)}
		c.errs[n] = append(c.errs[n], unitError{n.String(), at})
	}
	return cell
}

// setDefault works out the pool that the VIPs of a gateway point to, from the claims
// on all packets.
func (c *Compiler) setDefault(name string) {
	gw := c.ir.Gateway(name)
	n := Name{Kind: schema.KindGateway, Name: name}
	if gw == nil {
		c.useBlends(n, nil)
		return
	}
	all := slices.DeleteFunc(slices.Clone(c.claims[Name{n.Kind, name, anyVNI}]), func(cl claim) bool { return cl.box != packets.AnyMatch })
	next := *gw
	policies, _ := policiesOf(all)
	next.SetDefault(policies)
	uses := map[string]schema.Position{}
	if packets.IsBlend(next.DefaultPool) {
		uses[next.DefaultPool] = next.DefaultOrigin
	}
	c.useBlends(n, uses)
	if next.DefaultPool != gw.DefaultPool || next.DefaultPolicy != gw.DefaultPolicy || next.DefaultOrigin != gw.DefaultOrigin {
		c.ir.Put(n, &next)
		c.pending[n] = true
	}
}

// side is one of two policies in conflict.
type side struct {
	doc  *schema.Document
	spec *schema.PolicySpec
	line int // of what it matches
}

// conflict reports that two policies of one priority match the same with different
// versions. It is reported at the policy that comes later by place.
func (c *Compiler) conflict(n Name, a, b side, what string) {
	if b.doc.Compare(a.doc) < 0 {
		a, b = b, a
	}
	how := fmt.Sprintf("with different versions, %s there and %s here; give one a higher priority", a.spec.Version, b.spec.Version)
	if a.spec.Version == b.spec.Version {
		how = "with a rollout, so that nobody could tell which of them moves it; exclude it from one, or give one a higher priority"
	}
	err := b.doc.Errorf("spec.priority", "%d is also the priority of GrayPolicy %s (%s), and both match %s of %s %s %s",
		b.spec.Priority, a.doc.Name.Name, schema.Position{Path: a.doc.Path, Line: a.line}, what, n.Kind, n.Name, how)
	pair := a.doc.Name.Name + " " + b.doc.Name.Name + " " + n.Kind + " " + n.Name
	c.errs[n] = append(c.errs[n], unitError{pair, err})
}

// poolPart begins the part of a blend's unit.
const poolPart = "pool/"

// blends is which units point to which blend.
type blends struct {
	uses      map[Name]map[string]schema.Position // by unit: the pools
	users     map[Name]map[Name]schema.Position   // by blend: the units
	byGateway map[string]map[Name]bool
	blendIDs  map[Name][]idKey // by blend
}

// useBlends records which blends a unit points to, each with the place in a document.
// Blends that are new, no longer used or from another place are compiled again.
func (c *Compiler) useBlends(unit Name, now map[string]schema.Position) {
	was := c.uses[unit]
	for pool, at := range was {
		if have, still := now[pool]; !still || have != at {
			c.blendUsed(unit, pool, nil)
		}
	}
	for pool, at := range now {
		if have, before := was[pool]; !before || have != at {
			c.blendUsed(unit, pool, &at)
		}
	}
	if c.uses[unit] = now; len(now) == 0 {
		delete(c.uses, unit)
	}
}

func (c *Compiler) blendUsed(unit Name, pool string, at *schema.Position) {
	blend := Name{schema.KindGateway, unit.Name, poolPart + pool}
	if !c.dirtyBlends[blend] {
		c.dirtyBlends[blend] = false // to be checked
	}
	switch {
	case at == nil:
		delete(c.users[blend], unit)
	case c.users[blend] == nil:
		c.users[blend] = map[Name]schema.Position{unit: *at}
	default:
		c.users[blend][unit] = *at
	}
}

// blendsOf is the blends that rules point to.
func blendsOf(rules []packets.Rule) map[string]schema.Position {
	uses := map[string]schema.Position{}
	for i := range rules {
		if pool := rules[i].Pool; packets.IsBlend(pool) {
			uses[pool] = minPosition(uses[pool], rules[i].Origin)
		}
	}
	return uses
}

// compileBlend makes a blend, or removes it if no unit points to it.
func (c *Compiler) compileBlend(n Name, gatewayChanged bool) {
	users, gw := c.users[n], c.ir.Gateway(n.Name)
	if gw == nil || len(users) == 0 {
		delete(c.users, n)
		delete(c.byGateway[n.Name], n)
		c.wantIDs(n, c.blendIDs[n], nil)
		delete(c.blendIDs, n)
		c.ir.Put(n, nil)
		c.pending[n] = true
		return
	}
	var origin schema.Position
	for _, at := range users {
		origin = minPosition(origin, at)
	}
	name := strings.TrimPrefix(n.Part, poolPart)
	if was := c.ir.Blend(gw.Name, name); was != nil && was.Origin == origin && !gatewayChanged {
		return
	}
	var ids []idKey
	for _, sw := range gw.Switches {
		ids = append(ids, idKey{sw, SpacePool, gw.Name + "/" + name})
	}
	c.wantIDs(n, c.blendIDs[n], ids)
	c.blendIDs[n] = ids
	if c.byGateway[n.Name] == nil {
		c.byGateway[n.Name] = map[Name]bool{}
	}
	c.byGateway[n.Name][n] = true
	c.ir.Put(n, packets.NewBlend(gw, name, origin))
	c.pending[n] = true
}
