package rollout

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/schema"
)

// Spec is what the documents say about the rollout of one policy. It is read-only.
type Spec struct {
	Policy, Version string
	Digests
	Targets  []schema.Name // the Gateways and Services on which a batch has to be live
	VIPs     []netip.Addr  // of these Gateways, sorted: the targets of overlay pings
	Servers  []netip.Addr  // of these Gateways and Services, sorted, without endpoints from etcd
	Suspend  bool
	Rollout  *schema.Rollout
	Networks []Network // in the order in which they move, without those that the policy excludes or others move
	Had      []Had     // what other policies move of what it names

	index map[string]int // of Networks, by name
}

// Digests tell which changes of the documents matter to a rollout.
type Digests struct {
	Identity    string `json:"identity"`    // version and targets; when it changes, the rollout starts again
	Content     string `json:"content"`     // of the identity, that version's spec and the Networks to move; failed content is not tried again
	Fingerprint string `json:"fingerprint"` // of everything a verdict depends on; verdicts for another one do not count
}

// Had is what other policies move of a Network that a rollout names: it is not counted,
// not tested, and does not go back with the rollout.
type Had struct {
	Network  string
	Policies []string // sorted
	VMs      int
	Whole    bool // nothing of the Network is left to the rollout
}

// ReasonNothing is the reason of a rollout that has nothing to move.
const ReasonNothing = "NothingToMove"

// Others says what other policies move of what the rollout names, "" if nothing.
func (s *Spec) Others() string {
	const some = 5
	var words []string
	for i, h := range s.Had {
		if i == some {
			words = append(words, fmt.Sprintf("and of %d more Networks", len(s.Had)-i))
			break
		}
		words = append(words, fmt.Sprintf("%d VMs of Network %s are moved by GrayPolicy %s", h.VMs, h.Network, strings.Join(h.Policies, ", ")))
	}
	return strings.Join(words, "; ")
}

// Network is a Network document that a rollout moves.
type Network struct {
	Name, Account string
	VNI           uint32
	VMs           []netip.Addr    // of its route table, sorted, without those that the policy excludes
	Routes        []schema.Route  // its route table
	Monitor       *schema.Monitor // the source of overlay pings; nil: none
}

// Index prepares Network. Call it once Networks is complete.
func (s *Spec) Index() {
	s.index = make(map[string]int, len(s.Networks))
	for i := range s.Networks {
		s.index[s.Networks[i].Name] = i
	}
}

// Network returns the Network of that name and its index, or nil and -1 if the
// rollout does not move it.
func (s *Spec) Network(name string) (*Network, int) {
	i, ok := s.index[name]
	if !ok {
		return nil, -1
	}
	return &s.Networks[i], i
}

// Progress is what a rollout has moved: a set, not a position in the order. It is
// read-only.
type Progress struct {
	Identity string                  // the Digests.Identity it belongs to; for any other one, nothing has moved
	Whole    []string                // Networks that have moved as a whole, by document name, sorted
	VMs      map[string][]netip.Addr // of Networks that have moved in part: the inner addresses of moved VMs, sorted
}

// Moved returns what has moved of one Network.
func (p Progress) Moved(network string) (whole bool, vms []netip.Addr) {
	_, whole = slices.BinarySearch(p.Whole, network)
	return whole, p.VMs[network]
}

// CommonVMs returns the addresses that are in both sorted lists. It returns a itself
// if b has all of it.
func CommonVMs(a, b []netip.Addr) []netip.Addr {
	var both []netip.Addr
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch d := a[i].Compare(b[j]); {
		case d < 0:
			i++
		case d > 0:
			j++
		default:
			both = append(both, a[i])
			i++
			j++
		}
	}
	if len(both) == len(a) {
		return a
	}
	return both
}
