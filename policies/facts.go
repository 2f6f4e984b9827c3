package policies

import (
	"maps"
	"reflect"
	"slices"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// Facts is what is known beside the documents. It is an immutable value: a change
// makes a new one that shares what stays. Names that are not in the documents are
// ignored.
type Facts struct {
	Down      map[string][]string            // by gateway: the servers that fail their checks, as "version/backend", sorted
	Endpoints map[string][]requests.Endpoint // by etcd target: what is registered, sorted by address and port; a target that is missing is not known yet
	Progress  map[string]rollout.Progress    // by policy: what its rollout has moved
	Suspended map[string]*schema.Document    // by policy that is suspended without a rollout: the document that stays in force
}

// with returns a copy of a map with one value set or dropped.
func with[K comparable, V any](m map[K]V, key K, value V, drop bool) map[K]V {
	next := maps.Clone(m)
	if next == nil {
		next = map[K]V{}
	}
	if next[key] = value; drop {
		delete(next, key)
	}
	return next
}

// WithProgress returns the facts with another progress of one policy's rollout.
func (f Facts) WithProgress(policy string, p rollout.Progress) Facts {
	f.Progress = with(f.Progress, policy, p, len(p.Whole)+len(p.VMs) == 0)
	return f
}

// WithSuspended returns the facts with the document that stays in force for a
// suspended policy; nil: it is not known.
func (f Facts) WithSuspended(policy string, doc *schema.Document) Facts {
	f.Suspended = with(f.Suspended, policy, doc, doc == nil)
	return f
}

// learn marks what has to be read or compiled again because of facts that changed
// since the last call.
func (c *Compiler) learn(now Facts) {
	was := c.facts
	c.facts = now
	document := func(kind string) func(string) {
		return func(name string) {
			if n := (schema.Name{Kind: kind, Name: name}); c.docs[n] != nil {
				c.again[n] = true
			}
		}
	}
	changed(was.Down, now.Down, slices.Equal, document(schema.KindGateway))
	changed(was.Endpoints, now.Endpoints, slices.Equal, func(target string) {
		for user := range c.deps[dep{depEtcd, target}] {
			c.again[user] = true
		}
	})
	changed(was.Suspended, now.Suspended, func(a, b *schema.Document) bool { return a == b }, func(policy string) {
		if n := (schema.Name{Kind: schema.KindPolicy, Name: policy}); c.set != nil && IsSuspended(c.set.Get(n)) {
			c.again[n] = true
		}
	})
	changed(was.Progress, now.Progress, func(rollout.Progress, rollout.Progress) bool { return false }, func(policy string) {
		c.progressed(policy, was.Progress[policy], now.Progress[policy])
	})
}

// changed calls f for every key whose value differs between two maps. It returns at
// once if both are the same map.
func changed[V any](was, now map[string]V, equal func(a, b V) bool, f func(key string)) {
	if reflect.ValueOf(was).Pointer() == reflect.ValueOf(now).Pointer() {
		return
	}
	for k := range was {
		if _, still := now[k]; !still {
			f(k)
		}
	}
	for k, v := range now {
		if before, had := was[k]; !had || !equal(before, v) {
			f(k)
		}
	}
}

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
