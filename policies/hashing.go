package policies

import (
	"hash/fnv"
	"math"
)

// fillBuckets decides which backend each hash bucket belongs to. It depends on
// the names and weights of the backends only, which are sorted by name.
func fillBuckets(h Hash, backends []Backend) []uint16 {
	if h.Algorithm == "rendezvous" {
		return rendezvous(h.Buckets, backends)
	}
	return maglev(h.Buckets, backends)
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
// weight.
func maglev(size int, backends []Backend) []uint16 {
	mask := uint64(size - 1)
	next, step := make([]uint64, len(backends)), make([]uint64, len(backends))
	credit := make([]int, len(backends))
	heaviest := 1
	for i, b := range backends {
		h1, h2 := hashName(b.Name)
		next[i], step[i] = h1&mask, h2|1
		heaviest = max(heaviest, b.Weight)
	}
	table := make([]uint16, size)
	taken := make([]bool, size)
	for filled := 0; ; {
		for i, b := range backends {
			if credit[i] += b.Weight; credit[i] < heaviest {
				continue
			}
			credit[i] -= heaviest
			for taken[next[i]] {
				next[i] = (next[i] + step[i]) & mask
			}
			taken[next[i]], table[next[i]] = true, uint16(i)
			if filled++; filled == size {
				return table
			}
		}
	}
}

// rendezvous gives every bucket to the backend with the highest score for it, so
// that a backend that leaves moves its own buckets and no other.
func rendezvous(size int, backends []Backend) []uint16 {
	seeds := make([]uint64, len(backends))
	for i, b := range backends {
		seeds[i], _ = hashName(b.Name)
	}
	table := make([]uint16, size)
	for bucket := range table {
		best := math.Inf(-1)
		for i, b := range backends {
			// A uniform number in (0,1) from 53 bits; -w/ln(u) is the weighted score.
			u := (float64(mix(seeds[i]^mix(uint64(bucket)))>>11) + 0.5) / (1 << 53)
			if score := -float64(b.Weight) / math.Log(u); score > best {
				best, table[bucket] = score, uint16(i)
			}
		}
	}
	return table
}
