// Command serving measures what the prefix cache and speculation are worth on a model folder:
//
//	go run ./scripts/serving MODEL_DIR
//
// It prints the time to the first token of a prompt of which nine tenths are known, and the speed of an answer that
// copies. That answer is given: each token is taken from a text instead of from the logits, so that any weights will
// do. What slots are worth, qwenrt bench --concurrency tells.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

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
	flag.Parse()
	if flag.NArg() != 1 {
		return fmt.Errorf("usage: serving [flags] MODEL_DIR")
	}
	r, err := runner.Open(context.Background(), flag.Arg(0), runner.Options{Threads: *threads, Slots: 8, PrefixCache: 1 << 30})
	if err != nil {
		return err
	}
	defer r.Close()
	m := measurement{r: r, prompt: *prompt, answer: *answer}
	for _, part := range []func() error{m.prefix, m.copies} {
		for range *rounds {
			if err := part(); err != nil {
				return err
			}
		}
	}
	return nil
}

type measurement struct {
	r              *runner.Runner
	prompt, answer int
	seed           uint64
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
