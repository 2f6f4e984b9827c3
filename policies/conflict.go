package policies

import "github.com/gray-release/gray/schema"

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
	err := b.doc.Errorf("spec.priority", "%d is also the priority of GrayPolicy %s (%s), and both match %s of %s %s with different versions, %s there and %s here; give one a higher priority",
		b.spec.Priority, a.doc.Name.Name, schema.Position{Path: a.doc.Path, Line: a.line}, what, n.Kind, n.Name, a.spec.Version, b.spec.Version)
	pair := a.doc.Name.Name + " " + b.doc.Name.Name + " " + n.Kind + " " + n.Name
	c.errs[n] = append(c.errs[n], unitError{pair, err})
}
