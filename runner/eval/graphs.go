package eval

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/runner"
)

// The largest difference of logits that Graphs lets pass where GraphOptions do not say, as a share of
// the largest logit. Graphs of one function that compute in another order were measured at 3e-6 in
// float32 and at 3e-3 in float16; bfloat16 has three bits less than float16.
const (
	DefaultBound         = 2e-4
	DefaultFloat16Bound  = 1e-2
	DefaultBFloat16Bound = 8e-2
)

// defaultBound goes by the KV cache, which has the type of the activations unless it is quantised.
func defaultBound(kvType string) float64 {
	switch kvType {
	case "float16":
		return DefaultFloat16Bound
	case "bfloat16":
		return DefaultBFloat16Bound
	}
	return DefaultBound
}

// DefaultGraphTokens is how much of a text Graphs runs where GraphOptions do not say.
const DefaultGraphTokens = 256

// ErrGraphsDiffer is reported by GraphReport.Err.
var ErrGraphsDiffer = errors.New("the graphs do not compute the same function")

// GraphOptions say how two graphs are compared. The zero value runs a built-in text.
type GraphOptions struct {
	// Text to run. Default: a few hundred words of English, Chinese and SQL.
	Text string
	// Tokens, if set, are run in place of Text; needed where the model has no tokenizer.
	Tokens []int32
	// MaxTokens bounds what is run of either. Default: DefaultGraphTokens.
	MaxTokens int
	// Bound is the largest difference that passes, see GraphReport.MaxRelative. Default: DefaultBound,
	// or that of the coarser type where one of the models has a KV cache in float16 or bfloat16. Where
	// activations are quantised a wider one may be needed.
	Bound float64
	// Runner opens both models.
	Runner runner.Options
}

// GraphReport says how far two graphs are apart.
type GraphReport struct {
	Positions int `json:"positions"`
	// MaxAbsolute is the largest difference of two logits; MaxRelative the largest difference at a
	// position over that position's largest logit, both in magnitude and by the graph before.
	MaxAbsolute float64 `json:"max_absolute"`
	MaxRelative float64 `json:"max_relative"`
	Worst       int     `json:"worst_position"` // of MaxRelative, from 0
	MeanKLD     float64 `json:"mean_kld"`       // KL(before || after), nats
	MaxKLD      float64 `json:"max_kld"`
	Top1        float64 `json:"top1"` // share of positions with the same most likely token
	Bound       float64 `json:"bound"`
	Passed      bool    `json:"passed"` // MaxRelative is within Bound
}

// Err is nil where the graphs agree, ErrGraphsDiffer with the figures where they do not.
func (r *GraphReport) Err() error {
	if r.Passed {
		return nil
	}
	return fmt.Errorf("eval: %w: logits differ by %.2g of the largest at position %d, the bound is %.2g (mean KL divergence %.2g, top-1 agreement %.1f %%)",
		ErrGraphsDiffer, r.MaxRelative, r.Worst, r.Bound, r.MeanKLD, 100*r.Top1)
}

// Graphs runs two models, folders or .onnx files, on one text through ONNX Runtime, and compares the
// logits of every position. The first part of the text is prefilled at once, then follow pieces, then
// single tokens: what a KV cache does shows. The models are open one after the other; the logits of
// the first are kept in memory [positions, vocabulary].
//
// A report is given whatever it says: see GraphReport.Err. Errors: ErrText, ErrNotFinite, and those of
// package runner.
func Graphs(ctx context.Context, before, after string, o GraphOptions) (*GraphReport, error) {
	r, err := graphs(ctx, before, after, o)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("eval: %w", err)
	}
	return r, nil
}

func graphs(ctx context.Context, before, after string, o GraphOptions) (*GraphReport, error) {
	if o.Bound < 0 || math.IsNaN(o.Bound) || o.MaxTokens < 0 {
		return nil, fmt.Errorf("a bound of %v on %d tokens: want 0 for the default, or a positive number", o.Bound, o.MaxTokens)
	}
	tokens, logits, kvType, err := firstGraph(ctx, before, o)
	if err != nil {
		return nil, err
	}
	r, err := runner.Open(ctx, after, o.Runner)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if o.Bound == 0 {
		o.Bound = max(defaultBound(kvType), defaultBound(r.Info().KVType))
	}
	vocab := r.Info().Vocabulary
	if len(logits) != len(tokens)*vocab {
		return nil, fmt.Errorf("%w: the graphs have vocabularies of %d and %d tokens", ErrReference, len(logits)/len(tokens), vocab)
	}
	report := &GraphReport{Positions: len(tokens), Bound: o.Bound}
	same := 0
	err = stepwise(ctx, r, tokens, func(i int, after []float32) error {
		before := logits[i*vocab : (i+1)*vocab]
		p, q := fromLogits(before), fromLogits(after)
		if !p.finite() || !q.finite() {
			return fmt.Errorf("position %d: %w", i, ErrNotFinite)
		}
		report.add(i, &p, &q)
		if p.top == q.top {
			same++
		}
		return nil
	})
	if err == nil && !(report.MaxAbsolute <= math.MaxFloat32) { // one rules out a token, the other does not
		err = ErrNotFinite
	}
	if err != nil {
		return nil, err
	}
	report.MeanKLD /= float64(len(tokens))
	report.Top1 = float64(same) / float64(len(tokens))
	report.Passed = report.MaxRelative <= report.Bound
	return report, nil
}

// add takes in position i. Divergences are summed, to be divided at the end.
func (r *GraphReport) add(i int, before, after *distribution) {
	var diff, largest float64
	for j, v := range before.values {
		diff = max(diff, math.Abs(float64(v)-float64(after.values[j])))
		largest = max(largest, math.Abs(float64(v)))
	}
	r.MaxAbsolute = max(r.MaxAbsolute, diff)
	if relative := diff / max(largest, math.SmallestNonzeroFloat32); relative > r.MaxRelative {
		r.MaxRelative, r.Worst = relative, i
	}
	kld := max(divergence(before, after), 0) // below the last bits it may be negative
	r.MeanKLD += kld
	r.MaxKLD = max(r.MaxKLD, kld)
}

// firstGraph chooses the tokens, and runs the model before.
func firstGraph(ctx context.Context, path string, o GraphOptions) (tokens []int32, logits []float32, kvType string, err error) {
	r, err := runner.Open(ctx, path, o.Runner)
	if err != nil {
		return nil, nil, "", err
	}
	defer r.Close()
	if tokens, err = graphTokens(r, o); err != nil {
		return nil, nil, "", err
	}
	logits = make([]float32, 0, len(tokens)*r.Info().Vocabulary)
	err = stepwise(ctx, r, tokens, func(_ int, row []float32) error {
		logits = append(logits, row...)
		return nil
	})
	return tokens, logits, r.Info().KVType, err
}

func graphTokens(r *runner.Runner, o GraphOptions) ([]int32, error) {
	tokens := o.Tokens
	if tokens == nil {
		text := o.Text
		if text == "" {
			text = graphText
		}
		tok, err := r.Tokenizer()
		if err != nil {
			return nil, err
		}
		if tokens, err = tok.Encode(text); err != nil {
			return nil, err
		}
	}
	limit := o.MaxTokens
	if limit == 0 {
		limit = DefaultGraphTokens
	}
	tokens = tokens[:min(len(tokens), limit, r.Info().ContextLength)]
	if len(tokens) < minContext {
		return nil, fmt.Errorf("%w: %d tokens, want %d or more", ErrText, len(tokens), minContext)
	}
	return tokens, nil
}

// stepwise runs tokens as a conversation does: three quarters at once, then pieces of seven, and the
// last sixteenth one by one.
func stepwise(ctx context.Context, r *runner.Runner, tokens []int32, row func(i int, logits []float32) error) error {
	const piece = 7
	seq, err := r.NewSequence()
	if err != nil {
		return err
	}
	defer seq.Close()
	n := len(tokens)
	for at := 0; at < n; {
		size := 1
		switch {
		case at == 0:
			size = n * 3 / 4
		case at < n-n/16:
			size = min(piece, n-at)
		}
		err := seq.Score(ctx, tokens[at:at+size], func(i int, logits []float32) error { return row(at+i, logits) })
		if err != nil {
			return err
		}
		at += size
	}
	return nil
}
