package sample

import (
	"errors"
	"fmt"
	"strings"
)

// ErrParams is wrapped by the errors of New and Reset for parameters out of range.
var ErrParams = errors.New("sample: bad parameters")

// Params says how tokens are chosen. The zero value is greedy decoding.
type Params struct {
	// Temperature divides the logits: below 1 sharpens, above 1 flattens. 0 is
	// greedy, and then TopK, TopP, MinP and Seed are not used. At most 100.
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
	// RepetitionPenalty divides the positive logits of tokens in the history and
	// multiplies the negative ones (Keskar et al. 2019). 0 and 1 are off; at most
	// 100. It acts in greedy decoding too.
	RepetitionPenalty float64
	// Seed selects the sequence of random numbers.
	Seed uint64
}

// Validate returns nil, or one error that wraps ErrParams and lists every fault.
func (p Params) Validate() error {
	var faults []string
	within := func(name string, value, least, most float64) {
		if !(least <= value && value <= most) { // NaN too
			faults = append(faults, fmt.Sprintf("%s is %v, not from %v to %v", name, value, least, most))
		}
	}
	within("temperature", p.Temperature, 0, 100)
	if p.TopK < 0 {
		faults = append(faults, fmt.Sprintf("top-k is %d, below 0", p.TopK))
	}
	within("top-p", p.TopP, 0, 1)
	within("min-p", p.MinP, 0, 1)
	within("repetition penalty", p.RepetitionPenalty, 0, 100)
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrParams, strings.Join(faults, "; "))
}

func (p Params) nucleus() bool { return p.TopP > 0 && p.TopP < 1 }

func (p Params) penalises() bool { return p.RepetitionPenalty != 0 && p.RepetitionPenalty != 1 }
