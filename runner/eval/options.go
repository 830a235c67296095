package eval

import (
	"errors"
	"fmt"
	"io"

	"github.com/qwenrt/qwenrt/runner"
)

// DefaultContext is the length of a chunk where Options do not say, as in llama-perplexity.
const DefaultContext = 512

// minContext leaves something to score in the second half.
const minContext = 4

var (
	// ErrText: the text is too short, or not the one that a reference was made with.
	ErrText = errors.New("unsuitable text")
	// ErrReference: the reference does not belong to a model with this vocabulary.
	ErrReference = errors.New("unsuitable reference")
	// ErrNotFinite: a model computes logits that are NaN or infinite.
	ErrNotFinite = errors.New("logits are not finite")
	// ErrMalformed: a file of logits is not what it says it is.
	ErrMalformed = errors.New("malformed file of logits")
)

// Options say how a model is measured. The zero value gives the perplexity over the whole text.
type Options struct {
	// Context is the number of tokens in a chunk, n_ctx. Default: the reference's, or DefaultContext.
	// Open the model with a PrefillChunk of at least as many: where activations are quantised, results
	// depend on how many rows are computed together.
	Context int
	// Chunks, if positive, is the most that are measured.
	Chunks int
	// Reference is what the model is compared with. Default: nothing.
	Reference Reference
	// Save, if set, takes the model's log-probabilities as a file that OpenLogits reads.
	Save io.Writer
	// Progress, if set, is told after each chunk how many of all are done.
	Progress func(done, total int)
}

// settle fills defaults in and gives the number of chunks.
func (o *Options) settle(r *runner.Runner, tokens []int32) (chunks int, err error) {
	if o.Context == 0 {
		o.Context = DefaultContext
	}
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	switch most := r.Info().ContextLength; {
	case o.Context < minContext:
		fault("a context of %d tokens: want %d or more", o.Context, minContext)
	case o.Context > most:
		fault("%w: chunks of %d tokens, the model takes %d", runner.ErrContext, o.Context, most)
	case len(tokens) < o.Context:
		fault("%w: it has %d tokens, a chunk takes %d: use a longer text or a smaller context", ErrText, len(tokens), o.Context)
	default:
		chunks = len(tokens) / o.Context
	}
	if o.Chunks < 0 {
		fault("%d chunks: use 0 for all, or a positive number", o.Chunks)
	}
	if o.Chunks > 0 {
		chunks = min(chunks, o.Chunks)
	}
	return chunks, errors.Join(faults...)
}

// firstScored is the first position of a chunk that is scored, and scoredRows how many there are. The
// last position is not one of them: the token behind it is not in the chunk.
func firstScored(context int) int { return context / 2 }
func scoredRows(context int) int  { return context - 1 - firstScored(context) }
