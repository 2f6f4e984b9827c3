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

// progressed has the moves claimed anew in which the progress of a policy's rollout
// changed.
func (c *Compiler) progressed(policy string, was, is rollout.Progress) {
	if was.Identity != is.Identity {
		c.stirAll(policy, &was)
		c.stirAll(policy, &is)
		return
	}
	for n := range differ(was.Whole, is.Whole) {
		c.stir(policy, n)
	}
	for n, vms := range is.VMs {
		if before, ok := was.VMs[n]; !ok || !slices.Equal(before, vms) {
			c.stir(policy, n)
		}
	}
	for n := range was.VMs {
		if _, still := is.VMs[n]; !still {
			c.stir(policy, n)
		}
	}
}

// differ yields what is in one of two sorted lists only.
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

// mover is the move of one Network by one policy.
type mover struct{ policy, network string }

// stir has a move be claimed anew in the next Compile.
func (c *Compiler) stir(policy, network string) { c.stirred[mover{policy, network}] = true }

func (c *Compiler) stirAll(policy string, p *rollout.Progress) {
	for _, n := range p.Whole {
		c.stir(policy, n)
	}
	for n := range p.VMs {
		c.stir(policy, n)
	}
}

// move claims anew what has moved of a Network for the policy whose rollout moves
// it: on Gateways the whole VNI, or the VMs that its route table still has; on
// Services the account.
func (c *Compiler) move(m mover) {
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

// everyMatch is the match of an account that moves as a whole.
var everyMatch schema.Match

// vmPair is what comes from a VM and what goes to it.
func vmPair(vni uint32, a netip.Addr) [2]packets.Match {
	src, dst := packets.VNIMatch(vni), packets.VNIMatch(vni)
	src.Src = netip.PrefixFrom(a, a.BitLen())
	dst.Dst = src.Src
	return [2]packets.Match{src, dst}
}

// moves claims anew all that was stirred since the last Compile.
func (c *Compiler) moves() {
	for _, m := range slices.SortedFunc(maps.Keys(c.stirred), func(a, b mover) int {
		return cmp.Or(strings.Compare(a.policy, b.policy), strings.Compare(a.network, b.network))
	}) {
		c.move(m)
	}
	clear(c.stirred)
}
