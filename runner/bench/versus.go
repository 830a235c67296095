package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Versus says how two contenders are compared. The zero value compares them until their ratio is known to
// within 1 % at a confidence of 99 %.
type Versus struct {
	// Confidence that the interval holds the ratio. Default: 0.99.
	Confidence float64
	// Enough ends a test before its budget does. Default: the interval is no wider than ±1 %.
	Enough func(stats.Ratio) bool
	// Budget is the time for a test, both sides together, waiting for the machine not counted. Default: a
	// minute.
	Budget time.Duration
	// Slice is about how long one side decodes before it is the other's turn; a prefill is not divided. Where other
	// processes run, slices below their scheduler's few milliseconds are the best: many of them meet nobody.
	// Default: DefaultSlice.
	Slice time.Duration
	// Seed of the order of the two sides of a pair.
	Seed uint64
}

// What holds where Versus does not say.
const (
	DefaultBudget = time.Minute
	DefaultSlice  = 10 * time.Millisecond
)

// Comparison is the result of one test of two contenders.
type Comparison struct {
	Test   Test          `json:"test"`
	Ratio  stats.Ratio   `json:"result"`   // of speeds: above 1 the second is faster
	Tokens int           `json:"n_tokens"` // that each slice has
	Spent  time.Duration `json:"spent_ns"`
	// A and B are the times of the slices in ns, pair by pair.
	A []float64 `json:"a_ns"`
	B []float64 `json:"b_ns"`
}

// Speeds are the median speeds of both sides in tokens per second.
func (c *Comparison) Speeds() (a, b float64) {
	return float64(c.Tokens) * 1e9 / stats.Median(c.A), float64(c.Tokens) * 1e9 / stats.Median(c.B)
}

// Compare runs a test on a and b in turn, in short slices and random order, so that the noise of the
// machine meets both alike. It goes on until v.Enough, or until the budget is spent: then the interval is as
// wide as it is. At least three pairs are measured.
//
// Decoding goes in slices of some tokens, each behind the last, from t.Depth to t.Depth + t.Gen and again; a
// test with a prefill is run whole.
//
// Errors: those of the contenders, and the context's.
func (v Versus) Compare(ctx context.Context, a, b Contender, t Test) (Comparison, error) {
	if t.tokens() < 1 {
		return Comparison{}, fmt.Errorf("bench: nothing to compare: %v has no tokens", t)
	}
	v = v.complete()
	sides := [2]Contender{a, b}
	for _, c := range sides { // the first run of a shape is slower
		if _, err := c.Run(ctx, Test{Prompt: t.Prompt, Gen: min(t.Gen, 1), Depth: t.Depth}); err != nil {
			return Comparison{}, err
		}
	}
	result := Comparison{Test: t}
	slices, err := v.slices(ctx, a, t)
	if err != nil {
		return result, err
	}
	result.Tokens = slices[0].tokens()
	random := rand.New(rand.NewPCG(v.Seed, 0))
	series := stats.Series{Confidence: v.Confidence}
	for n := 0; ; n++ {
		times, err := pair(ctx, sides, slices[n%len(slices)], random.IntN(2))
		if err != nil {
			return result, err
		}
		result.Spent += times[0] + times[1]
		look := series.Add(float64(times[0]), float64(times[1]))
		over := result.Spent >= v.Budget && n+1 >= minPairs
		if !look && !over {
			continue
		}
		result.Ratio, result.A, result.B = series.Ratio(), series.A, series.B
		if over || v.Enough(result.Ratio) {
			return result, nil
		}
	}
}

// minPairs is the least that a median says something about.
const minPairs = 3

// pair runs a slice on both sides.
func pair(ctx context.Context, sides [2]Contender, slice Test, first int) (times [2]time.Duration, err error) {
	for _, i := range [2]int{first, 1 - first} {
		if err := ctx.Err(); err != nil {
			return times, fmt.Errorf("bench: %w", err)
		}
		if times[i], err = sides[i].Run(ctx, slice); err != nil {
			return times, err
		}
	}
	return times, nil
}

// slices divides a test by the time that its decoding takes. All have the same number of tokens.
func (v Versus) slices(ctx context.Context, c Contender, t Test) ([]Test, error) {
	if t.Prompt > 0 {
		return []Test{t}, nil
	}
	probe := Test{Gen: min(t.Gen, 8), Depth: t.Depth}
	d, err := c.Run(ctx, probe)
	if err != nil {
		return nil, err
	}
	n := int(v.Slice * time.Duration(probe.Gen) / max(d, 1))
	n = max(1, min(n, t.Gen))
	var slices []Test
	for from := 0; from+n <= t.Gen; from += n {
		slices = append(slices, Test{Gen: n, Depth: t.Depth + from})
	}
	return slices, nil
}

func (v Versus) complete() Versus {
	if v.Confidence == 0 {
		v.Confidence = 0.99
	}
	if v.Enough == nil {
		v.Enough = func(r stats.Ratio) bool { return r.Spread() <= 0.01 }
	}
	if v.Budget == 0 {
		v.Budget = DefaultBudget
	}
	if v.Slice == 0 {
		v.Slice = DefaultSlice
	}
	return v
}

// Close closes contenders, those that are nil left out.
func Close(contenders ...Contender) error {
	var all error
	for _, c := range contenders {
		if c != nil {
			all = errors.Join(all, c.Close())
		}
	}
	return all
}
