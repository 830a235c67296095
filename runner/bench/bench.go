package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// Subject is what is measured, and what records say of it. Only Runner is needed; Open fills in the
// rest.
type Subject struct {
	Runner  *runner.Runner
	Options runner.Options // with which Runner was opened
	Load    time.Duration  // that opening it took
	Model   Model          // default: model.onnx in the runner's folder, described
}

// Open opens the model at path, a model folder or an .onnx file, and takes the time.
//
// Errors: those of Describe and of runner.Open.
func Open(ctx context.Context, path string, o runner.Options) (Subject, error) {
	model, err := Describe(path) // first: it reads the files, so that loading finds them in memory
	if err != nil {
		return Subject{}, err
	}
	s := Subject{Options: o, Model: model}
	start := time.Now()
	if s.Runner, err = runner.Open(ctx, path, o); err != nil {
		return Subject{}, fmt.Errorf("bench: %w", err)
	}
	s.Load = time.Since(start)
	return s, nil
}

// Close closes the runner.
func (s *Subject) Close() error { return s.Runner.Close() }

// Events tells how a benchmark goes on. Functions that are nil are not called.
type Events struct {
	// Repetition is called before each repetition of a test, from 1 on; 0 is the warm-up.
	Repetition func(t Test, n, of int)
	// Record is called with each result as soon as it is there.
	Record func(Record)
}

// Run runs the tests of c. On error it gives the records that are complete by then.
//
// Errors: what is wrong with c, runner.ErrContext (a test does not fit the model's context), those
// of package runner, and the context's.
func Run(ctx context.Context, s Subject, c Config, e Events) ([]Record, error) {
	tests, err := c.Tests()
	if err != nil {
		return nil, err
	}
	info := s.Runner.Info()
	for _, t := range tests {
		if n := t.Depth + t.tokens(); n > info.ContextLength {
			return nil, fmt.Errorf("bench: %v: %w: %d tokens, the model takes %d", t, runner.ErrContext, n, info.ContextLength)
		}
	}
	if s.Model == (Model{}) {
		if s.Model, err = Describe(info.Dir); err != nil {
			return nil, err
		}
	}
	c = c.complete()
	var records []Record
	err = s.each(ctx, tests, c, e, func(r Record) {
		records = append(records, r)
		if e.Record != nil {
			e.Record(r)
		}
	})
	return records, err
}

// each runs tests in order. Those of one depth share a sequence, so that their context is prefilled once.
func (s *Subject) each(ctx context.Context, tests []Test, c Config, e Events, done func(Record)) (err error) {
	var b *trial
	defer func() { b.close() }()
	for i, t := range tests {
		if i == 0 || t.Depth != tests[i-1].Depth {
			b.close()
			b, err = newTrial(ctx, s.Runner, c.Seed)
		}
		var r Record
		if err == nil {
			r, err = s.measure(ctx, b, t, c, e)
		}
		if err != nil {
			if cause := ctx.Err(); cause != nil {
				err = cause
			}
			return fmt.Errorf("bench: %v: %w", t, err)
		}
		done(r)
	}
	return nil
}

// measure runs one test.
func (s *Subject) measure(ctx context.Context, b *trial, t Test, c Config, e Events) (Record, error) {
	r := s.record(t)
	if err := b.seq.Reserve(t.Depth + t.tokens()); err != nil {
		return r, err
	}
	first := 0 // the warm-up
	if c.NoWarmup {
		first = 1
	}
	times, meter, joules := make([]time.Duration, c.Repetitions), newEnergyMeter(powercap), 0.0
	for i := first; i <= c.Repetitions; i++ {
		if e.Repetition != nil {
			e.Repetition(t, i, c.Repetitions)
		}
		if i == 0 {
			if _, err := b.run(ctx, Test{Prompt: t.Prompt, Gen: min(t.Gen, 1), Depth: t.Depth}); err != nil {
				return r, err
			}
			continue
		}
		err := b.at(t.Depth)
		if err != nil {
			return r, err
		}
		meter.read()
		if times[i-1], err = b.run(ctx, t); err != nil {
			return r, err
		}
		if spent, known := meter.read(); known {
			joules += spent
			r.EnergyJ = &joules
		}
	}
	r.setSamples(times)
	r.KVBytes = s.Runner.Info().KVBytes(kvTokens(s.Runner, b.seq))
	r.PeakRSS, r.RSSAnon = machine.ResidentMemory()
	return r, nil
}

// kvTokens is the number of tokens for which the KV cache has memory.
func kvTokens(r *runner.Runner, seq *runner.Sequence) int {
	if r.Info().SharedKV {
		return seq.Capacity()
	}
	return seq.Len()
}

// trial runs tests on a sequence of its own.
type trial struct {
	seq        *runner.Sequence
	unwatch    func()
	vocabulary int
	random     *rand.Rand
}

func newTrial(ctx context.Context, r *runner.Runner, seed uint64) (*trial, error) {
	seq, err := r.NewSequence()
	if err != nil {
		return nil, err
	}
	return &trial{
		seq: seq, unwatch: seq.Watch(ctx), // once, so that a step costs nothing for it
		vocabulary: r.Info().Vocabulary, random: rand.New(rand.NewPCG(seed, 0)),
	}, nil
}

func (b *trial) close() {
	if b != nil {
		b.unwatch()
		b.seq.Close()
	}
}

func (b *trial) tokens(n int) []int32 { return randomTokens(b.random, b.vocabulary, n) }

// randomTokens are from the whole vocabulary.
func randomTokens(random *rand.Rand, vocabulary, n int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = random.Int32N(int32(vocabulary))
	}
	return ids
}

// at cuts the sequence to depth tokens, or prefills random ones that it lacks.
func (b *trial) at(depth int) error {
	if n := b.seq.Len(); n < depth {
		_, err := b.seq.Prefill(context.Background(), b.tokens(depth-n))
		return err
	}
	return b.seq.Truncate(depth)
}

// run times a test behind the first t.Depth tokens of the sequence.
func (b *trial) run(ctx context.Context, t Test) (time.Duration, error) {
	if err := errors.Join(ctx.Err(), b.at(t.Depth)); err != nil {
		return 0, err
	}
	ids := b.tokens(t.tokens())
	unwatched := context.Background()
	start := time.Now()
	if t.Prompt > 0 {
		if _, err := b.seq.Prefill(unwatched, ids[:t.Prompt]); err != nil {
			return 0, err
		}
	}
	for _, id := range ids[t.Prompt:] {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		if _, err := b.seq.Decode(unwatched, id); err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}
