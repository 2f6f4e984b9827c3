package packets

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

func TestPoolName(t *testing.T) {
	for _, test := range []struct {
		shares []Share
		want   string
	}{
		{[]Share{{"v1", 100}}, "v1"},
		{[]Share{{"v2", 5}, {"v1", 100}}, "v2=5%,v1"},
		{[]Share{{"v2", 5}, {"v3", 50}, {"v1", 100}}, "v2=5%,v3=50%,v1"},
		{[]Share{{"v2", 100}, {"v3", 50}, {"v1", 100}}, "v2"},
		// A version's shares hold one another.
		{[]Share{{"v2", 5}, {"v2", 10}, {"v1", 100}}, "v2=10%,v1"},
		{[]Share{{"v2", 10}, {"v2", 5}, {"v1", 100}}, "v2=10%,v1"},
		{[]Share{{"v2", 10}, {"v3", 5}, {"v2", 10}, {"v1", 100}}, "v2=10%,v3=5%,v1"},
		{[]Share{{"v2", 5}, {"v3", 5}, {"v2", 10}, {"v1", 100}}, "v2=5%,v3=5%,v2=10%,v1"},
		{[]Share{{"v2", 5}, {"v1", 50}, {"v1", 100}}, "v2=5%,v1"},
		{[]Share{{"v1", 5}, {"v1", 100}}, "v1"},
	} {
		got := poolName(test.shares)
		if got != test.want {
			t.Errorf("%v: %s, want %s", test.shares, got, test.want)
		}
		if again := poolName(sharesOf(got)); again != got {
			t.Errorf("%s is read as %s", got, again)
		}
		if IsBlend(got) != (len(sharesOf(got)) > 1) {
			t.Errorf("%s is a blend: %v", got, IsBlend(got))
		}
	}
}

func TestBucketOrdersArePermutationsOfTheirOwn(t *testing.T) {
	for size := 256; size <= 65536; size *= 2 {
		for _, version := range []string{"v1", "v2", "canary"} {
			o := newBucketOrder(version, size)
			seen := make([]bool, size)
			for b := range size {
				seen[o.place(b)] = true
			}
			if slices.Contains(seen, false) {
				t.Fatalf("the order of %s over %d buckets is no permutation", version, size)
			}
		}
	}
	// Of what one version leaves, another has its share: within four standard
	// deviations of drawing at random.
	const size = 16384
	for i := range 20 {
		a, b := newBucketOrder(fmt.Sprintf("v%d", i), size), newBucketOrder(fmt.Sprintf("v%d", i+1), size)
		for _, percent := range []int{1, 5, 25, 50} {
			taken, both := percent*size/100, 0
			for bucket := range size {
				if a.place(bucket) < taken && b.place(bucket) < size/2 {
					both++
				}
			}
			sigma := math.Sqrt(float64(taken) / 4 * float64(size-taken) / size)
			if off := math.Abs(float64(both) - float64(taken)/2); off > 4*sigma {
				t.Errorf("v%d at %d %% and v%d at 50 %% share %d buckets of %d, %.1f standard deviations off", i, percent, i+1, both, taken, off/sigma)
			}
		}
	}
}
