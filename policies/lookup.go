package policies

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/requests"
	"github.com/gray-release/gray/schema"
)

// depEtcd is the kind of dep of what is registered under an etcd target.
const depEtcd = "etcd"

// Lookup is a version whose endpoints are looked up in etcd.
type Lookup struct {
	Service, Version string
	Target           string
	Origin           schema.Position
}

// Lookups lists all versions whose endpoints are looked up, sorted by service and
// version.
func (ir *IR) Lookups() []Lookup {
	var all []Lookup
	for _, s := range ir.looked {
		for _, v := range s.Versions {
			if v.Etcd != "" {
				all = append(all, Lookup{s.Name, v.Name, v.Etcd, v.Origin})
			}
		}
	}
	slices.SortFunc(all, func(a, b Lookup) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(a.Version, b.Version))
	})
	return all
}

// SetEndpoints says which endpoints are registered under each etcd target; it
// stands until it is said anew. A target that is not named is not known yet, which
// is something else than one without endpoints. The lists are sorted by address and
// port and are not changed any more. The next Compile, for which no document need
// have changed, acts on it.
func (c *Compiler) SetEndpoints(byTarget map[string][]requests.Endpoint) {
	again := func(target string) {
		for user := range c.deps[dep{depEtcd, target}] {
			c.again[user] = true
		}
	}
	for target := range c.found {
		if _, still := byTarget[target]; !still {
			again(target)
		}
	}
	for target, now := range byTarget {
		if was, known := c.found[target]; !known || !slices.Equal(was, now) {
			again(target)
		}
	}
	c.found = byTarget
}
