package tune

import (
	"context"
	"time"

	"github.com/qwenrt/qwenrt/runner/machine"
)

// Kernel is a product kernel: kind of weights and block size (0 where there are no blocks).
type Kernel struct {
	Weights machine.Weights
	Block   int
}

// Rates are what a machine reaches.
type Rates struct {
	Products map[Kernel]machine.Rate
	Rest     map[machine.Cache]machine.Rest // of one layer of the model
}

// MeasureRates measures what estimates of m need, for some candidates.
func MeasureRates(ctx context.Context, m Model, candidates []Candidate, threads int) (Rates, error) {
	r := Rates{Products: map[Kernel]machine.Rate{}, Rest: map[machine.Cache]machine.Rest{}}
	for _, c := range candidates {
		if _, known := r.Rest[c.cache]; !known {
			rest, err := machine.MeasureRest(ctx, m.Layer, c.cache, threads)
			if err != nil {
				return Rates{}, err
			}
			r.Rest[c.cache] = rest
		}
		k := c.kernel
		if _, known := r.Products[k]; known {
			continue
		}
		rate, err := machine.MeasureProducts(ctx, m.Layer, k.Weights, k.Block, threads)
		if err != nil {
			return Rates{}, err
		}
		r.Products[k] = rate
	}
	return r, nil
}

// Speed is what is to be expected, in tokens a second.
type Speed struct {
	Prefill float64 `json:"prefill"` // of a prompt as long as the context
	Decode  float64 `json:"decode"`  // behind a context
}

// Speed estimates that of m with products on k, behind context tokens in a cache of type c.
func (r Rates) Speed(m Model, k Kernel, context int, c machine.Cache) Speed {
	rate, rest, n := r.Products[k], r.Rest[c], float64(m.Layers)
	cached := float64(rest.DecodeKV) * float64(context) // of one layer, for one token
	decode := float64(m.LayerWeights()+m.HeadWeights())/rate.Decode + n*seconds(float64(rest.Decode)+cached)
	// A token of a prompt attends to half of it, on average.
	perToken := float64(m.LayerWeights())/rate.Prefill + n*seconds(float64(rest.Prefill))
	tokens := float64(max(1, context))
	prefill := tokens*perToken + float64(m.HeadWeights())/rate.Decode
	return Speed{Prefill: tokens / prefill, Decode: 1 / decode}
}

func seconds(d float64) float64 { return d / float64(time.Second) }
