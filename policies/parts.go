package policies

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// compilePart makes one part anew from the claims on it.
func (c *Compiler) compilePart(n Name) {
	delete(c.errs, n)
	whole := schema.Name{Kind: n.Kind, Name: n.Name}
	claims := c.claims[n]
	var unit any
	switch {
	case n.Kind == schema.KindService && c.ir.Service(n.Name) != nil:
		if strings.HasPrefix(n.Part, policyPart) {
			unit = c.policyRule(n, claims)
		} else {
			unit = c.accountRoute(n, claims)
		}
	case n.Kind == schema.KindGateway:
		gw := c.ir.Gateway(n.Name)
		cell := &packets.Cell{}
		if gw != nil && len(claims) > 0 {
			cell = c.cell(n, gw, claims)
		}
		if len(cell.Rules) > 0 {
			unit = cell
		}
		if was, _ := c.ir.Get(n).(*packets.Cell); was != nil && slices.Equal(was.Rules, cell.Rules) {
			unit = was
			break
		}
		c.count(n, cell)
		c.use(n, rulesUse(cell.Rules))
	}
	if unit != c.ir.Get(n) {
		c.pending[n] = true
	}
	c.ir.Put(n, unit)
	if len(claims) == 0 {
		delete(c.parts[whole], n)
		if len(c.parts[whole]) == 0 {
			delete(c.parts, whole)
		}
		delete(c.cells[n.Part], n)
		if len(c.cells[n.Part]) == 0 {
			delete(c.cells, n.Part)
		}
	}
}

// policiesOf gathers claims on packets by policy, in order of precedence, and the
// policies' documents by name.
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

// cell makes the rules of one VNI, or of the packets of any VNI, from the claims on
// them.
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
		at := &schema.Error{Position: policies[much.Most].Origin, Err: fmt.Errorf("what the policies say about %s of Gateway %s %w; match whole networks or fewer flows", n.Part, n.Name, err)}
		c.errs[n] = append(c.errs[n], unitError{n.String(), at})
	}
	return cell
}

// side is one of two policies that want different things.
type side struct {
	doc  *schema.Document
	spec *schema.PolicySpec
	line int // of what it matches
}

// conflict reports that two policies of one priority want different versions
// for the same. It is reported at the policy that comes later by place.
func (c *Compiler) conflict(n Name, a, b side, what string) {
	if b.doc.Compare(a.doc) < 0 {
		a, b = b, a
	}
	err := b.doc.Errorf("spec.priority", "%d is also the priority of GrayPolicy %s (%s), and both match %s of %s %s with different versions, %s there and %s here; give one a higher priority",
		b.spec.Priority, a.doc.Name.Name, schema.Position{Path: a.doc.Path, Line: a.line}, what, n.Kind, n.Name, a.spec.Version, b.spec.Version)
	pair := a.doc.Name.Name + " " + b.doc.Name.Name + " " + n.Kind + " " + n.Name
	c.errs[n] = append(c.errs[n], unitError{pair, err})
}
