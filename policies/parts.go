package policies

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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
		cell := &Cell{}
		if gw != nil && len(claims) > 0 {
			cell = c.cell(n, gw, claims)
		}
		if len(cell.Rules) > 0 {
			unit = cell
		}
		if was, _ := c.ir.Get(n).(*Cell); was != nil && slices.Equal(was.Rules, cell.Rules) {
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

// group is the claims of one policy on a unit.
type group struct {
	doc              *schema.Document
	spec             *schema.PolicySpec
	line             int     // of the first match
	matches, exclude []entry // those with larger shares first
	planned          []entry // what a rollout will come to match
}

// entry is one of the sets of packets that a policy's match or exclude names.
type entry struct {
	box     Match
	percent int // the share of the buckets that it is about, 1 to 100
	line    int
}

// groupClaims gathers claims by policy, in order of precedence: priority, then
// name (which decides nothing but the order, as equal priorities may not
// disagree).
func groupClaims(claims []claim) []group {
	byDoc := map[*schema.Document]int{}
	var groups []group
	for _, cl := range claims {
		i, ok := byDoc[cl.doc]
		if !ok {
			i = len(groups)
			byDoc[cl.doc] = i
			groups = append(groups, group{doc: cl.doc, spec: cl.spec, line: cl.line})
		}
		g := &groups[i]
		if cl.planned {
			g.planned = append(g.planned, entry{cl.box, cl.percent, cl.line})
			continue
		}
		if cl.exclude {
			g.exclude = append(g.exclude, entry{cl.box, cl.percent, cl.line})
			continue
		}
		if len(g.matches) == 0 {
			g.line = cl.line
		}
		g.matches = append(g.matches, entry{cl.box, cl.percent, cl.line})
	}
	for i := range groups {
		for _, entries := range [][]entry{groups[i].matches, groups[i].exclude} {
			slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(b.percent, a.percent) })
		}
	}
	slices.SortFunc(groups, func(a, b group) int {
		return cmp.Or(cmp.Compare(b.spec.Priority, a.spec.Priority), strings.Compare(a.doc.Name.Name, b.doc.Name.Name))
	})
	return groups
}

func (g group) origin() schema.Position { return schema.Position{Path: g.doc.Path, Line: g.line} }

// side is one of two policies that want different things.
type side struct {
	doc  *schema.Document
	spec *schema.PolicySpec
	line int // of what it matches
}

func (g group) side() side { return side{g.doc, g.spec, g.line} }

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

// describe says in words what a match holds.
func (m Match) describe() string {
	var words []string
	if !m.AnyVNI {
		words = append(words, fmt.Sprintf("VNI %d", m.VNI))
	}
	if m.Src.IsValid() {
		words = append(words, "source "+m.Src.String())
	}
	if m.Dst.IsValid() {
		words = append(words, "destination "+m.Dst.String())
	}
	if m.Protocol >= 0 {
		words = append(words, protocolName(m.Protocol))
	}
	for _, p := range []struct {
		name string
		r    PortRange
	}{{"source", m.SrcPort}, {"destination", m.DstPort}} {
		switch {
		case p.r.Any():
		case p.r.Lo == p.r.Hi:
			words = append(words, fmt.Sprintf("%s port %d", p.name, p.r.Lo))
		default:
			words = append(words, fmt.Sprintf("%s ports %d-%d", p.name, p.r.Lo, p.r.Hi))
		}
	}
	if len(words) == 0 {
		return "all traffic"
	}
	return strings.Join(words, ", ")
}
