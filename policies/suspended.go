package policies

import "github.com/gray-release/gray/schema"

// IsSuspended tells whether a document is a policy that is suspended without a
// rollout. What was in force before stays in force. A policy with a rollout is
// suspended by the state machine instead.
func IsSuspended(doc *schema.Document) bool {
	if doc == nil {
		return false
	}
	spec, is := doc.Spec.(*schema.PolicySpec)
	return is && spec.Suspend && spec.Rollout == nil
}

// NeedsProgress tells whether the IR of the last Compile depends on stored facts: a
// policy has a rollout, or is suspended.
func (c *Compiler) NeedsProgress() bool {
	if len(c.rolls) > 0 {
		return true
	}
	for name := range c.docs {
		if name.Kind == schema.KindPolicy && IsSuspended(c.set.Get(name)) {
			return true
		}
	}
	return false
}

// inForce returns the document that is in force: the given one, or for a suspended
// policy the one before it.
func (c *Compiler) inForce(doc *schema.Document) *schema.Document {
	if !IsSuspended(doc) {
		return doc
	}
	kept, spec := *doc, *doc.Spec.(*schema.PolicySpec)
	spec.Match, spec.Exclude = nil, nil // nothing was in force before
	if before := c.facts.Suspended[doc.Name.Name]; before != nil {
		kept, spec = *before, *before.Spec.(*schema.PolicySpec)
		spec.Suspend = true
	}
	kept.Spec = &spec
	return &kept
}
