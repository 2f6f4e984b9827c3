package policies

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gray-release/gray/schema"
)

// depEtcd is the kind of the dep on an etcd target.
const depEtcd = "etcd"

// Lookup is a version whose endpoints come from etcd.
type Lookup struct {
	Service, Version string
	Target           string
	Origin           schema.Position
}

// Lookups lists all versions whose endpoints come from etcd, sorted by service and
// version.
func (ir *IR) Lookups() []Lookup {
	var all []Lookup
	for _, s := range ir.lookups {
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
