package quantize

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// heavyTailed are values as activations have them: most near 0, some far out, more of them above than below.
func heavyTailed(n int) []float32 {
	random := rand.New(rand.NewPCG(3, 0))
	x := make([]float32, n)
	for i := range x {
		v := random.NormFloat64()
		x[i] = float32(v * math.Abs(v) * math.Abs(v))
		if x[i] < 0 {
			x[i] /= 3
		}
	}
	return x
}

func observation(t *testing.T, x []float32, k, batches int) *Observation {
	t.Helper()
	o := NewObserver(k, len(x)/k)
	for i := range batches {
		require.NoError(t, o.Add(x[i*len(x)/batches:(i+1)*len(x)/batches]))
	}
	return o.Observation()
}

// roundingError is the error of rounding x to an activation's levels, by the definition.
func roundingError(x []float32, a Activation) float64 {
	sum := 0.0
	for _, v := range x {
		q := min(max(math.RoundToEven(float64(v/a.Scale))+float64(a.Zero), 0), 255)
		d := float64(v) - float64(a.Scale)*(q-float64(a.Zero))
		sum += d * d
	}
	return sum
}

func TestObserver(t *testing.T) {
	const k, tokens = 300, 96
	x := heavyTailed(k * tokens)
	for i := range k { // a token that is far louder than all others
		x[17*k+i] *= 1000
	}
	o := observation(t, x, k, 3)
	require.Len(t, o.Batches, 3)
	require.Equal(t, x, o.Tokens, "there was room for all")
	for j := range k {
		lo, hi, sum := math.Inf(1), math.Inf(-1), 0.0
		for i := range tokens {
			v := float64(x[i*k+j])
			lo, hi = min(lo, v), max(hi, v)
			if i != 17 {
				sum += v * v
			}
		}
		require.Equal(t, [2]float32{float32(lo), float32(hi)}, [2]float32{o.Min[j], o.Max[j]}, j)
		require.InEpsilon(t, sum/(tokens-1), o.MeanSquare[j], 1e-5, j)
	}
	few := NewObserver(k, 10)
	for i := range 3 {
		require.NoError(t, few.Add(x[i*len(x)/3:(i+1)*len(x)/3]))
	}
	kept := few.Observation().Tokens
	require.LessOrEqual(t, len(kept), 10*k)
	require.GreaterOrEqual(t, len(kept), 5*k)
	stride := tokens * k / len(kept) / 2 * 2
	for i := range len(kept) / k {
		require.Equal(t, x[i*stride*k:][:k], kept[i*k:][:k], "evenly spread: token %d", i)
	}
}

// Each method against what it promises, computed from the values themselves.
func TestRanges(t *testing.T) {
	const k, tokens, batches = 16, 4096, 8
	x := heavyTailed(k * tokens)
	o := observation(t, x, k, batches)
	ends := func(a Activation) (lo, hi float64) {
		return -float64(a.Scale) * float64(a.Zero), float64(a.Scale) * (255 - float64(a.Zero))
	}
	sorted := slices.Sorted(slices.Values(x))
	lowest, highest := float64(sorted[0]), float64(sorted[len(x)-1])
	step := (highest - lowest) / 255

	lo, hi := ends(o.activation(RangeMinMax, false, nil))
	require.InDelta(t, lowest, lo, step)
	require.InDelta(t, highest, hi, step)

	wantLow, wantHigh := 0.0, 0.0
	for i := range batches {
		part := x[i*len(x)/batches : (i+1)*len(x)/batches]
		if l, h := float64(slices.Min(part)), float64(slices.Max(part)); i == 0 {
			wantLow, wantHigh = l, h
		} else {
			wantLow, wantHigh = 0.9*wantLow+0.1*l, 0.9*wantHigh+0.1*h
		}
	}
	lo, hi = ends(o.activation(RangeAverage, false, nil))
	require.InDelta(t, wantLow, lo, step)
	require.InDelta(t, wantHigh, hi, step)

	cut := int(rare * float64(len(x)) / 2)
	lo, hi = ends(o.activation(RangePercentile, false, nil))
	require.InDelta(t, float64(sorted[cut]), lo, 2*step)
	require.InDelta(t, float64(sorted[len(x)-1-cut]), hi, 2*step)

	best := math.Inf(1)
	for i := 1; i <= 20; i++ {
		for j := 1; j <= 20; j++ {
			best = min(best, roundingError(x, newActivation(lowest*float64(i)/20, highest*float64(j)/20, false)))
		}
	}
	got := roundingError(x, o.activation(RangeMSE, false, nil))
	require.Less(t, got, 1.05*best, "within 5 % of all ranges that were tried")
	require.Less(t, got, roundingError(x, o.activation(RangeMinMax, false, nil)), "and better than the whole one")
}

// slowDivergence is the divergence of RangeEntropy by its definition: the values one by one, cut off at the ends, and the
// distribution over bins that is left of them when each level is spread evenly over its bins that were seen.
func slowDivergence(h *histogram, x []float32, lo, hi float64) float64 {
	bin := func(v float64) int { return h.clamp((v - h.lo) / h.width) }
	level := func(b int) int { return int(math.Round((h.center(b) - lo) / (hi - lo) * 255)) }
	p, inside, seen := map[int]float64{}, map[int]float64{}, map[int]map[int]bool{}
	total := 0.0
	for _, v := range x {
		b := bin(float64(v))
		p[min(max(b, bin(lo)), bin(hi))] += 1 / float64(len(x))
		if b < bin(lo) || b > bin(hi) {
			continue
		}
		l := min(max(level(b), 0), 255)
		if seen[l] == nil {
			seen[l] = map[int]bool{}
		}
		seen[l][b] = true
		inside[l]++
		total++
	}
	sum := 0.0
	for b, share := range p {
		l, q := min(max(level(b), 0), 255), 1e-12
		if seen[l][b] {
			q = inside[l] / total / float64(len(seen[l]))
		}
		sum += share * math.Log(share/q)
	}
	return sum
}

func TestEntropyRange(t *testing.T) {
	const k = 16
	x := heavyTailed(k * 512)
	o := observation(t, x, k, 1)
	lo, hi := o.extent(nil)
	h := o.histogram(lo, hi, nil)
	for _, part := range [][2]float64{{1, 1}, {0.5, 1}, {0.25, 0.125}, {0.03, 0.9}} {
		require.InEpsilon(t, slowDivergence(h, x, lo*part[0], hi*part[1]), h.divergence(lo*part[0], hi*part[1]), 1e-9, part)
	}
	a, b := h.clip(RangeEntropy)
	require.LessOrEqual(t, h.divergence(a, b), h.divergence(lo, hi))
	require.True(t, lo <= a && a <= 0 && 0 <= b && b <= hi)
}

// Channels that are divided by factors have the range of the quotients, whatever the method.
func TestRangesOfScaledChannels(t *testing.T) {
	const k = 4
	x := heavyTailed(k * 1024)
	factors := []float32{1, 8, 0.25, 2}
	scaled := slices.Clone(x)
	for i := range scaled {
		scaled[i] /= factors[i%k]
	}
	for _, m := range RangeMethods() {
		for _, symmetric := range []bool{false, true} {
			want := observation(t, scaled, k, 4).activation(m, symmetric, nil)
			got := observation(t, x, k, 4).activation(m, symmetric, factors)
			require.InEpsilon(t, want.Scale, got.Scale, 1e-3, m)
			require.InDelta(t, want.Zero, got.Zero, 1, m)
			if symmetric {
				require.EqualValues(t, 128, got.Zero, m)
			}
		}
	}
}
