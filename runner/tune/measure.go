package tune

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/eval"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Events tells how the work goes on. Functions that are nil are not called.
type Events struct {
	// Step says what is done now: "int4-b32: decode".
	Step func(string)
	// Build has the events of models that are made.
	Build accelerate.Events
}

func (e Events) step(format string, args ...any) {
	if e.Step != nil {
		e.Step(fmt.Sprintf(format, args...))
	}
}

// Measured is what a candidate does on this machine.
type Measured struct {
	Expectation
	MeasuredSpeed  Speed `json:"measured_speed"`
	MeasuredMemory int64 `json:"measured_memory"` // bytes that opening and running it added to the process
	// MeasuredKLD is the mean KL divergence from the first candidate that was measured, and Top1 the part of positions with
	// the same most likely token.
	MeasuredKLD float64 `json:"measured_kld"`
	Top1        float64 `json:"top1"`
}

// qualityChunks of eval.DefaultContext tokens tell candidates apart, and take seconds.
const qualityChunks = 4

// measuredRounds go through all candidates in turn, so that a machine that slows down does so for all; speeds are medians.
const measuredRounds = 3

// Measure makes each candidate that fits out of the checkpoint from, in the user's cache, and runs them in turn: a prompt
// as long as the advice's context, 32 tokens behind it, and a part of text for its quality.
//
// Errors: those of accelerate.Prepare and runner.Open, and the context's.
func Measure(ctx context.Context, from accelerate.Source, a *Advice, text string, e Events) (all []Measured, err error) {
	dir, err := os.MkdirTemp("", "qwenrt-quality-")
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	q := quality{text: text, file: filepath.Join(dir, "logits")}
	var trials []measurement
	for _, c := range a.All {
		if !c.Fits {
			continue
		}
		e.step("%s: make", c.Name)
		p, err := accelerate.Prepare(ctx, from, c.Config, e.Build)
		if err != nil {
			return nil, fmt.Errorf("tune: %s: %w", c.Name, err)
		}
		trials = append(trials, measurement{Measured: Measured{Expectation: c}, prepared: p})
	}
	for round := range measuredRounds {
		for i := range trials {
			t := &trials[i]
			where := fmt.Sprintf("%s, round %d of %d", t.Name, round+1, measuredRounds)
			if err := t.run(ctx, a.Context, &q, func(what string) { e.step("%s: %s", where, what) }); err != nil {
				return nil, fmt.Errorf("tune: %s: %w", t.Name, err)
			}
		}
	}
	for _, t := range trials {
		t.MeasuredSpeed = Speed{Prefill: stats.Median(t.prefill), Decode: stats.Median(t.decode)}
		all = append(all, t.Measured)
	}
	return all, nil
}

// measurement is a candidate with what its rounds gave.
type measurement struct {
	Measured
	prepared        *accelerate.Prepared
	prefill, decode []float64 // tokens a second
}

// run is one round: it opens the model, runs and closes it.
func (t *measurement) run(ctx context.Context, tokens int, q *quality, step func(string)) (err error) {
	debug.FreeOSMemory() // what quantising left, which would pass for the model's
	_, before := machine.ResidentMemory()
	step("open")
	r, err := runner.Open(ctx, t.prepared.File, t.prepared.Options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	const answer = 32
	prompt := max(1, min(tokens, r.Info().ContextLength-answer))
	run := func(what string, to *[]float64, conf bench.Config) error {
		step(what)
		records, err := bench.Run(ctx, bench.Subject{Runner: r, Model: bench.Model{File: r.Info().Dir}}, conf, bench.Events{})
		if err == nil {
			*to = append(*to, records[0].MedianTS)
		}
		return err
	}
	if err = run("prefill", &t.prefill, bench.Config{Prompt: []int{prompt}, Gen: []int{0}, Repetitions: 1}); err != nil {
		return err
	}
	decode := bench.Config{Prompt: []int{0}, Gen: []int{answer}, Depth: []int{prompt}, Repetitions: 1, NoWarmup: true}
	if err = run("decode", &t.decode, decode); err != nil || len(t.decode) > 1 {
		return err
	}
	_, after := machine.ResidentMemory()
	t.MeasuredMemory = max(0, after-before)
	step("quality")
	t.MeasuredKLD, t.Top1, err = q.measure(ctx, r)
	return err
}

// quality compares models with the first one that it is shown.
type quality struct {
	text  string
	file  string // of the first one's log-probabilities
	saved bool
}

func (q *quality) measure(ctx context.Context, r *runner.Runner) (kld, top1 float64, err error) {
	tokens, err := eval.Tokenize(r, q.text)
	if err != nil {
		return 0, 0, err
	}
	o := eval.Options{Context: min(eval.DefaultContext, r.Info().ContextLength), Chunks: qualityChunks}
	if !q.saved {
		f, err := os.Create(q.file)
		if err != nil {
			return 0, 0, err
		}
		o.Save = f
		_, err = eval.Measure(ctx, r, tokens, o)
		if err = errors.Join(err, f.Close()); err != nil {
			return 0, 0, err
		}
		q.saved = true
		return 0, 1, nil
	}
	reference, err := eval.OpenLogits(q.file)
	if err != nil {
		return 0, 0, err
	}
	defer reference.Close()
	o.Reference = reference
	result, err := eval.Measure(ctx, r, tokens, o)
	if err != nil {
		return 0, 0, err
	}
	return result.Divergence.KLD.Mean, result.Divergence.Top1, nil
}

// Check is how well the advice for a goal did.
type Check struct {
	Goal        Goal    `json:"goal"`
	Recommended string  `json:"recommended"`
	Best        string  `json:"best"`  // as measured
	Ratio       float64 `json:"ratio"` // of what the goal is about: 1 where the advice is the best
}

// Judge compares, for each goal, what would be recommended with what is best among the measured.
func (a *Advice) Judge(all []Measured) []Check {
	var checks []Check
	for _, g := range Goals() {
		q := Request{Goal: g, Context: a.Context, Memory: a.Limit}
		var chosen, best *Measured
		for i := range all {
			m := &all[i]
			if chosen == nil || better(q, m.Expectation, chosen.Expectation) {
				chosen = m
			}
			if best == nil || g.merit(m.asExpectation(), a.Context) > g.merit(best.asExpectation(), a.Context) {
				best = m
			}
		}
		if chosen == nil {
			continue
		}
		ratio := g.merit(chosen.asExpectation(), a.Context) / g.merit(best.asExpectation(), a.Context)
		checks = append(checks, Check{g, chosen.Name, best.Name, ratio})
	}
	return checks
}

// asExpectation has the measured in the place of the estimated.
func (m *Measured) asExpectation() Expectation {
	e := m.Expectation
	e.Speed, e.Memory.Total, e.KLD = m.MeasuredSpeed, max(1, m.MeasuredMemory), m.MeasuredKLD
	return e
}
