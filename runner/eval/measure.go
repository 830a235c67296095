package eval

import (
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/qwenrt/qwenrt/runner"
)

// Measure gives the perplexity of a model on tokens, see Tokenize, and how far the model is from
// o.Reference. With a LogitsFile tokens may be nil: the file has them.
//
// Memory, beside the models: the logits of half a chunk [Context/2, vocabulary] for each model.
//
// Errors: ErrText, ErrReference, ErrNotFinite, ErrMalformed, runner.ErrContext, runner.ErrToken, those
// of package runner, and the context's.
func Measure(ctx context.Context, r *runner.Runner, tokens []int32, o Options) (*Result, error) {
	result, err := measure(ctx, r, tokens, o)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			err = cause
		}
		return nil, fmt.Errorf("eval: %w", err)
	}
	return result, nil
}

func measure(ctx context.Context, r *runner.Runner, tokens []int32, o Options) (*Result, error) {
	if o.Reference != nil {
		var err error
		if tokens, err = o.Reference.text(tokens, &o); err != nil {
			return nil, err
		}
	}
	chunks, err := o.settle(r, tokens)
	if err != nil {
		return nil, err
	}
	m := &meter{options: o, vocab: r.Info().Vocabulary}
	defer m.close()
	if err := m.open(r, tokens[:chunks*o.Context]); err != nil {
		return nil, err
	}
	scores := make([]score, 0, chunks*scoredRows(o.Context))
	for i := range chunks {
		if scores, err = m.chunk(ctx, scores, tokens[i*o.Context:(i+1)*o.Context]); err != nil {
			return nil, fmt.Errorf("chunk %d of %d: %w", i+1, chunks, err)
		}
		if o.Progress != nil {
			o.Progress(i+1, chunks)
		}
	}
	result := summarize(scores, o.Reference != nil)
	result.Tokens, result.Context, result.Chunks = len(tokens), o.Context, chunks
	return result, nil
}

// meter is a measurement under way.
type meter struct {
	options   Options
	vocab     int
	bos       int32
	addBOS    bool
	model     *scorer
	reference source // nil: none
	writer    *logitsWriter
}

func (m *meter) open(r *runner.Runner, tokens []int32) (err error) {
	if m.bos, m.addBOS, err = bosToken(r); err != nil {
		return err
	}
	if m.model, err = newScorer(r); err != nil {
		return err
	}
	if m.options.Reference != nil {
		if m.reference, err = m.options.Reference.open(m.vocab); err != nil {
			return err
		}
	}
	if m.options.Save != nil {
		m.writer, err = newLogitsWriter(m.options.Save, m.options.Context, m.vocab, tokens)
	}
	return err
}

func (m *meter) close() {
	if m.model != nil {
		m.model.close()
	}
	if m.reference != nil {
		m.reference.close()
	}
}

// chunk appends the scores of a chunk.
func (m *meter) chunk(ctx context.Context, scores []score, tokens []int32) ([]score, error) {
	given := tokens
	if m.addBOS {
		given = slices.Clone(tokens)
		given[0] = m.bos
	}
	if m.reference != nil {
		if err := m.reference.chunk(ctx, given); err != nil {
			return nil, fmt.Errorf("reference: %w", err)
		}
	}
	if err := m.model.chunk(ctx, given); err != nil {
		return nil, err
	}
	rows := scoredRows(len(tokens))
	from := len(scores)
	scores = slices.Grow(scores, rows)[:from+rows]
	first := firstScored(len(tokens))
	if m.writer != nil {
		m.writer.begin(rows)
	}
	err := parallel(rows, func(i int) (err error) {
		scores[from+i], err = m.score(i, tokens[first+i+1])
		if err != nil {
			err = fmt.Errorf("position %d: %w", first+i, err)
		}
		return err
	})
	if err == nil && m.writer != nil {
		err = m.writer.flush()
	}
	return scores, err
}

// score compares the distributions of row i on the token that the text has there.
func (m *meter) score(i int, token int32) (score, error) {
	model, err := m.model.row(i)
	if err != nil {
		return score{}, err
	}
	if m.writer != nil {
		m.writer.row(i, &model)
	}
	s := score{nll: model.nll(token)}
	if m.reference != nil {
		ref, err := m.reference.row(i)
		if err != nil {
			return score{}, fmt.Errorf("reference: %w", err)
		}
		s.referenceNLL = ref.nll(token)
		s.kld = divergence(&ref, &model)
		s.deltaP = math.Exp(-s.nll) - math.Exp(-s.referenceNLL)
		s.sameTop = ref.top == model.top
	}
	// A token that a model rules out, with a logit of minus infinity, has no likelihood to speak of.
	if sum := s.nll + s.referenceNLL + s.kld; math.IsInf(sum, 0) || math.IsNaN(sum) {
		return score{}, fmt.Errorf("%w: token %d cannot be scored", ErrNotFinite, token)
	}
	return s, nil
}

// parallel calls f for 0 to n-1, on all CPUs. The error is that of the lowest number.
func parallel(n int, f func(i int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, n)
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				errs[i] = f(i)
			}
		})
	}
	wg.Wait()
	at := slices.IndexFunc(errs, func(err error) bool { return err != nil })
	if at < 0 {
		return nil
	}
	return errs[at]
}
