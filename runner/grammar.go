package runner

import (
	"fmt"
	"sync"

	"github.com/qwenrt/qwenrt/runner/grammar"
)

// Constrain makes a grammar a constraint of requests to this model: their answers are texts of the grammar,
// or beginnings of one where MaxTokens ends them. Added tokens, such as <think>, are not part of such
// texts. The error is that of the tokenizer; grammar.ErrVocabulary is one too.
//
// The first call takes about as long as a few tokens of the model, to sort the vocabulary.
func (r *Runner) Constrain(g *grammar.Grammar) (Constraint, error) {
	v, err := r.vocabulary.get(r)
	if err != nil {
		return nil, err
	}
	return constrained{g.NewMatcher(v)}, nil
}

// constrained is a matcher as a Constraint.
type constrained struct{ *grammar.Matcher }

func (c constrained) Clone() Constraint { return constrained{c.Matcher.Clone()} }

// lazyVocabulary is the tokenizer's vocabulary as grammars need it, made when it is first asked for.
type lazyVocabulary struct {
	once sync.Once
	v    *grammar.Vocabulary
	err  error
}

func (l *lazyVocabulary) get(r *Runner) (*grammar.Vocabulary, error) {
	l.once.Do(func() {
		if r.tok == nil {
			l.err = r.tokErr
			return
		}
		if _, l.err = r.tok.Bytes(0); l.err != nil {
			l.err = fmt.Errorf("runner: an answer cannot be constrained: %w", l.err)
			return
		}
		size := min(r.tok.VocabSize(), int(r.layout.vocab)) // a tokenizer may know more than the model
		l.v, l.err = grammar.NewVocabulary(size, func(id int32) (string, bool) {
			text, err := r.tok.Bytes(id)
			return text, err == nil && !r.tok.Added(id)
		})
		l.err = wrap(l.err)
	})
	return l.v, l.err
}
