package eval

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/reftest/modelfolder"
	"github.com/qwenrt/qwenrt/runner"
)

const (
	carried  = "../../models/tiny/qwen3-tiny"
	small    = "../../models/testdata/checkpoints/untied-f32" // random weights, 256 tokens, no tokenizer
	evalText = "../../models/testdata/reference/eval.txt"
	vocab    = 256
)

// opened runs a model folder. Idle threads sleep, so that tests that run beside others do not wait for
// them.
func opened(t *testing.T, dir string) *runner.Runner {
	t.Helper()
	r, err := runner.Open(t.Context(), dir, quiet)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

var quiet = runner.Options{ConfigEntries: map[string]string{"session.intra_op.allow_spinning": "0"}}

func exported(t *testing.T, checkpoint string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	require.NoError(t, modelfolder.Export(t.Context(), checkpoint, dir))
	return dir
}

// noisy gives a copy of a model with the weights of its products changed by a share.
func noisy(t *testing.T, dir string, share float32) string {
	t.Helper()
	m, err := ir.Load(filepath.Join(dir, "model.onnx"))
	require.NoError(t, err)
	defer m.Close()
	random := rand.New(rand.NewPCG(1, 2))
	for _, v := range m.Graph.Initializers() {
		if v.Const.DType != ir.Float32 || v.Const.Rank() != 2 {
			continue
		}
		w, err := v.Const.Float32s()
		require.NoError(t, err)
		for i := range w {
			w[i] *= 1 + share*(2*random.Float32()-1)
		}
		v.Const = ir.Float32Tensor(w, v.Const.Shape...)
	}
	out := filepath.Join(t.TempDir(), "noisy")
	require.NoError(t, os.CopyFS(out, os.DirFS(dir)))
	require.NoError(t, ir.Save(t.Context(), m, filepath.Join(out, "model.onnx"), ir.SaveOptions{}))
	return out
}

func randomTokens(n int) []int32 {
	random := rand.New(rand.NewPCG(3, 4))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(random.IntN(vocab))
	}
	return tokens
}

// TestPerplexity holds the figure of the carried model that transformers gives: 15.8340 over all 45
// chunks, which qwenrt eval reproduces to 1e-6. The first ten of them, which are enough for a test, are
// 17.7858 ± 1.0 there.
func TestPerplexity(t *testing.T) {
	r := opened(t, exported(t, carried))
	text, err := os.ReadFile(evalText)
	require.NoError(t, err)
	tokens, err := Tokenize(r, string(text))
	require.NoError(t, err)
	require.Len(t, tokens, 23191)
	var told []int
	result, err := Measure(t.Context(), r, tokens, Options{Chunks: 10, Progress: func(done, total int) {
		require.Equal(t, 10, total)
		told = append(told, done)
	}})
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, told)
	require.Equal(t, Result{
		Tokens: 23191, Context: 512, Chunks: 10, Scored: 10 * 255,
		NLL: result.NLL, Perplexity: result.Perplexity, Error: result.Error,
	}, *result)
	require.InDelta(t, 17.7858, result.Perplexity, 1e-3)
	require.InDelta(t, 1.0033, result.Error, 1e-3)
}

// plain computes what Measure does by the definitions, one token at a time.
func plain(t *testing.T, r, ref *runner.Runner, tokens []int32, context int) *Result {
	t.Helper()
	var scores []score
	for at := 0; at+context <= len(tokens); at += context {
		chunk := tokens[at : at+context]
		p, q := logProbs(t, ref, chunk), logProbs(t, r, chunk)
		for i := context / 2; i < context-1; i++ {
			next := chunk[i+1]
			s := score{nll: -q[i][next], referenceNLL: -p[i][next], deltaP: math.Exp(q[i][next]) - math.Exp(p[i][next])}
			var topP, topQ int
			for j := range p[i] {
				s.kld += math.Exp(p[i][j]) * (p[i][j] - q[i][j])
				if p[i][j] > p[i][topP] {
					topP = j
				}
				if q[i][j] > q[i][topQ] {
					topQ = j
				}
			}
			s.sameTop = topP == topQ
			scores = append(scores, s)
		}
	}
	return summarize(scores, true)
}

func logProbs(t *testing.T, r *runner.Runner, tokens []int32) [][]float64 {
	t.Helper()
	seq, err := r.NewSequence()
	require.NoError(t, err)
	defer seq.Close()
	var rows [][]float64
	require.NoError(t, seq.Score(t.Context(), tokens, func(_ int, logits []float32) error {
		row, sum := make([]float64, len(logits)), 0.0
		for j, v := range logits {
			sum += math.Exp(float64(v))
			row[j] = float64(v)
		}
		for j := range row {
			row[j] -= math.Log(sum)
		}
		rows = append(rows, row)
		return nil
	}))
	return rows
}

func requireNear(t *testing.T, want, got *Result, tolerance float64) {
	t.Helper()
	near := func(want, got float64, name string) { require.InDelta(t, want, got, tolerance, name) }
	near(want.NLL, got.NLL, "nll")
	near(want.Perplexity/want.Perplexity, got.Perplexity/want.Perplexity, "perplexity")
	w, g := want.Divergence, got.Divergence
	near(1, g.ReferencePerplexity/w.ReferencePerplexity, "reference")
	near(w.Ratio, g.Ratio, "ratio")
	near(w.RatioError, g.RatioError, "ratio error")
	near(w.KLD.Mean, g.KLD.Mean, "kld")
	near(w.KLD.Error, g.KLD.Error, "kld error")
	near(w.KLD.Median, g.KLD.Median, "median")
	near(w.KLD.P99, g.KLD.P99, "p99")
	near(w.KLD.Max, g.KLD.Max, "max")
	near(w.DeltaP.Mean, g.DeltaP.Mean, "Δp")
	near(w.DeltaP.RMS, g.DeltaP.RMS, "Δp RMS")
	require.Equal(t, w.Top1, g.Top1)
	require.Equal(t, want.Scored, got.Scored)
}

// TestReference holds that a reference that runs and one that was saved give what the definitions say.
func TestReference(t *testing.T) {
	dir := exported(t, small)
	ref, r := opened(t, dir), opened(t, noisy(t, dir, 0.2))
	tokens := randomTokens(3*32 + 5)
	want := plain(t, r, ref, tokens, 32)
	require.Greater(t, want.Divergence.KLD.Mean, 1e-3, "the models differ")

	got, err := Measure(t.Context(), r, tokens, Options{Context: 32, Reference: ModelReference(ref)})
	require.NoError(t, err)
	requireNear(t, want, got, 1e-5)

	var saved bytes.Buffer
	alone, err := Measure(t.Context(), ref, tokens, Options{Context: 32, Save: &saved})
	require.NoError(t, err)
	require.Nil(t, alone.Divergence)
	require.InDelta(t, want.Divergence.ReferencePerplexity, alone.Perplexity, 1e-3)
	path := filepath.Join(t.TempDir(), "logits")
	require.NoError(t, os.WriteFile(path, saved.Bytes(), 0o666))
	file, err := OpenLogits(path)
	require.NoError(t, err)
	defer file.Close()
	require.Equal(t, tokens[:96], file.Tokens())
	require.Equal(t, 32, file.Context())
	for _, o := range []struct {
		why    string
		tokens []int32
	}{{"the file's own text", nil}, {"the text that it was made with", tokens}, {"and more", randomTokens(3*32 + 70)}} {
		got, err := Measure(t.Context(), r, o.tokens, Options{Reference: file})
		require.NoError(t, err, o.why)
		requireNear(t, want, got, 2e-4)
		require.InDelta(t, want.Divergence.KLD.Mean, got.Divergence.KLD.Mean, 2e-5, "rounding has no bias")
	}
	got, err = Measure(t.Context(), ref, nil, Options{Reference: file})
	require.NoError(t, err)
	require.InDelta(t, 0, got.Divergence.KLD.Mean, 1e-5)
	require.Equal(t, 1.0, got.Divergence.Top1)

	fewer, err := Measure(t.Context(), r, tokens[:70], Options{Reference: file})
	require.NoError(t, err)
	require.Equal(t, 2, fewer.Chunks)
	other := append([]int32(nil), tokens...)
	other[3]++
	_, err = Measure(t.Context(), r, other, Options{Reference: file})
	require.ErrorIs(t, err, ErrText)
	_, err = Measure(t.Context(), r, nil, Options{Reference: file, Context: 16})
	require.ErrorIs(t, err, ErrReference)
}

func TestMeasureErrors(t *testing.T) {
	r := opened(t, exported(t, small))
	tiny := opened(t, exported(t, carried))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		why    string
		ctx    context.Context
		tokens []int32
		o      Options
		want   error
	}{
		{"text shorter than a chunk", t.Context(), randomTokens(100), Options{}, ErrText},
		{"chunks beyond the model", t.Context(), randomTokens(100), Options{Context: 1 << 20}, runner.ErrContext},
		{"nothing to score", t.Context(), randomTokens(100), Options{Context: 2}, nil},
		{"negative chunks", t.Context(), randomTokens(100), Options{Context: 16, Chunks: -1}, nil},
		{"a token that the model does not have", t.Context(), make([]int32, 16), Options{Context: 16, Chunks: 1}, runner.ErrToken},
		{"a reference with another vocabulary", t.Context(), randomTokens(100), Options{Context: 16, Reference: ModelReference(tiny)}, ErrReference},
		{"cancelled", cancelled, randomTokens(100), Options{Context: 16}, context.Canceled},
		{"a full disk", t.Context(), randomTokens(100), Options{Context: 16, Save: full{}}, io.ErrShortWrite},
	} {
		if errors.Is(c.want, runner.ErrToken) {
			c.tokens[5] = vocab
		}
		_, err := Measure(c.ctx, r, c.tokens, c.o)
		require.Error(t, err, c.why)
		require.ErrorContains(t, err, "eval: ", c.why)
		if c.want != nil {
			require.ErrorIs(t, err, c.want, c.why)
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// TestBOS holds that a BOS token comes first in the text, and takes the place of each chunk's first.
func TestBOS(t *testing.T) {
	dir := exported(t, carried)
	r := opened(t, dir)
	const text = "In the beginning God created the heaven and the earth. And the earth was without form, and void."
	without, err := Tokenize(r, text)
	require.NoError(t, err)
	configure := func(config string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(config), 0o666))
	}
	const bos = 8166 // <|endoftext|>
	for _, token := range []string{`"<|endoftext|>"`, `{"content": "<|endoftext|>", "lstrip": false}`} {
		configure(`{"add_bos_token": true, "bos_token": ` + token + `}`)
		with, err := Tokenize(r, text)
		require.NoError(t, err)
		require.Equal(t, append([]int32{bos}, without...), with)
	}
	tokens := without[:16]
	got, err := Measure(t.Context(), r, tokens, Options{Context: 8})
	require.NoError(t, err)
	configure(`{"add_bos_token": false, "bos_token": null}`)
	replaced := append([]int32(nil), tokens...)
	replaced[0], replaced[8] = bos, bos
	want, err := Measure(t.Context(), r, replaced, Options{Context: 8})
	require.NoError(t, err)
	require.Equal(t, want, got)

	configure(`{"add_bos_token": true, "bos_token": "<none>"}`)
	_, err = Tokenize(r, text)
	require.ErrorContains(t, err, `no token "<none>"`)
	configure(`{"add_bos_token": `)
	_, err = Tokenize(r, text)
	require.ErrorContains(t, err, "tokenizer_config.json")
	require.NoError(t, os.Remove(filepath.Join(dir, "tokenizer_config.json")))
	got1, err := Tokenize(r, text)
	require.NoError(t, err)
	require.Equal(t, without, got1)
}
