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

// Smooth shows s, which was made for the model m, what m's activations are as it is. Each sample counts as one call of
// the model. Samples are token ids, all of one length.
//
// With a file of statistics that holds such observations the model is not run. Those of a run that wanted no tokens lack
// them: where s does, they are made anew.
func Smooth(ctx context.Context, m *ir.Model, s *quantize.Smoother, samples [][]int64, o Options) error {
	plan, err := quantize.NewPlan(m, quantize.Options{}) // to know the weights; it is not applied
	if err != nil {
		return err
	}
	seen := &smoothObserver{smoother: s}
	if o.Statistics == "" {
		return observe(ctx, m, plan, inputTargets(s.Inputs()), samples, o, seen)
	}
	model, err := modelFingerprint(plan)
	if err != nil {
		return err
	}
	file, err := openStatistics(o.Statistics)
	if err != nil {
		return err
	}
	defer file.close()
	refused := func(err error) error {
		return fmt.Errorf("calib: %s: %w; delete it to have it made anew", o.Statistics, err)
	}
	switch saved := file.Observations; {
	case saved == nil:
	case saved.Model != model:
		return refused(errors.New("it is of another model, or of this one with other scales"))
	case saved.Tokens || !s.WantsTokens():
		if err := file.replay(s); err != nil {
			return refused(err)
		}
		return nil
	}
	if seen.keeper, err = newKeeper(o.Dir); err != nil {
		return err
	}
	defer seen.keeper.close()
	if err := observe(ctx, m, plan, inputTargets(s.Inputs()), samples, o, seen); err != nil {
		return err
	}
	file.Observations = &observations{Model: model, Tokens: s.WantsTokens(), Inputs: seen.keeper.inputs}
	file.numbers, file.size = seen.keeper.file, seen.keeper.size
	return file.write(o.Statistics)
}

// observe takes samples through m, which it runs as it is, and shows to what arrives at the inputs of targets. The plan
// is for m, or nil.
func observe(ctx context.Context, m *ir.Model, plan *quantize.Plan, targets []quantize.Target, samples [][]int64, o Options, to observer) (err error) {
	if err := o.complete(samples); err != nil {
		return err
	}
	dir, err := workFolder(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	w, err := newWalk(m, plan, targets, samples, dir, o.Threads)
	if err != nil {
		return err
	}
	defer w.close()
	w.progress = func(p *point, done, total int) {
		o.tell(Progress{Phase: Observing, Tensor: p.targets[0].Tensor, Done: done, Total: total})
	}
	return w.run(ctx, to)
}

// inputTargets are activations to be looked at, whatever they are multiplied with.
func inputTargets(inputs []*ir.Value) []quantize.Target {
	all := make([]quantize.Target, len(inputs))
	for i, v := range inputs {
		all[i] = quantize.Target{Tensor: v.Name, Inputs: []*ir.Value{v}}
	}
	return all
}

// smoothObserver is the observer for a quantize.Smoother.
type smoothObserver struct {
	smoother *quantize.Smoother
	seen     *quantize.Observer
	keeper   *observationKeeper // nil: nothing is kept
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
	seen := s.seen.Observation()
	if s.keeper != nil {
		if err := s.keeper.add(p.x.Name, seen); err != nil {
			return nil, err
		}
	}
	return nil, s.smoother.Add(p.x.Name, seen)
}
