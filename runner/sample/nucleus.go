package sample

import (
	"cmp"
	"math"
	"slices"
)

// Weights from e^-50 to 1 fall into buckets of a sixteenth of an octave, which are
// the upper bits of a float64: its exponent and the first four of its mantissa.
const (
	bucketShift = 52 - 4
	bucketCount = 75 << 4
)

// A nucleus is the working memory of top-p.
type nucleus struct {
	mass [bucketCount]float64
	tied []int32 // indices of the candidates in the bucket where the nucleus ends
}

func bucketOf(weight float64) int {
	return int((math.Float64bits(1) - math.Float64bits(weight) + 1<<bucketShift - 1) >> bucketShift)
}

// reduce keeps the fewest candidates of the largest weights that have at least the
// share p of the total, in their order, and returns their number; of equal weights at
// the end it keeps the lowest ids. Instead of sorting all, it adds up buckets from the
// largest weights down and sorts only the bucket where the share is reached.
func (u *nucleus) reduce(ids []int32, weights []float64, p float64) int {
	clear(u.mass[:])
	total := 0.0
	for _, w := range weights {
		u.mass[bucketOf(w)] += w
		total += w
	}
	target := p * total
	before, last := 0.0, 0
	for last < bucketCount-1 && before+u.mass[last] < target {
		before += u.mass[last]
		last++
	}
	n := 0
	for i, w := range weights {
		if bucketOf(w) == last {
			u.tied[n] = int32(i)
			n++
		}
	}
	tied := u.tied[:n]
	slices.SortFunc(tied, func(a, b int32) int {
		return cmp.Or(cmp.Compare(weights[b], weights[a]), cmp.Compare(a, b))
	})
	least, until := math.Inf(1), int32(0)
	for _, i := range tied {
		if before >= target {
			break
		}
		before += weights[i]
		least, until = weights[i], i
	}
	kept := 0
	for i, w := range weights {
		if bucketOf(w) < last || w > least || w == least && int32(i) <= until {
			ids[kept], weights[kept] = ids[i], w
			kept++
		}
	}
	return kept
}
