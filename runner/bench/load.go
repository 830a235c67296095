package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
	"github.com/qwenrt/qwenrt/runner/machine"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// LoadConfig says what clients ask for in MeasureLoad. Answers are greedy and go on behind end tokens.
type LoadConfig struct {
	Concurrency []int  // clients at once, a level each; each asks again as soon as it has its answer
	Prompt      int    // random tokens of each prompt, others each time
	Text        string // the prompt of all, in place of Prompt; tokenising it counts
	Gen         int    // tokens of each answer
	Repetitions int    // requests of each client
	NoWarmup    bool   // leave out the requests before each level, of two tokens, that are not timed
	Seed        uint64 // of the random tokens
}

// Load is what MeasureLoad found at one level. Names in JSON that Record has too mean the same.
type Load struct {
	CPUInfo       string  `json:"cpu_info"`
	QwenrtVersion string  `json:"qwenrt_version"`
	ORTVersion    string  `json:"ort_version"`
	Provider      string  `json:"provider"`
	ModelType     string  `json:"model_type"`
	ModelHash     string  `json:"model_hash"`
	TypeKV        string  `json:"type_kv"`
	Threads       int     `json:"n_threads"`
	Batch         int     `json:"n_batch"`
	LoadSeconds   float64 `json:"load_s"`
	TestTime      string  `json:"test_time"`
	PeakRSS       int64   `json:"peak_rss"`

	Slots       int   `json:"n_slots"`
	Concurrency int   `json:"concurrency"`
	Requests    int   `json:"n_requests"`
	Prompt      int   `json:"n_prompt"`    // tokens of a prompt
	Gen         int   `json:"n_gen"`       // tokens of an answer
	Tokenize    int64 `json:"tokenize_ns"` // to turn Text into tokens, timed apart, the median; 0 for random tokens

	Wall     int64   `json:"wall_ns"`    // from the first request to the end of the last answer
	OutputTS float64 `json:"output_ts"`  // tokens of all answers over Wall, in tokens per second
	TotalTS  float64 `json:"total_ts"`   // those of prompts counted too
	PromptTS float64 `json:"prefill_ts"` // speed of a request's prefill, the median
	DecodeTS float64 `json:"decode_ts"`  // speed of its decoding behind the first token, the median; 0 where there is none

	TTFT        Percentiles `json:"ttft"` // from the call: waiting, tokenising and prefill count
	TPOT        Percentiles `json:"tpot"` // of a request: the mean of its tokens behind the first
	SamplesTTFT []int64     `json:"samples_ttft_ns"`
	SamplesTPOT []int64     `json:"samples_tpot_ns"`
}

// Percentiles are times in ns. Behind a few requests the high ones are little more than the maximum.
type Percentiles struct {
	P50 int64 `json:"p50_ns"`
	P90 int64 `json:"p90_ns"`
	P99 int64 `json:"p99_ns"`
}

// MeasureLoad runs whole generations, Runner.Generate as users call it, many at once. They share runs where
// s.Options.Slots allows it; a prefix cache would know a Text from its first request on. On error it gives the
// levels that are complete by then.
//
// Errors: what is wrong with c, runner.ErrContext (an answer does not fit behind its prompt), those of
// Generate and the tokenizer, and the context's.
func MeasureLoad(ctx context.Context, s Subject, c LoadConfig) ([]Load, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	info := s.Runner.Info()
	l := &load{s: s, c: c, random: rand.New(rand.NewPCG(c.Seed, 0))}
	tokenize, err := l.tokenize()
	if err != nil {
		return nil, fmt.Errorf("bench: load: %w", err)
	}
	if n := l.c.Prompt + c.Gen; n > info.ContextLength {
		return nil, fmt.Errorf("bench: load: %w: %d tokens, the model takes %d", runner.ErrContext, n, info.ContextLength)
	}
	var levels []Load
	for _, clients := range c.Concurrency {
		r, err := l.level(ctx, clients)
		if err != nil {
			return levels, fmt.Errorf("bench: load: %d at once: %w", clients, err)
		}
		r.Tokenize = tokenize
		levels = append(levels, r)
	}
	return levels, nil
}

func (c *LoadConfig) validate() error {
	var faults []error
	atLeastOne := func(name string, n int) {
		if n < 1 {
			faults = append(faults, fmt.Errorf("bench: load: %s is %d: want 1 or more", name, n))
		}
	}
	atLeastOne("number of levels", len(c.Concurrency))
	for _, n := range c.Concurrency {
		atLeastOne("concurrency", n)
	}
	if c.Text == "" {
		atLeastOne("prompt", c.Prompt)
	}
	atLeastOne("generation", c.Gen)
	atLeastOne("repetitions", c.Repetitions)
	return errors.Join(faults...)
}

// load is a measurement under way.
type load struct {
	s      Subject
	c      LoadConfig
	random *rand.Rand
}

// tokenize counts and times the tokens of a text.
func (l *load) tokenize() (ns int64, err error) {
	if l.c.Text == "" {
		return 0, nil
	}
	tok, err := l.s.Runner.Tokenizer()
	if err != nil {
		return 0, err
	}
	times := make([]float64, l.c.Repetitions)
	for i := range times {
		start := time.Now()
		ids, err := tok.Encode(l.c.Text)
		if err != nil {
			return 0, err
		}
		times[i], l.c.Prompt = float64(time.Since(start)), len(ids)
	}
	return int64(stats.Median(times)), nil
}

// requests are those of each client, in turn.
func (l *load) requests(clients, each, gen int) [][]runner.Request {
	all := make([][]runner.Request, clients)
	for i := range all {
		for range each {
			q := runner.Request{Prompt: l.c.Text, MaxTokens: gen, Sampling: &sample.Params{}, IgnoreEOS: true}
			if l.c.Text == "" {
				q.Tokens = randomTokens(l.random, l.s.Runner.Info().Vocabulary, l.c.Prompt)
			}
			all[i] = append(all[i], q)
		}
	}
	return all
}

// level measures one number of clients.
func (l *load) level(ctx context.Context, clients int) (Load, error) {
	if !l.c.NoWarmup {
		if _, err := ask(ctx, l.s.Runner, l.requests(clients, 1, min(l.c.Gen, 2))); err != nil {
			return Load{}, err
		}
	}
	requests := l.requests(clients, l.c.Repetitions, l.c.Gen)
	r := l.s.record(Test{Prompt: l.c.Prompt, Gen: l.c.Gen})
	start := time.Now()
	results, err := ask(ctx, l.s.Runner, requests)
	wall := time.Since(start)
	if err != nil {
		return Load{}, err
	}
	m := Load{
		CPUInfo: r.CPUInfo, QwenrtVersion: r.QwenrtVersion, ORTVersion: r.ORTVersion, Provider: r.Provider,
		ModelType: r.ModelType, ModelHash: r.ModelHash, TypeKV: r.TypeK, Threads: r.Threads, Batch: r.Batch,
		LoadSeconds: r.LoadSeconds, TestTime: r.TestTime, Slots: l.s.Options.Slots, Concurrency: clients, Prompt: r.Prompt, Gen: r.Gen,
	}
	m.PeakRSS, _ = machine.ResidentMemory()
	m.sum(results, wall)
	return m, nil
}

// ask has each client ask for its answers one after the other, all clients at once. The first error ends all.
func ask(ctx context.Context, r *runner.Runner, requests [][]runner.Request) ([]runner.Result, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answers := make([][]runner.Result, len(requests))
	var all sync.WaitGroup
	for i := range requests {
		all.Go(func() {
			for _, q := range requests[i] {
				_, result, err := r.Text(ctx, q)
				if err != nil {
					cancel(err)
					return
				}
				answers[i] = append(answers[i], result)
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return slices.Concat(answers...), nil
}

// sum fills in what follows from the results.
func (m *Load) sum(results []runner.Result, wall time.Duration) {
	var output, total int
	var prefill, decode []float64
	for _, r := range results {
		output += r.GeneratedTokens
		total += r.PromptTokens + r.GeneratedTokens
		prefill, decode = append(prefill, r.PromptPerSecond), append(decode, r.TokensPerSecond)
		m.SamplesTTFT = append(m.SamplesTTFT, r.TTFT.Nanoseconds())
		m.SamplesTPOT = append(m.SamplesTPOT, r.TPOT().Nanoseconds())
	}
	m.Requests, m.Wall = len(results), wall.Nanoseconds()
	m.OutputTS, m.TotalTS = float64(output)/wall.Seconds(), float64(total)/wall.Seconds()
	m.PromptTS, m.DecodeTS = stats.Median(prefill), stats.Median(decode)
	m.TTFT, m.TPOT = percentiles(m.SamplesTTFT), percentiles(m.SamplesTPOT)
}

func percentiles(ns []int64) Percentiles {
	values := make([]float64, len(ns))
	for i, n := range ns {
		values[i] = float64(n)
	}
	at := func(q float64) int64 { return int64(stats.Quantile(values, q)) }
	return Percentiles{P50: at(0.5), P90: at(0.9), P99: at(0.99)}
}
