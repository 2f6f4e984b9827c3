package lower

import (
	"fmt"
	"strings"

	"github.com/gray-release/gray/policies"
	"github.com/gray-release/gray/reconciler"
)

// Rule sends the matching requests of a service to a version.
type Rule struct {
	Priority int                     `json:"priority"`
	Version  string                  `json:"version"`
	Match    []policies.RequestMatch `json:"match,omitempty"` // empty, in an account's: all requests
}

// Equal implements reconciler.Body.
func (b *Rule) Equal(o reconciler.Body) bool {
	x, ok := o.(*Rule)
	return ok && b.String() == x.String()
}

// String implements reconciler.Body.
func (b *Rule) String() string {
	return fmt.Sprintf("%s -> %s, priority %d", b.matchString(), b.Version, b.Priority)
}

func (b *Rule) matchString() string { return (&policies.RequestRule{Match: b.Match}).MatchString() }

// Delta implements reconciler.Body.
func (b *Rule) Delta(old reconciler.Body) string {
	o, ok := old.(*Rule)
	if !ok {
		return fromTo(old, b)
	}
	var words []string
	if was, is := o.matchString(), b.matchString(); was != is {
		words = append(words, was+" -> "+is)
	}
	if o.Version != b.Version {
		words = append(words, fmt.Sprintf("version %s -> %s", o.Version, b.Version))
	}
	if o.Priority != b.Priority {
		words = append(words, fmt.Sprintf("priority %d -> %d", o.Priority, b.Priority))
	}
	return strings.Join(words, ", ")
}

// Request is the rule as package policies has it.
func (b *Rule) Request(policy string) policies.RequestRule {
	r := policies.RequestRule{Priority: b.Priority, Version: b.Version, Match: b.Match, Policy: policy}
	if r.Match == nil {
		r.Match = []policies.RequestMatch{{Hi: policies.Slots}}
	}
	return r
}
