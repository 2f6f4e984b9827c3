package packets

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/gray-release/gray/schema"
)

// Share is a version's share of the hash buckets of a pool, 1 to 100 percent.
type Share struct {
	Version string
	Percent int
}

// holds tells whether a share has all buckets of another.
func (s Share) holds(o Share) bool { return s.Version == o.Version && s.Percent >= o.Percent }

// poolName names a pool by its shares, so that equal pools have one name. A pool of one
// version has the version's name. "v2=5%,v3=50%,v1" is a blend: v2 has 5 % of the
// buckets, v3 has 50 % of the others, and v1 has the rest. The name ends with the first
// share of 100 %, and leaves out shares that an earlier one of the version holds.
func poolName(shares []Share) string {
	var kept []Share
	for _, s := range shares {
		last := len(kept) - 1
		switch {
		case slices.ContainsFunc(kept, func(k Share) bool { return k.holds(s) }):
			continue
		case last >= 0 && kept[last].Version == s.Version:
			kept[last] = s
		default:
			kept = append(kept, s)
		}
		if s.Percent == 100 {
			break
		}
	}
	words := make([]string, len(kept))
	for i, s := range kept {
		words[i] = s.Version
		if s.Percent < 100 {
			words[i] += fmt.Sprintf("=%d%%", s.Percent)
		}
	}
	return strings.Join(words, ",")
}

// sharesOf reads the name of a pool.
func sharesOf(pool string) []Share {
	var shares []Share
	for word := range strings.SplitSeq(pool, ",") {
		version, percent, isShare := strings.Cut(strings.TrimSuffix(word, "%"), "=")
		s := Share{version, 100}
		if isShare {
			s.Percent, _ = strconv.Atoi(percent) // poolName wrote it
		}
		shares = append(shares, s)
	}
	return shares
}

// IsBlend tells whether a pool's name is that of a blend.
func IsBlend(pool string) bool { return strings.Contains(pool, ",") }

// bucketOrder is the order in which a version takes buckets as its share grows. It is
// a permutation that depends only on the version's name and the number of buckets, so
// a share of 10 % has all buckets of a share of 5 %. The orders of two versions are
// independent, so a version has its share of what another leaves.
type bucketOrder struct {
	mask  uint32
	shift int
	keys  [4]uint64
}

func newBucketOrder(version string, buckets int) bucketOrder {
	o := bucketOrder{mask: uint32(buckets - 1)}
	for 1<<(2*o.shift) < buckets {
		o.shift++
	}
	o.keys[0], _ = hashName("share of " + version)
	for i := 1; i < len(o.keys); i++ {
		o.keys[i] = mix(o.keys[i-1])
	}
	return o
}

// place is the place of a bucket in the order. Every step is a bijection, so the whole
// is a permutation.
func (o *bucketOrder) place(bucket int) int {
	x := uint32(bucket)
	for _, k := range o.keys {
		x = (x ^ uint32(k)) & o.mask
		x = x * (uint32(k>>32) | 1) & o.mask
		x ^= x >> o.shift
	}
	return int(x)
}

// Blend is a pool whose buckets several versions share.
type Blend struct {
	Gateway string
	Name    string // as in rules and Gateway.DefaultPool, see poolName
	Origin  schema.Position
	Shares  []Share // a bucket goes to the first share that takes it; the last one takes the rest
	Buckets []Slot  // bucket -> backend; its length is Hash.Buckets
}

// Slot is a backend: indices into Gateway.Pools and the Backends of that pool.
type Slot struct{ Pool, Backend uint16 }

// NewBlend makes a blend. Each bucket has the backend that it has in the pool of its
// version.
func NewBlend(gw *Gateway, name string, origin schema.Position) *Blend {
	b := &Blend{Gateway: gw.Name, Name: name, Origin: origin, Shares: sharesOf(name), Buckets: make([]Slot, gw.Hash.Buckets)}
	pools, taken := make([]uint16, len(b.Shares)), make([]int, len(b.Shares))
	orders := make([]bucketOrder, len(b.Shares))
	for i, s := range b.Shares {
		pools[i] = uint16(slices.IndexFunc(gw.Pools, func(p Pool) bool { return p.Version == s.Version }))
		taken[i] = (s.Percent*gw.Hash.Buckets + 50) / 100
		orders[i] = newBucketOrder(s.Version, gw.Hash.Buckets)
	}
	last := len(b.Shares) - 1
	for bucket := range b.Buckets {
		i := 0
		for i < last && orders[i].place(bucket) >= taken[i] {
			i++
		}
		b.Buckets[bucket] = Slot{pools[i], gw.Pools[pools[i]].Buckets[bucket]}
	}
	return b
}
