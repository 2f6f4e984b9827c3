package policies

import "github.com/gray-release/gray/schema"

// IsHeld tells whether a document is a policy that stands for what it was before: it
// is suspended, and has no rollout that the state machine would hold.
func IsHeld(doc *schema.Document) bool {
	if doc == nil {
		return false
	}
	spec, is := doc.Spec.(*schema.PolicySpec)
	return is && spec.Suspend && spec.Rollout == nil
}

// NeedsProgress tells whether what the documents of the last Compile mean depends on
// what has moved: one has a rollout, or is held.
func (c *Compiler) NeedsProgress() bool {
	if len(c.rolls) > 0 {
		return true
	}
	for name := range c.docs {
		if name.Kind == schema.KindPolicy && IsHeld(c.set.Get(name)) {
			return true
		}
	}
	return false
}

// standsFor is the document to go by in place of another one, which is itself unless
// that is held.
func (c *Compiler) standsFor(doc *schema.Document) *schema.Document {
	if !IsHeld(doc) {
		return doc
	}
	stands, spec := *doc, *doc.Spec.(*schema.PolicySpec)
	spec.Match, spec.Exclude = nil, nil // of one that was never in force
	if held := c.facts.Suspended[doc.Name.Name]; held != nil {
		stands, spec = *held, *held.Spec.(*schema.PolicySpec)
		spec.Suspend = true
	}
	stands.Spec = &spec
	return &stands
}
