package packets

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
)

// Fill decides which backend each hash bucket belongs to: an index into the
// backends, which are sorted by name and at least one. It depends on the names and
// weights of those only that are up, or stay though they are down; of the latter
// it returns the number.
func (h Hash) Fill(backends []Backend) (buckets []uint16, kept int) {
	member, kept := members(backends)
	if h.Algorithm == "rendezvous" {
		return rendezvous(h.Buckets, backends, member), kept
	}
	return maglev(h.Buckets, backends, member), kept
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

// walk is a backend's permutation of the buckets and how far it has come. Like
// that of Maglev it has an offset and an odd step, as the size is a power of two;
// what comes of those is mixed, or backends whose steps have a small multiple in
// common would get in each other's way. Who else is there changes nothing.
type walk struct {
	next, step, factor uint32
	time, pace         uint64 // it grows by pace at every bucket: less for a larger weight
	want               int    // buckets that it still wants
	index              uint16
}

// maglev gives every backend the share of its weight, to the bucket. Each walks
// its own permutation and takes buckets until it has its share; of two that come
// to one bucket, it goes to the one that has it earlier in its permutation, by
// weight, and the other walks on. What comes of that does not depend on who walks first.
// Maglev's own rule, first come first served in turns, moves half as many buckets
// again when a backend leaves.
func maglev(size int, backends []Backend, member []bool) []uint16 {
	walks := walksOf(size, backends, member)
	mask, shift := uint32(size-1), 0
	for 1<<(2*shift) < size {
		shift++
	}
	const free = math.MaxUint64
	holds := slices.Repeat([]uint64{free}, size) // when its holder came to it, then the holder
	for again := true; again; {
		again = false
		for i := range walks {
			w := &walks[i]
			for w.want > 0 {
				at := w.next & mask
				at = (at ^ at>>shift) * w.factor & mask
				w.next += w.step
				w.time += w.pace
				claim := w.time<<16 | uint64(i)
				held := holds[at]
				if claim >= held {
					continue
				}
				holds[at] = claim
				w.want--
				if held != free {
					walks[held&0xffff].want++
					again = again || int(held&0xffff) < i
				}
			}
		}
	}
	table := make([]uint16, size)
	for i, h := range holds {
		table[i] = walks[h&0xffff].index
	}
	return table
}

// walksOf starts the members' walks. The buckets that the shares leave over by
// rounding go to those that lost most by it.
func walksOf(size int, backends []Backend, member []bool) []walk {
	var walks []walk
	weights, left := 0, size
	for i, b := range backends {
		if member[i] {
			h1, h2 := hashName(b.Name)
			walks = append(walks, walk{
				next: uint32(h1), step: uint32(h2) | 1, factor: uint32(h2>>32) | 1,
				pace: 1 << 20 / uint64(b.Weight), index: uint16(i),
			})
			weights += b.Weight
		}
	}
	lost := make([]int, len(walks))
	order := make([]int, len(walks))
	for i := range walks {
		w := &walks[i]
		share := size * backends[w.index].Weight
		w.want, lost[i], order[i] = share/weights, share%weights, i
		left -= w.want
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(lost[b], lost[a]) })
	for _, i := range order[:left] {
		walks[i].want++
	}
	return walks
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
