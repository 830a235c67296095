package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// Versus says how two contenders are compared. The zero value compares them until their ratio is known to
// within 1 % at a confidence of 99 %.
type Versus struct {
	// Confidence that the interval holds the ratio. Default: 0.99.
	Confidence float64
	// Enough ends a test before its budget does. Default: the interval is no wider than ±1 %.
	Enough func(Test, stats.Ratio) bool
	// Budget is the time for a test, both sides together; opening and warming up are not counted. Default: DefaultBudget.
	Budget time.Duration
	// Round is the time of a test, both sides together, until both are opened afresh. Default: DefaultRound.
	Round time.Duration
	// Slice is about how long one side decodes before it is the other's turn; a prefill is not divided. Where other
	// processes run, slices below their scheduler's few milliseconds are the best: many of them meet nobody.
	// Default: DefaultSlice.
	Slice time.Duration
	// Seed of the order of the two sides of a pair.
	Seed uint64
	// Progress, if set, is told what each round has found of a test.
	Progress func(t Test, rounds int, r stats.Ratio)
}

// What holds where Versus does not say.
const (
	DefaultBudget = time.Minute
	DefaultRound  = time.Second
	DefaultSlice  = 10 * time.Millisecond
)

// Opener opens a contender.
type Opener func(context.Context) (Contender, error)

// Comparison is the result of one test of two contenders.
type Comparison struct {
	Test   Test          `json:"test"`
	Ratio  stats.Ratio   `json:"result"`   // of speeds: above 1 the second is faster
	Tokens int           `json:"n_tokens"` // that each slice has
	Pairs  int           `json:"pairs"`    // of slices, in all rounds
	Spent  time.Duration `json:"spent_ns"`
	// A and B are the times of a slice in ns, one a round.
	A []float64 `json:"a_ns"`
	B []float64 `json:"b_ns"`

	series stats.Series
	done   bool
}

// Speeds are the median speeds of both sides in tokens per second.
func (c *Comparison) Speeds() (a, b float64) {
	return float64(c.Tokens) * 1e9 / stats.Median(c.A), float64(c.Tokens) * 1e9 / stats.Median(c.B)
}

// Compare is CompareAfresh for one test and two sides that are open, and stay so: what is peculiar to this opening of them
// counts as a difference.
func (v Versus) Compare(ctx context.Context, a, b Contender, t Test) (Comparison, error) {
	results, err := v.CompareAfresh(ctx, kept{a}.open, kept{b}.open, []Test{t})
	if err != nil {
		return Comparison{}, err
	}
	return results[0], nil
}

// kept is a contender that is opened already, and that closing leaves open.
type kept struct{ Contender }

func (k kept) open(context.Context) (Contender, error) { return k, nil }
func (k kept) Close() error                            { return nil }

// CompareAfresh runs tests on a and b in turn, in short slices and random order, so that the noise of the machine meets both
// alike. It goes in rounds, in each of which both are opened afresh: where in memory a model happens to lie can be worth
// several per cent. A test goes on until v.Enough, or until its budget is spent: then the interval is as wide as it is.
//
// Decoding goes in slices of some tokens, each behind the last, from t.Depth to t.Depth + t.Gen and again; a
// test with a prefill is run whole.
//
// Errors: those of the contenders, and the context's.
func (v Versus) CompareAfresh(ctx context.Context, a, b Opener, tests []Test) ([]Comparison, error) {
	results := make([]Comparison, len(tests))
	v = v.complete()
	for i, t := range tests {
		if t.tokens() < 1 {
			return nil, fmt.Errorf("bench: nothing to compare: %v has no tokens", t)
		}
		results[i] = Comparison{Test: t, series: stats.Series{Confidence: v.Confidence}}
	}
	random := rand.New(rand.NewPCG(v.Seed, 0))
	for {
		open := false
		for i := range results {
			open = open || !results[i].done
		}
		if !open {
			return results, nil
		}
		if err := v.round(ctx, [2]Opener{a, b}, results, random); err != nil {
			return nil, err
		}
	}
}

// round opens both sides and runs what is not done yet.
func (v Versus) round(ctx context.Context, openers [2]Opener, results []Comparison, random *rand.Rand) (err error) {
	var sides [2]Contender
	defer func() { err = errors.Join(err, Close(sides[:]...)) }()
	first := random.IntN(2)
	for _, i := range [2]int{first, 1 - first} {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		if sides[i], err = openers[i](ctx); err != nil {
			return err
		}
	}
	for i := range results {
		if !results[i].done {
			if err := v.test(ctx, sides, &results[i], random); err != nil {
				return err
			}
		}
	}
	return nil
}

// test runs a round of one test, and looks at the result when it is time to.
func (v Versus) test(ctx context.Context, sides [2]Contender, c *Comparison, random *rand.Rand) error {
	for _, side := range sides { // the first run of a shape is slower
		if _, err := side.Run(ctx, Test{Prompt: c.Test.Prompt, Gen: min(c.Test.Gen, 1), Depth: c.Test.Depth}); err != nil {
			return err
		}
	}
	if c.Tokens == 0 {
		if err := v.size(ctx, sides[0], c); err != nil {
			return err
		}
	}
	slices := c.slices()
	var a, b []float64
	for spent := time.Duration(0); spent < v.Round || len(a) == 0; {
		times, err := pair(ctx, sides, slices[len(a)%len(slices)], random.IntN(2))
		if err != nil {
			return err
		}
		spent += times[0] + times[1]
		c.Spent += times[0] + times[1]
		a, b = append(a, float64(times[0])), append(b, float64(times[1]))
	}
	c.Pairs += len(a)
	look := c.series.Add(a, b)
	over := c.Spent >= v.Budget && len(c.series.A) >= minRounds
	if look || over {
		c.Ratio, c.A, c.B = c.series.Ratio(), c.series.A, c.series.B
		c.done = over || v.Enough(c.Test, c.Ratio)
		if v.Progress != nil {
			v.Progress(c.Test, len(c.A), c.Ratio)
		}
	}
	return nil
}

// minRounds is the least that a median says something about.
const minRounds = 3

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

// size finds the number of tokens of a slice by the time that decoding takes.
func (v Versus) size(ctx context.Context, side Contender, c *Comparison) error {
	t := c.Test
	if t.Prompt > 0 {
		c.Tokens = t.tokens()
		return nil
	}
	probe := Test{Gen: min(t.Gen, 8), Depth: t.Depth}
	d, err := side.Run(ctx, probe)
	if err != nil {
		return err
	}
	c.Tokens = max(1, min(int(v.Slice*time.Duration(probe.Gen)/max(d, 1)), t.Gen))
	return nil
}

// slices divides the test. All slices have the same number of tokens.
func (c *Comparison) slices() []Test {
	t := c.Test
	if t.Prompt > 0 {
		return []Test{t}
	}
	var slices []Test
	for from := 0; from+c.Tokens <= t.Gen; from += c.Tokens {
		slices = append(slices, Test{Gen: c.Tokens, Depth: t.Depth + from})
	}
	return slices
}

func (v Versus) complete() Versus {
	if v.Confidence == 0 {
		v.Confidence = 0.99
	}
	if v.Enough == nil {
		v.Enough = func(_ Test, r stats.Ratio) bool { return r.Spread() <= 0.01 }
	}
	if v.Budget == 0 {
		v.Budget = DefaultBudget
	}
	if v.Round == 0 {
		v.Round = DefaultRound
	}
	v.Round = min(v.Round, v.Budget/minRounds)
	if v.Slice == 0 {
		v.Slice = DefaultSlice
	}
	return v
}

// Times runs a test again and again, after a warm-up, until enough says so, which looks when there are another quarter more
// times, or until the budget is spent: at least three times. The times are in ns.
func (s *Subject) Times(ctx context.Context, t Test, budget time.Duration, enough func(looks int, times []float64) bool) ([]float64, error) {
	if n, most := t.Depth+t.tokens(), s.Runner.Info().ContextLength; n > most {
		return nil, fmt.Errorf("bench: %v: %w: %d tokens, the model takes %d", t, runner.ErrContext, n, most)
	}
	b, err := newTrial(ctx, s.Runner, 0)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer b.close()
	if err := b.seq.Reserve(t.Depth + t.tokens()); err != nil {
		return nil, err
	}
	if _, err := b.run(ctx, t); err != nil {
		return nil, fmt.Errorf("bench: %v: %w", t, err)
	}
	var times []float64
	looks, next := 0, 8
	for spent := time.Duration(0); ; {
		d, err := b.run(ctx, t)
		if err != nil {
			return times, fmt.Errorf("bench: %v: %w", t, err)
		}
		times = append(times, float64(d))
		spent += d
		over := spent >= budget && len(times) >= minRounds
		if len(times) < next && !over {
			continue
		}
		looks++
		next += next / 4
		if enough(looks, times) || over {
			return times, nil
		}
	}
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
