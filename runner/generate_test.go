package runner_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest/modelfolder"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
	"github.com/qwenrt/qwenrt/runner/tokenizer"
)

const (
	carried    = "../models/tiny/qwen3-tiny"
	references = "../models/testdata/reference/"
)

// folder is a model folder of the trained model, made once for all tests.
var folder string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "runner")
	if err == nil {
		defer os.RemoveAll(dir)
		folder = filepath.Join(dir, "qwen3-tiny")
		err = modelfolder.Export(context.Background(), carried, folder)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// tokenised are files that let a toy of 8,192 tokens speak.
func tokenised(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, name := range []string{"tokenizer.json", "tokenizer_config.json"} {
		text, err := os.ReadFile(filepath.Join(carried, name))
		require.NoError(t, err)
		all[name] = string(text)
	}
	for name, text := range files {
		all[name] = text
	}
	return all
}

var greedy = &sample.Params{}

// collect gives what a generation shows.
func collect(t *testing.T, r *runner.Runner, q runner.Request) (text string, tokens []int32, res runner.Result) {
	t.Helper()
	ended := false
	for ev, err := range r.Generate(t.Context(), q) {
		require.NoError(t, err)
		require.False(t, ended, "an event behind the result")
		require.True(t, utf8.ValidString(ev.Text), "%q", ev.Text)
		text += ev.Text
		if ev.Result != nil {
			ended, res = true, *ev.Result
			require.EqualValues(t, -1, ev.Token)
		} else {
			tokens = append(tokens, ev.Token)
		}
	}
	require.True(t, ended)
	require.Equal(t, len(tokens), res.GeneratedTokens)
	require.GreaterOrEqual(t, res.Total, res.TTFT)
	return text, tokens, res
}

// TestReferenceText compares text that goes in and text that comes out with the reference's.
func TestReferenceText(t *testing.T) {
	data, err := os.ReadFile(references + "prompts.json")
	require.NoError(t, err)
	var prompts []struct {
		Prompt string `json:"prompt"`
		Tokens int    `json:"tokens"`
		Text   string `json:"greedy_text"`
	}
	require.NoError(t, json.Unmarshal(data, &prompts))
	require.Len(t, prompts, 4)
	r := open(t, folder, runner.Options{})
	for _, p := range prompts {
		text, _, res := collect(t, r, runner.Request{Prompt: p.Prompt, MaxTokens: 24, Sampling: greedy, IgnoreEOS: true, ShowSpecial: true})
		require.NotEmpty(t, text)
		require.Equal(t, p.Text[:len(text)], text)
		require.Equal(t, p.Tokens, res.PromptTokens)
		require.Equal(t, 24, res.GeneratedTokens)
		require.Equal(t, runner.Length, res.Reason)
	}
	messages := []chat.Message{{Role: "user", Content: `What does "harbor" mean?`}}
	text, _, res := collect(t, r, runner.Request{Messages: messages, Think: new(false), MaxTokens: 24, Sampling: greedy})
	require.Equal(t, prompts[2].Text[:len(text)], text, "the third prompt is this conversation")
	require.Equal(t, 20, res.PromptTokens)
	require.Positive(t, res.TTFT)
	require.Positive(t, res.PromptPerSecond)
	require.Positive(t, res.TokensPerSecond)

	whole, _, err := r.Text(t.Context(), runner.Request{Messages: messages, Think: new(false), MaxTokens: 24, Sampling: greedy})
	require.NoError(t, err)
	require.Equal(t, text, whole)
}

// talker is a model whose tokens have text, but no sense.
func talker(t *testing.T) toy {
	t.Helper()
	return toy{layers: 2, heads: 2, headDim: 16, vocab: 8192, files: tokenised(t, nil)}
}

// TestTextIsWhole holds that text comes in whole characters and adds up, for tokens that are parts of
// characters and for special ones.
func TestTextIsWhole(t *testing.T) {
	r := talker(t).open(t, runner.Options{})
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	for seed := range uint64(20) {
		q := runner.Request{Prompt: "🙂", MaxTokens: 40, IgnoreEOS: true, Sampling: &sample.Params{Temperature: 100, Seed: seed}}
		for _, q.ShowSpecial = range []bool{false, true} {
			text, tokens, _ := collect(t, r, q)
			want, err := tok.Decode(tokens, tokenizer.DecodeOptions{ShowSpecial: q.ShowSpecial})
			require.NoError(t, err)
			require.Equal(t, want, text)
		}
	}
}

func TestSeed(t *testing.T) {
	m := talker(t)
	m.files["generation_config.json"] = `{"do_sample": true, "temperature": 5}`
	r := m.open(t, runner.Options{})
	answer := func(p *sample.Params) []int32 {
		_, tokens, _ := collect(t, r, runner.Request{Prompt: "One", MaxTokens: 10, IgnoreEOS: true, Sampling: p})
		return tokens
	}
	seeded := func(seed uint64) *sample.Params {
		p := r.Info().Sampling
		p.Seed = seed
		return &p
	}
	require.Equal(t, answer(seeded(7)), answer(seeded(7)))
	require.NotEqual(t, answer(seeded(7)), answer(seeded(8)))
	require.Equal(t, answer(seeded(0)), answer(nil), "what the model recommends, with seed 0")
	require.NotEqual(t, answer(greedy), answer(nil))
}

func TestStop(t *testing.T) {
	m := toy{layers: 2, vocab: 500}
	r := m.open(t, runner.Options{})
	q := runner.Request{Tokens: m.prompt(5), MaxTokens: 30, Sampling: &sample.Params{Temperature: 5}}
	text, tokens, res := collect(t, r, q)
	require.Empty(t, text, "there is no tokenizer")
	require.Equal(t, runner.Result{Reason: runner.Length, PromptTokens: 5, GeneratedTokens: 30}, counts(res))
	const place = 12
	want, end := tokens[:place], tokens[place]
	require.NotContains(t, want, end)

	q.StopTokens = []int32{499, end}
	_, got, res := collect(t, r, q)
	require.Equal(t, want, got, "the end token is no part of the answer")
	require.Equal(t, runner.Stop, res.Reason)

	m.files = map[string]string{"generation_config.json": fmt.Sprintf(`{"eos_token_id": [%d]}`, end)}
	r = m.open(t, runner.Options{})
	q.StopTokens = nil
	_, got, res = collect(t, r, q)
	require.Equal(t, want, got, "the model's own end token")
	require.Equal(t, runner.Stop, res.Reason)

	q.IgnoreEOS = true
	_, got, res = collect(t, r, q)
	require.Equal(t, tokens, got)
	require.Equal(t, runner.Length, res.Reason)

	q.StopTokens = []int32{end}
	_, got, res = collect(t, r, q)
	require.Equal(t, want, got, "the caller's end tokens count nevertheless")
	require.Equal(t, runner.Stop, res.Reason)

	q.StopTokens = []int32{tokens[0]}
	_, got, res = collect(t, r, q)
	require.Empty(t, got)
	require.Equal(t, runner.Result{Reason: runner.Stop, PromptTokens: 5}, counts(res))
	require.Zero(t, res.TokensPerSecond)
	require.Positive(t, res.TTFT)
}

// counts is a result without what a clock says.
func counts(r runner.Result) runner.Result {
	return runner.Result{Reason: r.Reason, PromptTokens: r.PromptTokens, GeneratedTokens: r.GeneratedTokens}
}

func TestContextEndsTheAnswer(t *testing.T) {
	m := toy{vocab: 500}
	r := m.open(t, runner.Options{MaxContext: 20})
	for _, limit := range []int{0, 100} {
		_, _, res := collect(t, r, runner.Request{Tokens: m.prompt(12), MaxTokens: limit})
		require.Equal(t, runner.Result{Reason: runner.Length, PromptTokens: 12, GeneratedTokens: 8}, counts(res))
	}
	_, _, res := collect(t, r, runner.Request{Tokens: m.prompt(19)})
	require.Equal(t, 1, res.GeneratedTokens)
}

// Rows of a table that only pad it are never chosen, however the model likes them.
func TestPaddedVocabulary(t *testing.T) {
	m := toy{vocab: 8192 + 64, loud: 8200, files: tokenised(t, nil)}
	r := m.open(t, runner.Options{})
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	require.LessOrEqual(t, tok.VocabSize(), 8192)
	loudest := func(dir string) bool {
		_, tokens, _ := collect(t, open(t, dir, runner.Options{}), runner.Request{Tokens: []int32{1, 8250, 3}, MaxTokens: 20, IgnoreEOS: true})
		return slices.Contains(tokens, 8200)
	}
	require.False(t, loudest(r.Info().Dir))
	m.files = nil
	require.True(t, loudest(m.folder(t)), "without a tokenizer nothing tells padding from tokens")
}

func TestRequestErrors(t *testing.T) {
	m := toy{vocab: 8192, files: tokenised(t, nil)}
	r := m.open(t, runner.Options{MaxContext: 50})
	mute := toy{}.open(t, runner.Options{})
	base := toy{vocab: 8192, files: tokenised(t, map[string]string{"tokenizer_config.json": `{}`})}.open(t, runner.Options{})
	broken := toy{vocab: 8192, files: tokenised(t, map[string]string{"tokenizer.json": `{`})}.open(t, runner.Options{})
	user := []chat.Message{{Role: "user", Content: "Hello"}}
	for _, c := range []struct {
		why  string
		r    *runner.Runner
		q    runner.Request
		kind error // nil: none of its own
		says string
	}{
		{"nothing to go on from", r, runner.Request{}, runner.ErrRequest, "exactly one of"},
		{"two prompts", r, runner.Request{Prompt: "a", Tokens: []int32{1}}, runner.ErrRequest, "exactly one of"},
		{"all faults at once", r, runner.Request{MaxTokens: -1, Sampling: &sample.Params{Temperature: -1, TopP: 2}}, runner.ErrRequest,
			"exactly one of Messages, Prompt and Tokens, not empty; MaxTokens is -1: want 0 for the rest of the context, or a positive number; sample: bad parameters: temperature is -1"},
		{"a prompt that fills the context", r, runner.Request{Tokens: m.prompt(50)}, runner.ErrContext, "the prompt has 50 tokens, the context 50"},
		{"a text that does", r, runner.Request{Prompt: strings.Repeat("hello ", 200)}, runner.ErrContext, "the context 50"},
		{"a token that there is not", r, runner.Request{Tokens: []int32{8192}}, runner.ErrToken, "8192 is not one of 0 to 8191"},
		{"a NUL byte", r, runner.Request{Prompt: "a\x00"}, nil, "NUL byte"},
		{"no tokenizer", mute, runner.Request{Prompt: "a"}, fs.ErrNotExist, "tokenizer.json"},
		{"no tokenizer for a chat", mute, runner.Request{Messages: user}, fs.ErrNotExist, "tokenizer.json"},
		{"a tokenizer that is none", broken, runner.Request{Prompt: "a"}, nil, "tokenizer.json"},
		{"no chat template", base, runner.Request{Messages: user}, chat.ErrNoTemplate, base.Info().Dir},
	} {
		t.Run(c.why, func(t *testing.T) {
			text, res, err := c.r.Text(t.Context(), c.q)
			kind := c.kind
			if kind == nil {
				kind = err
			}
			require.Error(t, err)
			requireError(t, err, kind, c.says)
			require.Empty(t, text)
			require.Equal(t, runner.Failed, res.Reason)
			require.Zero(t, res.GeneratedTokens)
		})
	}
	_, err := mute.Tokenizer()
	requireError(t, err, fs.ErrNotExist, "tokenizer.json")
	text, _, err := base.Text(t.Context(), runner.Request{Prompt: "a", MaxTokens: 3, IgnoreEOS: true})
	require.NoError(t, err, "text goes on without a template")
	require.NotEmpty(t, text)
}

// TestCancelGenerate ends the context from within the loop: no token more, and what there is stays.
func TestCancelGenerate(t *testing.T) {
	m := talker(t)
	r := m.open(t, runner.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tokens := 0
	var last error
	for ev, err := range r.Generate(ctx, runner.Request{Prompt: "One", IgnoreEOS: true}) {
		if last = err; ev.Result != nil {
			require.Equal(t, runner.Result{Reason: runner.Cancelled, PromptTokens: 1, GeneratedTokens: 3}, counts(*ev.Result))
			continue
		}
		require.NoError(t, err)
		if tokens++; tokens == 3 {
			cancel()
		}
	}
	require.Equal(t, 3, tokens)
	requireError(t, last, context.Canceled, "")

	_, res, err := r.Text(ctx, runner.Request{Prompt: "One"})
	requireError(t, err, context.Canceled, "")
	require.Equal(t, runner.Cancelled, res.Reason)
}

// TestTogether holds that generations do not disturb each other.
func TestTogether(t *testing.T) {
	r := talker(t).open(t, runner.Options{PrefillChunk: 8})
	request := func(i int) runner.Request {
		return runner.Request{Prompt: strings.Repeat("word ", 3+7*i), MaxTokens: 30, IgnoreEOS: true,
			Sampling: &sample.Params{Temperature: float64(i % 2), TopK: 5, Seed: uint64(i)}}
	}
	const n = 6
	var alone, together [n]string
	for i := range n {
		alone[i], _, _ = collect(t, r, request(i))
	}
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			text, _, err := r.Text(t.Context(), request(i))
			if err == nil {
				together[i] = text
			}
		})
	}
	group.Wait()
	require.Equal(t, alone, together)
}

// TestCloseWaits holds that a generation under way is served to its end, and that none begins after.
func TestCloseWaits(t *testing.T) {
	m := toy{vocab: 500}
	r, err := runner.Open(t.Context(), m.folder(t), runner.Options{})
	require.NoError(t, err)
	begun, closing := make(chan struct{}), make(chan struct{})
	var ended atomic.Bool
	var group sync.WaitGroup
	group.Go(func() {
		first := true
		for ev, err := range r.Generate(t.Context(), runner.Request{Tokens: m.prompt(3), MaxTokens: 50}) {
			if err != nil {
				return
			}
			if first {
				close(begun)
				<-closing
				first = false
			}
			if ev.Result != nil {
				ended.Store(ev.Result.GeneratedTokens == 50)
			}
		}
	})
	<-begun
	group.Go(func() {
		for second2(r.Text(t.Context(), runner.Request{Tokens: m.prompt(1), MaxTokens: 1})) == nil { // until Close has begun
		}
		close(closing)
	})
	require.NoError(t, r.Close())
	require.True(t, ended.Load())
	group.Wait()
}

// Leaving the loop ends the generation: Close would wait for it.
func TestLeave(t *testing.T) {
	m := toy{vocab: 500}
	r, err := runner.Open(t.Context(), m.folder(t), runner.Options{})
	require.NoError(t, err)
	for range 3 {
		for range r.Generate(t.Context(), runner.Request{Tokens: m.prompt(300)}) {
			break
		}
	}
	require.Panics(t, func() {
		for range r.Generate(t.Context(), runner.Request{Tokens: m.prompt(3)}) {
			panic("the caller's own")
		}
	})
	require.NoError(t, r.Close())
}

// TestGenerateAllocates nothing for each token on Go's heap.
func TestGenerateAllocates(t *testing.T) {
	r := talker(t).open(t, runner.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	allocs := func(n int) float64 {
		return testing.AllocsPerRun(5, func() {
			for _, err := range r.Generate(ctx, runner.Request{Tokens: []int32{1, 2, 3}, MaxTokens: n, IgnoreEOS: true}) {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	// Texts that join parts of characters allocate, and so do the runtime's own goroutines now and then.
	require.Less(t, (allocs(210)-allocs(10))/200, 0.25)
}

// script is a constraint that allows one answer.
type script struct {
	tokens []int32
	open   bool // the model may say when it ends
}

func (s *script) Mask(mask []uint32) (bool, error) {
	clear(mask)
	if len(s.tokens) > 0 {
		mask[s.tokens[0]/32] |= 1 << (s.tokens[0] % 32)
	}
	return len(s.tokens) == 0, nil
}

func (s *script) Accept(token int32) error {
	if len(s.tokens) == 0 || token != s.tokens[0] {
		return fmt.Errorf("token %d was not allowed", token)
	}
	s.tokens = s.tokens[1:]
	return nil
}

func (s *script) Done() bool { return !s.open && len(s.tokens) == 0 }

func (s *script) Clone() runner.Constraint { return new(*s) }

func TestConstraint(t *testing.T) {
	m := toy{vocab: 500, files: map[string]string{"generation_config.json": `{"eos_token_id": 499}`}}
	r := m.open(t, runner.Options{})
	want := []int32{3, 1, 4, 1, 499 - 31, 5}
	for _, open := range []bool{false, true} {
		c := &script{tokens: want, open: open}
		q := runner.Request{Tokens: m.prompt(5), MaxTokens: 30, Constraint: c, Sampling: &sample.Params{Temperature: 2}}
		for range 2 { // the request's own is not used up
			_, tokens, res := collect(t, r, q)
			require.Equal(t, want, tokens)
			require.Equal(t, runner.Stop, res.Reason)
		}
	}
	_, _, err := r.Text(t.Context(), runner.Request{Tokens: m.prompt(5), Constraint: &script{open: true}, IgnoreEOS: true})
	requireError(t, err, runner.ErrRequest, "allows no token")
}
