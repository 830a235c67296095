package calib

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// SmoothSamples is how many samples of DefaultLength a Smoother needs: with more, factors and ranges change by less
// than what is lost in rounding.
const SmoothSamples = 32

// keptTokens is how many tokens of each tensor are kept for histograms.
const keptTokens = 1024

// Smooth runs the model m, for which s was made, as it is, and shows its activations to s. Each sample counts as one
// call of the model. Samples are token ids, all of one length.
func Smooth(ctx context.Context, m *ir.Model, s *quantize.Smoother, samples [][]int64, o Options) (err error) {
	if err := o.complete(samples); err != nil {
		return err
	}
	plan, err := quantize.NewPlan(m, quantize.Options{}) // to know the weights; it is not applied
	if err != nil {
		return err
	}
	dir, err := workFolder(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var targets []quantize.Target
	for _, v := range s.Inputs() {
		targets = append(targets, quantize.Target{Tensor: v.Name, Inputs: []*ir.Value{v}})
	}
	w, err := newWalk(m, plan, targets, samples, dir, o.Threads)
	if err != nil {
		return err
	}
	defer w.close()
	w.progress = func(p *point, done, total int) {
		o.tell(Progress{Phase: Observing, Tensor: p.targets[0].Tensor, Done: done, Total: total})
	}
	return w.run(ctx, &smoothObserver{smoother: s})
}

// smoothObserver is the observer for a quantize.Smoother.
type smoothObserver struct {
	smoother *quantize.Smoother
	seen     *quantize.Observer
}

func (s *smoothObserver) begin(_ *point, width int) error {
	keep := 0
	if s.smoother.WantsTokens() {
		keep = keptTokens
	}
	s.seen = quantize.NewObserver(width, keep)
	return nil
}

func (s *smoothObserver) observe(_ context.Context, _ *point, x *ort.Tensor) error {
	data, calls := ort.Data[float32](x), int(x.Shape()[0])
	for i := range calls {
		if err := s.seen.Add(data[i*len(data)/calls : (i+1)*len(data)/calls]); err != nil {
			return fmt.Errorf("calib: %w", err)
		}
	}
	return nil
}

func (s *smoothObserver) finish(_ context.Context, p *point, _ func(*ir.Node) bool) (map[*ir.Node]*ort.Tensor, error) {
	return nil, s.smoother.Add(p.x.Name, s.seen.Observation())
}
