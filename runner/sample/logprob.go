package sample

import (
	"cmp"
	"math"
	"slices"
)

// A Logprob is a token with the natural logarithm of its probability.
type Logprob struct {
	Token   int32
	Logprob float64
}

// LogSum is the logarithm of the sum of e to each logit: a token's log-probability is its logit less that.
// Logits that are all NaN or minus infinity have minus infinity.
func LogSum(logits []float32) float64 {
	best := Argmax(logits)
	if best < 0 {
		return math.Inf(-1)
	}
	s := Sampler{best: float64(logits[best]), scale: stepsPerUnit}
	var weights [span]float64
	total := 0.0
	for part := range slices.Chunk(logits, span) {
		total += s.weighSpan(weights[:], part)
	}
	return s.best + math.Log(total)
}

// Best returns the n tokens of the largest logits, from the largest down, of equal ones the lowest ids
// first. There are fewer where fewer have a logit above minus infinity.
func Best(logits []float32, n int) []int32 {
	if n <= 0 {
		return nil
	}
	n = min(n, len(logits))
	least := kthLargest(logits, make([]float32, largestRoom(len(logits), n)), n)
	ids := make([]int32, 0, n)
	bound := math.Nextafter32(least, float32(math.Inf(-1)))
	for i := nextAbove(logits, 0, bound); i >= 0; i = nextAbove(logits, i+1, bound) {
		ids = append(ids, int32(i))
	}
	slices.SortFunc(ids, func(a, b int32) int {
		return cmp.Or(cmp.Compare(logits[b], logits[a]), cmp.Compare(a, b))
	})
	return ids[:min(n, len(ids))]
}
