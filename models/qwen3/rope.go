package qwen3

import (
	"maps"
	"math"
	"slices"
)

// Rope says how rotary embedding turns a position into angles (RoFormer, arXiv 2104.09864).
type Rope struct {
	Theta float64 // base of the wavelengths
	Yarn  *Yarn   // nil: not scaled
}

// Yarn stretches the context of a model beyond the length it was trained on (arXiv 2309.00071).
type Yarn struct {
	Factor            float64 // at least 1
	OriginalPositions int     // length of the training context
	AttentionFactor   float64 // on cosine and sine
	BetaFast          float64 // rotations above which a dimension is left alone
	BetaSlow          float64 // rotations below which a dimension is stretched in full
	Truncate          bool    // round the bounds between the two to whole dimensions
}

// parseRope reads rope_scaling (transformers 4) or rope_parameters (5), in the precedence and with
// the defaults of transformers 5.23, modeling_rope_utils.py (convert_rope_params_to_dict,
// standardize_rope_params).
func parseRope(o object, maxPositions int) Rope {
	p, ok := o.object("rope_scaling")
	if !ok {
		p, ok = o.object("rope_parameters")
	}
	r := Rope{Theta: o.number("rope_theta", 10_000)}
	if !ok {
		return r
	}
	r.Theta = p.number("rope_theta", r.Theta)
	for _, name := range slices.Sorted(maps.Keys(p.members)) {
		if p.members[name][0] == '{' {
			p.fault(name, "is an object: rope parameters that differ between layers are not supported")
		}
	}
	if p.number("partial_rotary_factor", o.number("partial_rotary_factor", 1)) != 1 {
		p.fault("partial_rotary_factor", "is not 1: a rotation of part of a head is not supported")
	}
	switch kind := p.text("rope_type", p.text("type", "default")); kind {
	case "default":
	case "yarn":
		r.Yarn = parseYarn(o, p, maxPositions)
	default:
		p.fault("rope_type", "is %s, want default or yarn", clip(kind))
	}
	return r
}

// parseYarn follows _compute_yarn_parameters of the same file. A factor that differs from
// max_position_embeddings / original_max_position_embeddings counts as it stands, as Qwen3's model
// card means it (4 over 32,768 positions, with max_position_embeddings left at 40,960).
func parseYarn(o, p object, maxPositions int) *Yarn {
	y := &Yarn{
		// A length beside the rope parameters has priority over one among them.
		OriginalPositions: o.integer("original_max_position_embeddings",
			p.integer("original_max_position_embeddings", maxPositions)),
		BetaFast: orDefault(p.number("beta_fast", 0), 32),
		BetaSlow: orDefault(p.number("beta_slow", 0), 1),
		Truncate: p.boolean("truncate", true),
	}
	switch _, stated := p.members["factor"]; {
	case p.has("factor"):
		y.Factor = p.number("factor", 1)
	case stated: // null
		y.Factor = float64(maxPositions) / float64(max(y.OriginalPositions, 1))
	default:
		p.fault("factor", "is missing")
	}
	if p.has("attention_factor") {
		y.AttentionFactor = p.number("attention_factor", 1)
		return y
	}
	y.AttentionFactor = yarnScale(y.Factor, 1)
	if m, all := p.number("mscale", 0), p.number("mscale_all_dim", 0); m != 0 && all != 0 {
		y.AttentionFactor = yarnScale(y.Factor, m) / yarnScale(y.Factor, all)
	}
	return y
}

// orDefault takes 0 for a number that is not given, as Python's or does.
func orDefault(x, def float64) float64 {
	if x == 0 {
		return def
	}
	return x
}

func yarnScale(factor, mscale float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*mscale*math.Log(factor) + 1
}

func (r Rope) check(f *faults) {
	if !(r.Theta > 1 && finite(r.Theta)) {
		f.add("rope_theta", "is %v, want a number above 1", r.Theta)
	}
	y := r.Yarn
	if y == nil {
		return
	}
	if !(y.Factor >= 1 && y.Factor <= 1<<16) {
		f.add("yarn factor", "is %v, want 1 to %d", y.Factor, 1<<16)
	}
	if y.OriginalPositions < 1 || y.OriginalPositions > 1<<28 {
		f.add("original_max_position_embeddings", "is %d, want 1 to %d", y.OriginalPositions, 1<<28)
	}
	if !(y.AttentionFactor > 0 && finite(y.AttentionFactor)) {
		f.add("yarn attention factor", "is %v, want a number above 0", y.AttentionFactor)
	}
	if !(y.BetaSlow > 0 && y.BetaFast >= y.BetaSlow && finite(y.BetaFast)) {
		f.add("yarn beta_fast", "is %v, want a number not below beta_slow %v, which is above 0", y.BetaFast, y.BetaSlow)
	}
}

// AttentionFactor is what cosine and sine are multiplied by: 1 unless yarn says otherwise.
func (r Rope) AttentionFactor() float64 {
	if r.Yarn == nil {
		return 1
	}
	return r.Yarn.AttentionFactor
}

// InvFreq gives the headDim/2 angular frequencies, in radians a position.
//
// Every step is rounded to float32 where transformers rounds, so frequencies agree with its to the
// last bit or, where the two libraries' powers differ, one beside it; at position p that is p×6e-8
// radians. The explicit conversions keep compilers from fusing a product with a sum.
func (r Rope) InvFreq(headDim int) []float32 {
	base := float64(float32(r.Theta))
	freq := make([]float32, headDim/2)
	for i := range freq {
		wave := float32(math.Pow(base, float64(float32(2*i)/float32(headDim)))) // positions a radian
		freq[i] = 1 / wave
		if r.Yarn != nil {
			low, high := r.Yarn.bounds(r.Theta, headDim)
			ramp := min(max(float32(float32(i)-float32(low))/float32(high-low), 0), 1)
			keep := 1 - ramp
			stretched := 1 / float32(float32(r.Yarn.Factor)*wave)
			freq[i] = float32(stretched*float32(1-keep)) + float32(freq[i]*keep)
		}
	}
	return freq
}

// bounds are the dimensions between which the ramp rises: those that turn BetaFast and BetaSlow
// times over the original context.
func (y *Yarn) bounds(theta float64, headDim int) (low, high float64) {
	dim := func(rotations float64) float64 {
		return float64(headDim) * math.Log(float64(y.OriginalPositions)/(rotations*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high = dim(y.BetaFast), dim(y.BetaSlow)
	if y.Truncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(headDim-1))
	if low == high {
		high += 0.001 // the ramp is a step; transformers keeps it from dividing by zero in this way
	}
	return low, high
}
