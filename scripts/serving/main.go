// Command serving measures what the prefix cache and speculation are worth on a model folder:
//
//	go run ./scripts/serving MODEL_DIR
//	go run ./scripts/serving -draft DRAFT_DIR -text FILE MODEL_DIR
//	go run ./scripts/serving -http MODEL_DIR
//
// It prints the speed of one generation and of eight at once, as a whole and in the common steps alone; the time to
// the first token of a prompt of which nine tenths are known; and the speed of an answer that copies. That answer is
// given: each token is taken from a text instead of from the logits, so that any weights will do. With -draft it
// prints instead how many guesses of a smaller model are right in greedy answers to pieces of a text, and the speed;
// without a text, prompts are random. With -http it compares answers that are streamed over HTTP with the same ones of
// the runner, for one client and for eight.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/sample"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "serving:", err)
		os.Exit(1)
	}
}

func run() error {
	threads := flag.Int("threads", 0, "CPU threads (0: all)")
	rounds := flag.Int("rounds", 2, "rounds; the best counts")
	prompt := flag.Int("p", 256, "tokens of a prompt")
	answer := flag.Int("n", 128, "tokens of an answer")
	draft := flag.String("draft", "", "model folder of a model that guesses")
	text := flag.String("text", "", "file whose pieces are the prompts with -draft")
	http := flag.Bool("http", false, "compare streams over HTTP with the runner")
	flag.Parse()
	if flag.NArg() != 1 {
		return errors.New("usage: serving [flags] MODEL_DIR")
	}
	if err := check(*rounds, *prompt, *answer, *draft != "", *text != ""); err != nil {
		return err
	}
	r, err := runner.Open(context.Background(), flag.Arg(0), runner.Options{Threads: *threads, Slots: 8, PrefixCache: 1 << 30})
	if err != nil {
		return err
	}
	defer r.Close()
	m := measurement{r: r, prompt: *prompt, answer: *answer}
	parts := []func() error{m.batches, m.prefix, m.copies}
	if *http {
		return m.http(*rounds)
	}
	if *draft != "" {
		if m.draft, err = runner.Open(context.Background(), *draft, runner.Options{Threads: *threads, Spin: ort.SpinInRun}); err != nil {
			return err
		}
		defer m.draft.Close()
		if err := m.read(*text); err != nil {
			return err
		}
		parts = []func() error{m.drafts}
	}
	for _, part := range parts {
		for range *rounds {
			if err := part(); err != nil {
				return err
			}
		}
	}
	return nil
}

// check looks at flags before a model is loaded for them.
func check(rounds, prompt, answer int, drafts, text bool) error {
	var faults []error
	fault := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(rounds < 1, "-rounds is %d, want 1 or more", rounds)
	fault(prompt < 1, "-p is %d, want 1 or more", prompt)
	fault(answer < 2, "-n is %d, want 2 or more: the first token is the prompt's", answer)
	fault(!drafts && answer > prompt, "-n is %d, want -p, %d, at most: an answer that copies is part of the prompt", answer, prompt)
	fault(text && !drafts, "-text is for -draft")
	return errors.Join(faults...)
}

type measurement struct {
	r, draft       *runner.Runner
	prompt, answer int
	seed           uint64
	text           []int32 // nil: none
}

// pieces is how many prompts are answered with each number of guesses.
const pieces = 4

// read takes the prompts' text.
func (m *measurement) read(file string) error {
	if file == "" {
		return nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	tok, err := m.r.Tokenizer()
	if err != nil {
		return err
	}
	if m.text, err = tok.Encode(string(b)); err == nil && len(m.text) < pieces*m.prompt {
		err = fmt.Errorf("%s has %d tokens, want %d prompts of %d", file, len(m.text), pieces, m.prompt)
	}
	return err
}

// drafts answers with and without a model that guesses.
func (m *measurement) drafts() error {
	prompts := make([][]int32, pieces)
	for i := range prompts {
		if prompts[i] = m.tokens(m.prompt); m.text != nil {
			prompts[i] = m.text[i*len(m.text)/pieces:][:m.prompt]
		}
	}
	for _, speculate := range []int{0, 1, 2, 4, 8} {
		var drafted, accepted, tokens int
		var decoding time.Duration
		for _, prompt := range prompts {
			q := m.request(prompt, m.answer)
			if q.Speculate = speculate; speculate > 0 {
				q.Draft = m.draft
			}
			_, res, err := m.r.Text(context.Background(), q)
			if err != nil {
				return err
			}
			drafted, accepted = drafted+res.DraftedTokens, accepted+res.AcceptedTokens
			tokens += res.GeneratedTokens - 1
			decoding += time.Duration(float64(res.GeneratedTokens-1) / res.TokensPerSecond * float64(time.Second))
		}
		fmt.Printf("%d guesses of a model at most: %.1f tokens/s, %d of %d right (%.0f %%)\n",
			speculate, float64(tokens)/decoding.Seconds(), accepted, drafted, 100*float64(accepted)/float64(max(drafted, 1)))
	}
	return nil
}

// tokens are n that no prompt before had.
func (m *measurement) tokens(n int) []int32 {
	m.seed++
	random := rand.New(rand.NewPCG(m.seed, 1))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = random.Int32N(int32(min(m.r.Info().Vocabulary, 100_000)))
	}
	return ids
}

func (m *measurement) request(prompt []int32, n int) runner.Request {
	return runner.Request{Tokens: prompt, MaxTokens: n, Sampling: &sample.Params{}, IgnoreEOS: true}
}

// batches answers one request, and eight at once.
func (m *measurement) batches() error {
	for _, n := range []int{1, 8} {
		before, start := m.r.BatchStats(), time.Now()
		errs := make([]error, n)
		var all sync.WaitGroup
		for i := range n {
			q := m.request(m.tokens(m.prompt), m.answer)
			all.Go(func() { _, _, errs[i] = m.r.Text(context.Background(), q) })
		}
		all.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		wall, s := time.Since(start), m.r.BatchStats()
		steps, tokens, took := s.Steps-before.Steps, s.Tokens-before.Tokens, s.Time-before.Time
		fmt.Printf("%d at once: %.1f tokens/s in all; steps of %.1f rows took %.1f ms each, %.1f tokens/s\n",
			n, float64(n*m.answer)/wall.Seconds(), float64(tokens)/float64(steps),
			1000*took.Seconds()/float64(steps), float64(tokens)/took.Seconds())
	}
	return nil
}

// prefix compares a prompt with one that begins as it does.
func (m *measurement) prefix() error {
	first := m.tokens(4 * m.prompt)
	second := slices.Concat(first[:len(first)*9/10], m.tokens(len(first)-len(first)*9/10))
	for _, prompt := range [][]int32{first, second} {
		_, res, err := m.r.Text(context.Background(), m.request(prompt, 1))
		if err != nil {
			return err
		}
		fmt.Printf("prompt of %d, %d known: first token after %.3f s\n", len(prompt), res.CachedTokens, res.TTFT.Seconds())
	}
	return nil
}

// copies answers with the prompt, one token in 25 changed.
func (m *measurement) copies() error {
	prompt := m.tokens(m.prompt)
	text := slices.Clone(prompt)[:m.answer]
	for i := 20; i < len(text); i += 25 {
		text[i] = m.tokens(1)[0]
	}
	for _, speculate := range []int{0, 4, runner.DefaultSpeculation, 16} {
		q := m.request(prompt, len(text))
		q.Speculate, q.Constraint = speculate, &given{text: text}
		_, res, err := m.r.Text(context.Background(), q)
		if err != nil {
			return err
		}
		fmt.Printf("a copy, %d guesses at most: %.1f tokens/s, %d of %d right\n", speculate, res.TokensPerSecond, res.AcceptedTokens, res.DraftedTokens)
	}
	return nil
}

// given is a constraint that leaves one token each time.
type given struct {
	text []int32
	at   int
}

func (g *given) Mask(mask []uint32) (end bool, err error) {
	clear(mask)
	if g.at < len(g.text) {
		mask[g.text[g.at]/32] |= 1 << (g.text[g.at] % 32)
	}
	return g.at >= len(g.text), nil
}

func (g *given) Accept(int32) error { g.at++; return nil }

func (g *given) Done() bool { return g.at >= len(g.text) }

func (g *given) Clone() runner.Constraint { c := *g; return &c }
