package sample

import (
	"cmp"
	"math"
	"slices"
)

// Keys from e^-50 to 1 fall into buckets of a sixteenth of an octave, which are
// the upper bits of a float64: its exponent and the first four of its mantissa.
const (
	bucketShift = 52 - 4
	bucketCount = 75 << 4
)

// A nucleus is the working memory of top-p and of typical sampling.
type nucleus struct {
	mass [bucketCount]float64
	tied []int32 // indices of the candidates in the bucket where it ends
}

func bucketOf(key float64) int {
	return int((math.Float64bits(1) - math.Float64bits(key) + 1<<bucketShift - 1) >> bucketShift)
}

// reduce keeps the fewest candidates of the largest keys, each above 0 and at most 1, that have target
// together, in their order, and returns their number. Of equal keys at the end it keeps all
// (ties), or as many as it takes, of the lowest ids. Instead of sorting all, it adds up buckets from
// the largest keys down and sorts only the bucket where the target is reached.
func (u *nucleus) reduce(ids []int32, weights, keys []float64, target float64, ties bool) int {
	clear(u.mass[:])
	for i, w := range weights {
		u.mass[bucketOf(keys[i])] += w
	}
	before, last := 0.0, 0
	for last < bucketCount-1 && before+u.mass[last] < target {
		before += u.mass[last]
		last++
	}
	n := 0
	for i := range weights {
		if bucketOf(keys[i]) == last {
			u.tied[n] = int32(i)
			n++
		}
	}
	tied := u.tied[:n]
	slices.SortFunc(tied, func(a, b int32) int {
		return cmp.Or(cmp.Compare(keys[b], keys[a]), cmp.Compare(a, b))
	})
	least, until := math.Inf(1), int32(0)
	for _, i := range tied {
		if before >= target {
			break
		}
		before += weights[i]
		least, until = keys[i], i
	}
	if ties {
		until = math.MaxInt32
	}
	kept := 0
	for i, w := range weights {
		if key := keys[i]; bucketOf(key) < last || key > least || key == least && int32(i) <= until {
			ids[kept], weights[kept] = ids[i], w
			kept++
		}
	}
	return kept
}
