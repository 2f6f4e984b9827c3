package rollout

import (
	"net/netip"
	"slices"

	"github.com/gray-release/gray/schema"
)

// RolloutSpec is what the documents say about the rollout of one policy. It is
// read-only.
type Spec struct {
	Policy, Version string
	Identity        string        // version and targets; a rollout of another one starts afresh
	Content         string        // digest of the identity, what that version is, and what is to move; what failed is not tried again while it stays
	Fingerprint     string        // digest of all that a verdict rests on; one taken at another does not count
	Targets         []schema.Name // the Gateways and Services that it moves units at: where a batch has to be live
	VIPs            []netip.Addr  // of these Gateways, sorted: what overlay pings go to
	Servers         []netip.Addr  // of these Gateways and Services, sorted; those in etcd are not among them
	Suspend         bool
	Rollout         *schema.Rollout
	Networks        []Network      // in the order in which they move; without those that the policy excludes
	index           map[string]int // of Networks, by name
}

// RolloutNetwork is a Network that a rollout moves.
type Network struct {
	Name, Account string
	VNI           uint32
	VMs           []netip.Addr    // of its route table, sorted; without those that the policy excludes
	Routes        []schema.Route  // its route table
	Monitor       *schema.Monitor // where overlay pings come from; nil: nowhere
}

// Index has Network find the Networks, once all are there.
func (s *Spec) Index() {
	s.index = make(map[string]int, len(s.Networks))
	for i := range s.Networks {
		s.index[s.Networks[i].Name] = i
	}
}

// Network returns the Network of that name and its place in the order, or nil
// where it is not of this rollout.
func (s *Spec) Network(name string) (*Network, int) {
	i, ok := s.index[name]
	if !ok {
		return nil, -1
	}
	return &s.Networks[i], i
}

// Progress is what the rollout of a policy has moved: a set of units, not an
// index. It is read-only once it was handed over.
type Progress struct {
	Identity string                  // the RolloutSpec.Identity that it was made for; for any other, nothing has moved
	Whole    []string                // Networks that are moved as a whole, by document name, sorted
	VMs      map[string][]netip.Addr // of Networks that are moved in part: the VMs by inner address, sorted
}

// Moved is what has moved of one Network.
func (p Progress) Moved(network string) (whole bool, vms []netip.Addr) {
	_, whole = slices.BinarySearch(p.Whole, network)
	return whole, p.VMs[network]
}

// intersectVMs is what two sorted lists have in common; the first one itself where
// that is all of it.
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
