package policies

import "github.com/gray-release/gray/schema"

// SetHeld says what a policy stands for while it is suspended without a rollout: the
// document of it that was in force before, nil where there was none. It stands until
// it is said anew. The next Compile, for which no document need have changed, acts on
// it.
func (c *Compiler) SetHeld(policy string, doc *schema.Document) {
	was := c.held[policy]
	if c.held[policy] = doc; doc == nil {
		delete(c.held, policy)
	}
	name := schema.Name{Kind: schema.KindPolicy, Name: policy}
	if was != doc && c.set != nil && IsHeld(c.set.Get(name)) {
		c.again[name] = true
	}
}

// Held is what a policy stands for while it is suspended, nil where nothing is known.
func (c *Compiler) Held(policy string) *schema.Document { return c.held[policy] }

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
	if held := c.held[doc.Name.Name]; held != nil {
		stands, spec = *held, *held.Spec.(*schema.PolicySpec)
		spec.Suspend = true
	}
	stands.Spec = &spec
	return &stands
}
