package policies

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// What is moved by whom is decided here, once: a unit that another policy names is that
// policy's if it has the higher priority, or sends it to the same version already. The
// rollout then neither moves nor counts nor tests it. What other rollouts have moved does
// not count, as it may go back.

// retake notes that a policy takes or leaves a unit, for the rollouts of others on it.
func (c *Compiler) retake(u Name, by *schema.Document) {
	mark := func(policy string) {
		if r := c.rolls[policy]; r != nil && r.doc != by {
			r.anew = true
		}
	}
	for policy := range c.plans[u] {
		mark(policy)
	}
	if u.Part != anyVNI {
		return
	}
	for policy, r := range c.rolls {
		if slices.Contains(r.targets, schema.Name{Kind: u.Kind, Name: u.Name}) {
			mark(policy)
		}
	}
}

// owner is another policy's rule about the units of a rollout.
type owner struct {
	match, exclude []packets.Match
}

// claimants is what other policies that precede a rollout, or go to its version, say about a
// unit, by policy.
func (c *Compiler) claimants(r *declaredRollout, u Name) map[string]*owner {
	all := map[string]*owner{}
	lists := [][]claim{c.claims[u]}
	if u.Kind == schema.KindGateway {
		lists = append(lists, c.claims[Name{u.Kind, u.Name, anyVNI}])
	}
	for _, list := range lists {
		for _, cl := range list {
			if cl.doc == r.doc || cl.planned || cl.network != "" || cl.spec.Priority < r.spec.Priority && cl.spec.Version != r.spec.Version {
				continue
			}
			o := all[cl.doc.Name.Name]
			if o == nil {
				o = &owner{}
				all[cl.doc.Name.Name] = o
			}
			box := cl.box
			if u.Kind == schema.KindService {
				box = packets.AnyMatch
			}
			switch {
			case cl.exclude:
				o.exclude = append(o.exclude, box)
			case cl.percent == 100 && len(cl.match.Headers) == 0:
				o.match = append(o.match, box)
			}
		}
	}
	return all
}

// has tells whether the policy takes all packets of a set.
func (o *owner) has(m packets.Match) bool {
	return slices.ContainsFunc(o.match, func(b packets.Match) bool { return b.Covers(m) }) &&
		!slices.ContainsFunc(o.exclude, func(b packets.Match) bool { _, some := b.Intersect(m); return some })
}

// ownerOf is the policy that has all of some sets of packets, "" if none has.
func ownerOf(owners map[string]*owner, sets ...packets.Match) string {
	for _, policy := range slices.Sorted(maps.Keys(owners)) {
		if !slices.ContainsFunc(sets, func(m packets.Match) bool { return !owners[policy].has(m) }) {
			return policy
		}
	}
	return ""
}

// had is what other policies move of a Network. It takes their VMs out of it.
func (c *Compiler) had(r *declaredRollout, name string, n *rollout.Network) rollout.Had {
	had, by := rollout.Had{Network: name}, map[string]bool{}
	units := r.units[name]
	var owners []map[string]*owner // of each unit
	whole := len(units) > 0
	for _, u := range units {
		o := c.claimants(r, u)
		owners = append(owners, o)
		set := packets.VNIMatch(n.VNI)
		policy := ownerOf(o, set)
		if whole = whole && policy != ""; whole {
			by[policy] = true
		}
	}
	if whole {
		had.Whole, had.VMs, had.Policies = true, len(n.VMs), slices.Sorted(maps.Keys(by))
		return had
	}
	clear(by)
	left := slices.DeleteFunc(slices.Clone(n.VMs), func(a netip.Addr) bool {
		pair, all := vmPair(n.VNI, a), []string(nil)
		for i, o := range owners {
			sets := pair[:]
			if units[i].Kind == schema.KindService {
				sets = []packets.Match{packets.VNIMatch(n.VNI)}
			}
			policy := ownerOf(o, sets...)
			if policy == "" {
				return false
			}
			all = append(all, policy)
		}
		for _, policy := range all {
			by[policy] = true
		}
		return true
	})
	if had.VMs = len(n.VMs) - len(left); had.VMs > 0 {
		had.Policies, had.Whole = slices.Sorted(maps.Keys(by)), len(left) == 0
		n.VMs = left
	}
	return had
}
