package probe

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"net/netip"
	"slices"

	"github.com/gray-release/gray/schema"
)

// selection is the addresses that a probe tests.
type selection struct {
	Targets []Target // moved ones first, each group in the order of spread
	LeftOut int      // moved VMs that are not tested, because there are more than MaxTargets
	Ranges  int      // moved routes to more than one address, which cannot be tested
}

// choose chooses the addresses to test from a Network's routes: those that moved, and
// so many peers, spread over the VTEPs. If too many have moved, fresh ones go first.
// Equal arguments give equal lists. Another seed, such as the Network's generation,
// gives other peers, so that over time all are tested.
func choose(routes []schema.Route, moved, fresh func(schema.Route) bool, peers int, seed uint64) selection {
	var s selection
	var first, on, off []Target
	for _, r := range routes {
		isMoved := moved(r)
		if !r.Prefix.IsSingleIP() {
			if isMoved {
				s.Ranges++
			}
			continue
		}
		t := Target{VM: r.VM, Address: r.Prefix.Addr(), MAC: r.MAC, VTEP: r.VTEP.Addr, Moved: isMoved}
		switch {
		case isMoved && fresh(r):
			first = append(first, t)
		case isMoved:
			on = append(on, t)
		default:
			off = append(off, t)
		}
	}
	s.Targets = spread(first, MaxTargets, seed)
	s.Targets = append(s.Targets, spread(on, MaxTargets-len(s.Targets), seed)...)
	s.LeftOut = len(first) + len(on) - len(s.Targets)
	s.Targets = append(s.Targets, spread(off, min(peers, MaxTargets-len(s.Targets)), seed)...)
	return s
}

// spread takes n targets, from each VTEP in turn.
func spread(targets []Target, n int, seed uint64) []Target {
	if n <= 0 {
		return nil
	}
	byVTEP := map[netip.Addr][]Target{}
	rank := make(map[netip.Addr]uint64, len(targets))
	for _, t := range targets {
		byVTEP[t.VTEP] = append(byVTEP[t.VTEP], t)
		rank[t.Address] = mix(seed, t.Address)
	}
	vteps := make([]netip.Addr, 0, len(byVTEP))
	for v, on := range byVTEP {
		vteps = append(vteps, v)
		slices.SortFunc(on, func(a, b Target) int {
			return cmp.Or(cmp.Compare(rank[a.Address], rank[b.Address]), a.Address.Compare(b.Address))
		})
	}
	slices.SortFunc(vteps, func(a, b netip.Addr) int {
		return cmp.Or(cmp.Compare(mix(seed, a), mix(seed, b)), a.Compare(b))
	})
	var out []Target
	for round := 0; len(out) < min(n, len(targets)); round++ {
		for _, v := range vteps {
			if on := byVTEP[v]; round < len(on) && len(out) < n {
				out = append(out, on[round])
			}
		}
	}
	return out
}

// mix hashes an address and a seed, with the same result on every machine.
func mix(seed uint64, a netip.Addr) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(binary.BigEndian.AppendUint64(nil, seed))
	sixteen := a.As16()
	_, _ = h.Write(sixteen[:])
	// FNV alone keeps neighbouring addresses together.
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
