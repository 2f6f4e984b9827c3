package probe

import (
	"fmt"
	"net/netip"
	"slices"
)

// Allow says which addresses tests from the daemon's host may reach. Documents come
// from pull requests and are not trusted with every network that the host can reach.
type Allow struct {
	Networks []netip.Prefix      // --probe-allow
	Named    map[netip.Addr]bool // addresses in documents
}

// allow returns the addresses that a request may reach.
func (p *Prober) allow(r Request) Allow {
	a := Allow{Networks: p.opt.Allow, Named: make(map[netip.Addr]bool, len(r.Named)+len(r.Targets))}
	for _, n := range r.Named {
		a.Named[n.Unmap()] = true
	}
	for _, t := range r.Targets {
		a.Named[t.Address.Unmap()] = true
	}
	return a
}

// Check returns why an address may not be probed, or nil.
func (a Allow) Check(addr netip.Addr) error {
	addr = addr.Unmap()
	if !addr.IsValid() || addr.Zone() != "" {
		return fmt.Errorf("%s is not a plain IP address", addr)
	}
	if a.Named[addr] || slices.ContainsFunc(a.Networks, func(n netip.Prefix) bool { return n.Contains(addr) }) {
		return nil
	}
	return fmt.Errorf("%s is neither an address in a document nor in a --probe-allow network", addr)
}
