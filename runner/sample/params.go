package sample

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// ErrParams is wrapped by the errors of New and Reset for parameters out of range.
var ErrParams = errors.New("sample: bad parameters")

// Params says how tokens are chosen. The zero value is greedy decoding.
type Params struct {
	// Temperature divides the logits: below 1 sharpens, above 1 flattens. 0 is
	// greedy, and then TopK, TopP, MinP, TypicalP and Seed are not used. At most 100.
	Temperature float64
	// TopK keeps the tokens whose logit is at least the k-th largest (Fan et al.
	// 2018). 0 keeps all.
	TopK int
	// TopP keeps the fewest most probable tokens that together have at least this
	// probability (nucleus sampling, Holtzman et al. 2019). From 0 to 1; 0 and 1
	// keep all.
	TopP float64
	// MinP keeps the tokens that have at least this share of the most probable
	// token's probability (Nguyen et al. 2024). From 0 to 1; 0 keeps all.
	MinP float64
	// TypicalP keeps the tokens whose information is nearest to the distribution's entropy, the fewest
	// that together have at least this probability (locally typical sampling, Meister et al.
	// 2022). From 0 to 1; 0 and 1 keep all.
	TypicalP float64
	// RepetitionPenalty divides the positive logits of tokens in the text so far, the prompt's
	// included, and multiplies the negative ones (Keskar et al. 2019). 0 and 1 are off; at most 100.
	// It acts in greedy decoding too, as do all that follow.
	RepetitionPenalty float64
	// FrequencyPenalty is taken from the logit of a token once for each time that it is in the answer so
	// far, PresencePenalty once if it is there at all (OpenAI's API). From -2 to 2; 0 is off.
	FrequencyPenalty, PresencePenalty float64
	// NoRepeatNgram forbids tokens that would make a sequence of this many tokens appear a second time
	// in prompt and answer. 0 is off; at most 100.
	NoRepeatNgram int
	// LogitBias is added to the logits of tokens, before any penalty: from -100 to 100. At most 1,024
	// tokens.
	LogitBias map[int32]float64
	// Seed selects the sequence of random numbers.
	Seed uint64
}

// Bounds of parameters, beside those that the definitions imply.
const (
	maxTemperature = 100
	maxRepetition  = 100
	maxPenalty     = 2
	maxNgram       = 100 // each step compares all of the text with its end, so far
	maxBias        = 100
	maxBiases      = 1024
)

// Validate returns nil, or one error that wraps ErrParams and lists every fault. Whether the tokens of
// LogitBias are in the vocabulary is for ValidateFor to say.
func (p Params) Validate() error { return p.ValidateFor(math.MaxInt32) }

// ValidateFor is Validate for a vocabulary.
func (p Params) ValidateFor(vocab int) error {
	var faults []string
	within := func(name string, value, least, most float64) {
		if !(least <= value && value <= most) { // NaN too
			faults = append(faults, fmt.Sprintf("%s is %v, not from %v to %v", name, value, least, most))
		}
	}
	within("temperature", p.Temperature, 0, maxTemperature)
	if p.TopK < 0 {
		faults = append(faults, fmt.Sprintf("top-k is %d, below 0", p.TopK))
	}
	within("top-p", p.TopP, 0, 1)
	within("min-p", p.MinP, 0, 1)
	within("typical-p", p.TypicalP, 0, 1)
	within("repetition penalty", p.RepetitionPenalty, 0, maxRepetition)
	within("frequency penalty", p.FrequencyPenalty, -maxPenalty, maxPenalty)
	within("presence penalty", p.PresencePenalty, -maxPenalty, maxPenalty)
	if p.NoRepeatNgram < 0 || p.NoRepeatNgram > maxNgram {
		faults = append(faults, fmt.Sprintf("no-repeat n-gram size is %d, not from 0 to %d", p.NoRepeatNgram, maxNgram))
	}
	faults = append(faults, p.biasFaults(vocab)...)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrParams, strings.Join(faults, "; "))
}

// shownFaults is how many faults of one kind are listed: a map can have a thousand.
const shownFaults = 3

func (p Params) biasFaults(vocab int) (faults []string) {
	if len(p.LogitBias) > maxBiases {
		return []string{fmt.Sprintf("logit bias for %d tokens, more than %d", len(p.LogitBias), maxBiases)}
	}
	for _, id := range slices.Sorted(maps.Keys(p.LogitBias)) {
		switch bias := p.LogitBias[id]; {
		case id < 0 || int(id) >= vocab:
			faults = append(faults, fmt.Sprintf("logit bias for the token %d, which is not one of 0 to %d", id, vocab-1))
		case !(-maxBias <= bias && bias <= maxBias):
			faults = append(faults, fmt.Sprintf("logit bias for the token %d is %v, not from %v to %v", id, bias, -maxBias, maxBias))
		}
	}
	if more := len(faults) - shownFaults; more > 0 {
		faults = append(faults[:shownFaults], fmt.Sprintf("%d more faults of logit bias", more))
	}
	return faults
}

func (p Params) nucleus() bool { return p.TopP > 0 && p.TopP < 1 }

func (p Params) typical() bool { return p.TypicalP > 0 && p.TypicalP < 1 }

// open reports whether every token is a candidate.
func (p Params) open() bool { return p.TopK == 0 && !p.nucleus() && p.MinP == 0 && !p.typical() }

func (p Params) repetition() bool { return p.RepetitionPenalty != 0 && p.RepetitionPenalty != 1 }

// counts reports whether it matters how often a token is in the answer.
func (p Params) counts() bool { return p.FrequencyPenalty != 0 || p.PresencePenalty != 0 }

// alters reports whether logits change before tokens are compared.
func (p Params) alters() bool {
	return p.repetition() || p.counts() || p.NoRepeatNgram > 0 || len(p.LogitBias) > 0
}
