package calib

import (
	"context"
	"errors"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// KVSamples is how many samples of DefaultLength the scales of a KV cache need: those of more differ by less than
// the margin that they are given.
const KVSamples = 32

// ObserveKV runs the model as it is, which may have quantised weights, and shows kv its keys and values. Samples
// are token ids, all of one length.
func ObserveKV(ctx context.Context, m *ir.Model, kv *quantize.KV, samples [][]int64, o Options) error {
	plan, err := quantize.NewPlan(m, quantize.Options{}) // to know the weights; it is not applied
	if errors.Is(err, quantize.ErrQuantized) {
		plan, err = nil, nil
	}
	if err != nil {
		return err
	}
	return observe(ctx, m, plan, inputTargets(kv.Inputs()), samples, o, &kvObserver{kv: kv})
}

// kvObserver is the observer for a quantize.KV.
type kvObserver struct {
	kv    *quantize.KV
	width int
}

func (k *kvObserver) begin(_ *point, width int) error {
	k.width = width
	return nil
}

func (k *kvObserver) observe(_ context.Context, p *point, x *ort.Tensor) error {
	return k.kv.Add(p.x.Name, ort.Data[float32](x), k.width)
}

func (k *kvObserver) finish(context.Context, *point, func(*ir.Node) bool) (map[*ir.Node]*ort.Tensor, error) {
	return nil, nil
}
