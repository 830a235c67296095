package tune

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/bench"
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

// Measure makes each candidate that fits out of the checkpoint from, in the user's cache, and runs it: a prompt as long as
// the advice's context, 32 tokens behind it, and a part of text for its quality.
//
// Errors: those of accelerate.Open, and the context's.
func Measure(ctx context.Context, from accelerate.Source, a *Advice, text string, e Events) (all []Measured, err error) {
	dir, err := os.MkdirTemp("", "qwenrt-quality-")
	if err != nil {
		return nil, fmt.Errorf("tune: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	q := quality{text: text, file: filepath.Join(dir, "logits")}
	for _, c := range a.All {
		if !c.Fits {
			continue
		}
		m, err := measure(ctx, from, c, a.Context, &q, e)
		if err != nil {
			return all, fmt.Errorf("tune: %s: %w", c.Name, err)
		}
		all = append(all, m)
	}
	return all, nil
}

func measure(ctx context.Context, from accelerate.Source, c Expectation, tokens int, q *quality, e Events) (m Measured, err error) {
	m.Expectation = c
	_, before := machine.ResidentMemory()
	e.step("%s: open", c.Name)
	model, err := accelerate.Open(ctx, from, c.Config, e.Build)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, model.Close()) }()
	r, release, err := model.Use()
	if err != nil {
		return m, err
	}
	defer release()
	const answer = 32
	prompt := max(1, min(tokens, r.Info().ContextLength-answer))
	run := func(what string, conf bench.Config) (float64, error) {
		e.step("%s: %s", c.Name, what)
		records, err := bench.Run(ctx, bench.Subject{Runner: r, Model: bench.Model{File: r.Info().Dir}}, conf, bench.Events{})
		if err != nil {
			return 0, err
		}
		return records[0].MedianTS, nil
	}
	if m.MeasuredSpeed.Prefill, err = run("prefill", bench.Config{Prompt: []int{prompt}, Gen: []int{0}, Repetitions: 2}); err != nil {
		return m, err
	}
	if m.MeasuredSpeed.Decode, err = run("decode", bench.Config{Prompt: []int{0}, Gen: []int{answer}, Depth: []int{prompt}, Repetitions: 3}); err != nil {
		return m, err
	}
	_, after := machine.ResidentMemory()
	m.MeasuredMemory = max(0, after-before)
	e.step("%s: quality", c.Name)
	m.MeasuredKLD, m.Top1, err = q.measure(ctx, r)
	return m, err
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
