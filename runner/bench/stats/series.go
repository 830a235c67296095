package stats

import (
	"cmp"
	"math"
	"slices"
)

// firstLook is the number of pairs before the first look. Half of them are used, and with fewer than ten the sign
// test has no interval at 99 % that would leave out the extremes.
const firstLook = 20

// growth is how much longer the series is at each further look.
const growth = 1.25

// Series is a comparison that goes on until it is sure. Pairs are added one by one; now and then
// Add says that it is time to look at Ratio.
//
// Who looks at an interval of 99 % after every pair will at some time see one that is wrong. So looks are
// rare, at lengths that grow by a quarter, and the k-th of them spends 6/(π²k²) of the chance of error that
// Confidence leaves: all looks together, however many, spend no more than that. A look uses the quieter half of the
// pairs.
type Series struct {
	// Confidence of all looks together. Default: 0.99.
	Confidence float64

	A, B  []float64 // times
	looks int
}

// Add adds the times of a pair, and reports whether to look at Ratio now.
func (s *Series) Add(a, b float64) (look bool) {
	s.A, s.B = append(s.A, a), append(s.B, b)
	return len(s.A) >= int(firstLook*math.Pow(growth, float64(s.looks)))
}

// Ratio looks at the pairs so far, of which there is at least one.
func (s *Series) Ratio() Ratio {
	s.looks++
	confidence := s.Confidence
	if confidence == 0 {
		confidence = 0.99
	}
	spent := (1 - confidence) * 6 / (math.Pi * math.Pi * float64(s.looks*s.looks))
	a, b := quieter(s.A, s.B)
	return Paired(a, b, 1-spent)
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
