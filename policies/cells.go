package policies

import (
	"errors"
	"fmt"
	"slices"

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
