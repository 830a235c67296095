package stats

import (
	"cmp"
	"math"
	"slices"
)

// firstLook is the number of rounds before the first look: with fewer the sign test has no interval at 99 %.
const firstLook = 9

// growth is how much longer the series is at each further look.
const growth = 1.25

// Series is a comparison that goes on until it is sure. It is made of rounds: in each both sides are opened afresh and
// run in turn. Slices of one round share what is peculiar to it, such as where in memory the two models came to lie, which
// may be worth several per cent; so a round counts as one observation, however many slices it has.
//
// Who looks at an interval of 99 % after every round will at some time see one that is wrong. So looks are rare, at lengths
// that grow by a quarter, and all of them together spend the chance of error that Confidence leaves, see Look.
type Series struct {
	// Confidence of all looks together. Default: 0.99.
	Confidence float64

	A, B  []float64 // times, one a round
	looks int
}

// Add adds a round: the times of pairs of slices, one or more. It reports whether to look at Ratio now.
func (s *Series) Add(a, b []float64) (look bool) {
	a, b = quieter(a, b)
	ratios := make([]float64, len(a))
	for i := range a {
		ratios[i] = a[i] / b[i]
	}
	time := Median(b)
	s.A, s.B = append(s.A, time*Median(ratios)), append(s.B, time)
	return len(s.A) >= int(firstLook*math.Pow(growth, float64(s.looks)))
}

// Ratio looks at the rounds so far, of which there is at least one.
func (s *Series) Ratio() Ratio {
	s.looks++
	return Paired(s.A, s.B, Look(cmp.Or(s.Confidence, 0.99), s.looks))
}

// Look is the confidence of the k-th look, from 1 on, where all looks together, however many, have the confidence that is
// given: the k-th has 6/(π²k²) of the error.
func Look(confidence float64, k int) float64 {
	return 1 - (1-confidence)*6/(math.Pi*math.Pi*float64(k*k))
}

// quieter gives the half of the pairs, rounded up, whose products are the least: those that met the least noise.
//
// It favours neither side: where noise meets both alike, a·b says nothing about which of the two it has met more.
// On a machine with five times more to do than it has cores, half of the pairs give an interval a quarter narrower than
// all of them.
func quieter(a, b []float64) (x, y []float64) {
	order := make([]int, len(a))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(a[i]*b[i], a[j]*b[j]) })
	for _, i := range order[:(len(order)+1)/2] {
		x, y = append(x, a[i]), append(y, b[i])
	}
	return x, y
}
