package policies

import (
	"hash/fnv"
	"math"
	"slices"
)

// fillBuckets decides which backend each hash bucket belongs to. It depends on
// the names and weights of the members only, as backends are sorted by name; a
// backend that is no member gets no bucket. There is at least one member.
func fillBuckets(h Hash, backends []Backend, member []bool) []uint16 {
	if h.Algorithm == "rendezvous" {
		return rendezvous(h.Buckets, backends, member)
	}
	return maglev(h.Buckets, backends, member)
}

// members tells which backends of a version have buckets: those that are up,
// and of the others as many, by name, as bring them to half of all, rounded up.
// That half is in, whatever the checks say: if so many fail at once, the checks
// are as likely to be wrong, and what is left would not bear the traffic. It
// returns how many of the members are down.
func members(backends []Backend) (member []bool, kept int) {
	member = make([]bool, len(backends))
	up := 0
	for i, b := range backends {
		if member[i] = !b.Down; member[i] {
			up++
		}
	}
	for i := range backends {
		if !member[i] && up+kept < (len(backends)+1)/2 {
			member[i] = true
			kept++
		}
	}
	return member, kept
}

// hashName gives two independent numbers for a name.
func hashName(name string) (uint64, uint64) {
	f := fnv.New64a()
	_, _ = f.Write([]byte(name))
	h := mix(f.Sum64())
	return h, mix(h)
}

// mix is the finaliser of splitmix64: every bit of the result depends on every
// bit of x.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// maglev fills the table in turns: each backend walks its own permutation of the
// buckets and takes the next free one. The size is a power of two, so that any
// odd step makes a permutation. A backend takes turns in proportion to its
// weight. Who else is there changes nothing about a backend's permutation.
func maglev(size int, backends []Backend, member []bool) []uint16 {
	type turn struct {
		next, step     uint32
		weight, credit int
		index          uint16
	}
	turns := make([]turn, 0, len(backends))
	heaviest := 1
	for i, b := range backends {
		if !member[i] {
			continue
		}
		h1, h2 := hashName(b.Name)
		turns = append(turns, turn{next: uint32(h1), step: uint32(h2) | 1, weight: b.Weight, index: uint16(i)})
		heaviest = max(heaviest, b.Weight)
	}
	const free = math.MaxUint16
	mask := uint32(size - 1)
	table := slices.Repeat([]uint16{free}, size)
	for left := size; ; {
		for i := range turns {
			t := &turns[i]
			if t.credit += t.weight; t.credit < heaviest {
				continue
			}
			t.credit -= heaviest
			at := t.next & mask
			for table[at] != free {
				at = (at + t.step) & mask
			}
			table[at], t.next = t.index, at+t.step
			if left--; left == 0 {
				return table
			}
		}
	}
}

// rendezvous gives every bucket to the backend with the highest score for it, so
// that a backend that leaves moves its own buckets and no other. A score is
// -weight/ln(u) for a u that is uniform in (0,1); it grows with u, so that among
// backends of one weight the highest u decides.
func rendezvous(size int, backends []Backend, member []bool) []uint16 {
	type class struct {
		weight float64
		seeds  []uint64
		index  []uint16
	}
	var classes []class
	for i, b := range backends {
		if !member[i] {
			continue
		}
		k := slices.IndexFunc(classes, func(c class) bool { return c.weight == float64(b.Weight) })
		if k < 0 {
			k = len(classes)
			classes = append(classes, class{weight: float64(b.Weight)})
		}
		seed, _ := hashName(b.Name)
		classes[k].seeds, classes[k].index = append(classes[k].seeds, seed), append(classes[k].index, uint16(i))
	}
	table := make([]uint16, size)
	for bucket := range table {
		salt := mix(uint64(bucket))
		best := math.Inf(-1)
		for k := range classes {
			c := &classes[k]
			winner, highest := 0, uint64(0)
			for i, seed := range c.seeds {
				if u := mix(seed ^ salt); u > highest {
					winner, highest = i, u
				}
			}
			score := math.Inf(1) // a single class needs no score
			if len(classes) > 1 {
				score = -c.weight / math.Log((float64(highest>>11)+0.5)/(1<<53))
			}
			if score > best {
				best, table[bucket] = score, c.index[winner]
			}
		}
	}
	return table
}
