package policies

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/gray-release/gray/policies/packets"
	"github.com/gray-release/gray/policies/rollout"
	"github.com/gray-release/gray/schema"
)

// progressed marks the moves of a policy's rollout that differ between two progresses.
func (c *Compiler) progressed(policy string, was, is rollout.Progress) {
	if was.Identity != is.Identity {
		c.touchMoves(policy, &was)
		c.touchMoves(policy, &is)
		return
	}
	for n := range differ(was.Whole, is.Whole) {
		c.touchMove(policy, n)
	}
	for n, vms := range is.VMs {
		if before, ok := was.VMs[n]; !ok || !slices.Equal(before, vms) {
			c.touchMove(policy, n)
		}
	}
	for n := range was.VMs {
		if _, still := is.VMs[n]; !still {
			c.touchMove(policy, n)
		}
	}
}

// differ yields what is in only one of two sorted lists.
func differ(a, b []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for len(a) > 0 || len(b) > 0 {
			switch {
			case len(b) == 0 || len(a) > 0 && a[0] < b[0]:
				if !yield(a[0]) {
					return
				}
				a = a[1:]
			case len(a) == 0 || b[0] < a[0]:
				if !yield(b[0]) {
					return
				}
				b = b[1:]
			default:
				a, b = a[1:], b[1:]
			}
		}
	}
}

// networkMove is the move of one Network by one policy's rollout.
type networkMove struct{ policy, network string }

// touchMove marks a move to be claimed again by Compile.
func (c *Compiler) touchMove(policy, network string) {
	c.dirtyMoves[networkMove{policy, network}] = true
}

func (c *Compiler) touchMoves(policy string, p *rollout.Progress) {
	for _, n := range p.Whole {
		c.touchMove(policy, n)
	}
	for n := range p.VMs {
		c.touchMove(policy, n)
	}
}

// claimMove claims what a rollout has moved of a Network, instead of what was claimed
// before: on Gateways the whole VNI, or the VMs that are still in its route table; on
// Services the account.
func (c *Compiler) claimMove(m networkMove) {
	r := c.rolls[m.policy]
	if r == nil {
		return
	}
	for _, u := range r.units[m.network] {
		left := slices.DeleteFunc(c.claims[u], func(cl claim) bool { return cl.doc == r.doc && cl.network == m.network })
		if len(left) < len(c.claims[u]) {
			c.touch(u)
		}
		c.claims[u] = left
	}
	p := c.facts.Progress[m.policy]
	network := c.docs[schema.Name{Kind: schema.KindNetwork, Name: m.network}]
	if p.Identity != r.identity || network == nil || r.units[m.network] == nil {
		return
	}
	whole, vms := p.Moved(m.network)
	if !whole {
		vms = rollout.CommonVMs(vms, network.vms)
	}
	if !whole && len(vms) == 0 {
		return
	}
	for _, u := range r.units[m.network] {
		own := claim{doc: r.doc, spec: r.spec, line: r.line, percent: 100, network: m.network, match: &everyMatch}
		switch {
		case u.Kind == schema.KindService:
			c.claims[u] = append(c.claims[u], own)
		case whole:
			own.box = packets.VNIMatch(network.vni)
			c.claims[u] = append(c.claims[u], own)
		default:
			for _, a := range vms {
				for _, own.box = range vmPair(network.vni, a) {
					c.claims[u] = append(c.claims[u], own)
				}
			}
		}
		c.touch(u)
	}
}

// everyMatch is the match of all requests of an account.
var everyMatch schema.Match

// vmPair is the packets from a VM and those to it.
func vmPair(vni uint32, a netip.Addr) [2]packets.Match {
	src, dst := packets.VNIMatch(vni), packets.VNIMatch(vni)
	src.Src = netip.PrefixFrom(a, a.BitLen())
	dst.Dst = src.Src
	return [2]packets.Match{src, dst}
}

// claimMoves claims all marked moves again.
func (c *Compiler) claimMoves() {
	for _, m := range slices.SortedFunc(maps.Keys(c.dirtyMoves), func(a, b networkMove) int {
		return cmp.Or(strings.Compare(a.policy, b.policy), strings.Compare(a.network, b.network))
	}) {
		c.claimMove(m)
	}
	clear(c.dirtyMoves)
}
