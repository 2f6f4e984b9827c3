package policies

import (
	"slices"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/schema"
)

// mostShadow bounds how many claims on one unit are compared to find shadowed policies.
const mostShadow = 200

// shadow notes which policies say nothing on a unit because policies with a higher
// priority match all that they match there.
func (c *Compiler) shadow(n Name, claims []claim) {
	delete(c.shadows, n)
	switch {
	case n.Kind == schema.KindGateway && n.Part != anyVNI:
		claims = slices.Concat(claims, c.claims[Name{n.Kind, n.Name, anyVNI}])
	case n.Kind == schema.KindService:
		for g := range c.general[n.Name] {
			if g != n {
				claims = append(slices.Clip(claims), c.claims[g]...)
			}
		}
	}
	if len(claims) < 2 || len(claims) > mostShadow {
		return
	}
	by := map[*schema.Document]*schema.Document{}
	alive := map[*schema.Document]bool{}
	for i := range claims {
		cl := &claims[i]
		if cl.exclude || cl.planned || alive[cl.doc] {
			continue
		}
		over := slices.IndexFunc(claims, func(o claim) bool { return covers(n.Kind, &o, cl) })
		if over < 0 {
			alive[cl.doc] = true
			delete(by, cl.doc)
			continue
		}
		by[cl.doc] = claims[over].doc
	}
	for doc := range alive {
		delete(by, doc)
	}
	if len(by) > 0 {
		c.shadows[n] = by
	}
}

// covers tells whether one claim leaves nothing to another one.
func covers(kind string, o, cl *claim) bool {
	if o.doc == cl.doc || o.exclude || o.planned || o.network != "" || o.percent != 100 || o.spec.Priority <= cl.spec.Priority || len(o.spec.Exclude) > 0 {
		return false
	}
	if kind == schema.KindService {
		return len(o.match.Headers) == 0
	}
	box := o.box
	return box == packets.AnyMatch || box.Covers(cl.box)
}

// shadowed warns of the policies that do nothing anywhere.
func (c *Compiler) shadowed() (all schema.Errors) {
	policies := map[*schema.Document]bool{}
	for _, by := range c.shadows {
		for doc := range by {
			policies[doc] = true
		}
	}
	for doc := range policies {
		s := c.docs[doc.Name]
		if s == nil || s.doc != doc || doc.Spec.(*schema.PolicySpec).Rollout != nil {
			continue
		}
		var over *schema.Document
		everywhere := !slices.ContainsFunc(s.units, func(u Name) bool {
			by := c.shadows[u][doc]
			if by != nil && (over == nil || by.Compare(over) < 0) {
				over = by
			}
			return by == nil
		})
		if everywhere {
			all = append(all, doc.Errorf("spec.priority", "does nothing: GrayPolicy %s (%s) has a higher priority and matches all that it matches; remove it, or give it a higher one", over.Name.Name, over.Position))
		}
	}
	return all
}

// unused warns of the Switches that no Gateway is on.
func (c *Compiler) unused() (all schema.Errors) {
	for name := range c.switches {
		if len(c.deps[dep{name.Kind, name.Name}]) == 0 {
			all = append(all, c.docs[name].doc.Errorf("metadata.name", "no Gateway is on Switch %s, so nothing but its pipeline is put there", name.Name))
		}
	}
	return all
}
