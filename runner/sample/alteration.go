package sample

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// An alteration is the working memory of bias, penalties and bans.
type alteration struct {
	scores []float32 // the altered copy of the logits
	seen   []uint32  // the call in which a token was last found in the text
	call   uint32
	counts []int32 // of the tokens in the answer; zero between calls

	biased []int32 // tokens with a bias
	bias   []float32
}

// reset makes room for what params want.
func (a *alteration) reset(params Params, vocab int) {
	if params.alters() && a.scores == nil {
		a.scores = make([]float32, vocab)
	}
	if params.repetition() && a.seen == nil {
		a.seen = make([]uint32, vocab)
	}
	if params.counts() && a.counts == nil {
		a.counts = make([]int32, vocab)
	}
	a.biased = slices.AppendSeq(a.biased[:0], maps.Keys(params.LogitBias))
	slices.Sort(a.biased)
	a.bias = a.bias[:0]
	for _, id := range a.biased {
		a.bias = append(a.bias, float32(params.LogitBias[id]))
	}
}

// apply gives altered logits. Order and float32 are transformers': SequenceBiasLogitsProcessor,
// RepetitionPenaltyLogitsProcessor, NoRepeatNGramLogitsProcessor. The two penalties that it does not have come
// behind the one that it has, as in vLLM.
func (a *alteration) apply(p *Params, logits []float32, text []int32, prompt int) ([]float32, error) {
	if err := check(text, prompt, len(logits)); err != nil {
		return nil, err
	}
	copy(a.scores, logits)
	for i, id := range a.biased {
		a.scores[id] += a.bias[i]
	}
	if p.repetition() {
		a.repetition(float32(p.RepetitionPenalty), text)
	}
	if p.counts() {
		a.frequency(float32(p.FrequencyPenalty), float32(p.PresencePenalty), text[prompt:])
	}
	if p.NoRepeatNgram > 0 {
		a.ban(p.NoRepeatNgram, text)
	}
	return a.scores, nil
}

func check(text []int32, prompt, vocab int) error {
	if prompt < 0 || prompt > len(text) {
		return fmt.Errorf("sample: a prompt of %d tokens in a text of %d", prompt, len(text))
	}
	for i, id := range text {
		if uint32(id) >= uint32(vocab) {
			return fmt.Errorf("sample: the text has the token %d at %d, outside a vocabulary of %d", id, i, vocab)
		}
	}
	return nil
}

func (a *alteration) repetition(penalty float32, text []int32) {
	a.call++
	if a.call == 0 { // after 2^32 calls the marks would lie
		clear(a.seen)
		a.call = 1
	}
	for _, id := range text {
		if a.seen[id] == a.call {
			continue
		}
		a.seen[id] = a.call
		if a.scores[id] < 0 {
			a.scores[id] *= penalty
		} else {
			a.scores[id] /= penalty
		}
	}
}

func (a *alteration) frequency(frequency, presence float32, answer []int32) {
	for _, id := range answer {
		a.counts[id]++
	}
	for _, id := range answer {
		if a.counts[id] > 0 {
			a.scores[id] -= float32(frequency * float32(a.counts[id]))
			a.scores[id] -= presence
			a.counts[id] = 0
		}
	}
}

// ban takes out the tokens that have followed before where the last size-1 tokens were the same as now.
func (a *alteration) ban(size int, text []int32) {
	end := text[max(0, len(text)-(size-1)):]
	for i := 0; i+size <= len(text); i++ {
		if slices.Equal(text[i:i+size-1], end) {
			a.scores[text[i+size-1]] = float32(math.Inf(-1))
		}
	}
}
