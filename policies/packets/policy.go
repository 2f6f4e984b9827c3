package packets

import (
	"cmp"
	"slices"
	"strings"

	"github.com/gray-release/gray/schema"
)

// Policy is what one policy says about packets.
type Policy struct {
	Name             string
	Priority         int
	Version          string
	Origin           schema.Position // of the first match, for messages
	Matches, Exclude []Entry
	Planned          []Entry // what its rollout is going to match
}

// Entry is one set of packets that a policy matches or excludes.
type Entry struct {
	Box     Match
	Percent int // the share of the buckets, 1 to 100
	Origin  schema.Position
}

// SortPolicies sorts policies in order of precedence: by priority, then by name. The
// name only fixes the order, as policies of equal priority must not conflict. The
// entries of a policy are sorted by share, the largest first.
func SortPolicies(all []Policy) {
	for i := range all {
		for _, entries := range [][]Entry{all[i].Matches, all[i].Exclude} {
			slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(b.Percent, a.Percent) })
		}
	}
	slices.SortFunc(all, func(a, b Policy) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), strings.Compare(a.Name, b.Name))
	})
}
