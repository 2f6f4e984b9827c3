package packets

import (
	"cmp"
	"hash/fnv"
	"math"
	"slices"
)

// Fill assigns a backend to every hash bucket, as an index into backends, which are
// sorted by name and not empty. The result depends only on the names and weights of
// the backends that are up, and of those that are kept although they are down. It
// returns how many are kept.
func (h Hash) Fill(backends []Backend) (buckets []uint16, kept int) {
	member, kept := members(backends)
	if h.Algorithm == "rendezvous" {
		return rendezvous(h.Buckets, backends, member), kept
	}
	return maglev(h.Buckets, backends, member), kept
}

// members tells which backends of a version have buckets: those that are up, and as
// many of the others, by name, as are needed for half of all, rounded up. If more than
// half fail at once, the checks may be wrong, and the rest could not carry the traffic.
// kept is the number of members that are down.
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

// hashName returns two independent hashes of a name.
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

// walk is a backend's permutation of the buckets, and how far it has come. Like
// Maglev's it has an offset and a step, which is odd as the size is a power of two. The
// result is mixed, or backends whose steps have a small common multiple would collide
// often. It does not depend on the other backends.
type walk struct {
	next, step, factor uint32
	time, pace         uint64 // time grows by pace with every bucket; pace is smaller for a larger weight
	want               int    // how many more buckets it needs
	index              uint16
}

// maglev gives every backend exactly the share of its weight. Each backend walks its
// permutation and takes buckets until it has its share. If two want one bucket, it goes
// to the one that has it earlier in its permutation, by weight, and the other walks on.
// So the result does not depend on which walks first. Maglev's own rule, by turns, moves
// 1.5 times as many buckets when a backend leaves.
func maglev(size int, backends []Backend, member []bool) []uint16 {
	walks := walksOf(size, backends, member)
	mask, shift := uint32(size-1), 0
	for 1<<(2*shift) < size {
		shift++
	}
	const free = math.MaxUint64
	holds := slices.Repeat([]uint64{free}, size) // the time of the backend that has it, then its walk
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

// walksOf starts the members' walks. Shares are rounded down; the buckets left over go
// to the members that lost most by it.
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

// rendezvous gives every bucket to the backend with the highest score for it. So a
// backend that leaves moves only its own buckets. The score is -weight/ln(u), where u
// is a hash that is uniform in (0,1). It grows with u, so among backends of one weight
// the highest u wins.
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
			score := math.Inf(1) // no score is needed for one class
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
