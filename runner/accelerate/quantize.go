package accelerate

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
)

func (w *work) quantize(ctx context.Context) error {
	mixed := w.mixed()
	if w.set.Precision == None && w.set.KV == "" && !mixed {
		return nil
	}
	w.events.step(StepQuantize)
	if w.set.Precision == None && !mixed { // the KV cache alone
		w.record(folder.Step{Command: "quantize", Options: w.set.kvOptions(map[string]string{})})
		return w.quantizeKV(ctx)
	}
	options := w.set.quantization()
	if mixed {
		if err := w.restOptions(&options); err != nil {
			return err
		}
	} else if err := w.smooth(ctx, &options); err != nil {
		return err
	}
	if w.set.TargetBits > 0 {
		if err := w.allocate(ctx, &options); err != nil {
			return err
		}
	}
	plan, err := w.makePlan(ctx, options)
	if err != nil {
		return err
	}
	if err := w.quantizeKV(ctx); err != nil { // the plan has rescaled the values, and not replaced the products yet
		return err
	}
	if err := plan.Apply(w.model); err != nil {
		return err
	}
	w.plan = plan
	w.record(folder.Step{Command: "quantize", Options: w.set.quantizeOptions()})
	return nil
}

// allocate adds the rules that spend the target's bits. Activations of models in other types than fp32 cannot be
// computed everywhere; what is spent then rests on the errors of the weights.
func (w *work) allocate(ctx context.Context, o *quantize.Options) error {
	budget := quantize.Budget{Bits: w.set.TargetBits, Formats: w.set.candidates()}
	if inFloat32(w.model) {
		budget.Effect = w.effect
	}
	a, err := quantize.Allocate(ctx, w.model, *o, budget)
	if err != nil {
		return err
	}
	o.Rules = append(o.Rules, a.Rules...)
	w.report.Allocation = a
	return nil
}

func inFloat32(m *ir.Model) bool {
	for _, out := range m.Graph.Outputs() {
		if out.Name == "logits" && out.Type != nil {
			return out.Type.DType == ir.Float32
		}
	}
	return false
}

// makePlan decides, and runs the model on calibration text where a method asks for that.
func (w *work) makePlan(ctx context.Context, o quantize.Options) (*quantize.Plan, error) {
	plan, err := quantize.NewPlan(w.model, o)
	if err != nil || len(plan.Targets()) == 0 {
		return plan, err
	}
	samples, err := w.samples(ctx)
	if err != nil {
		return nil, err
	}
	plan, found, err := calib.Plan(ctx, w.model, o, samples, calib.Options{
		Dir: w.stage.Dir(), GPTQ: w.set.Calibration.GPTQ, Statistics: w.set.Calibration.Statistics,
		Progress: func(p calib.Progress) {
			w.events.tensor(TensorProgress{Phase: Phase(p.Phase), Tensor: p.Tensor, Done: p.Done, Total: p.Total, Loss: p.Loss})
		},
	})
	if err != nil {
		return nil, err
	}
	w.closers = append(w.closers, found.Close)
	return plan, nil
}

// quantizeOptions are the settings as the manifest records them.
func (s settings) quantizeOptions() map[string]string {
	o := map[string]string{
		"precision":      string(s.Precision),
		"algo":           string(s.Method),
		"block_size":     strconv.Itoa(s.BlockSize),
		"symmetric":      strconv.FormatBool(s.Symmetric),
		"accuracy_level": strconv.Itoa(s.AccuracyLevel),
	}
	if s.Method == quantize.RTN {
		o["scale"] = string(s.Scale)
	}
	s.smoothOptions(o)
	if s.HalfScales {
		o["half_scales"] = "true"
	}
	if s.TargetBits > 0 {
		o["target_bits"] = strconv.FormatFloat(s.TargetBits, 'g', -1, 64)
	}
	if len(s.Rules) > 0 {
		rules := make([]string, len(s.Rules))
		for i, r := range s.Rules {
			rules[i] = r.String()
		}
		o["rules"] = strings.Join(rules, " ")
	}
	return s.kvOptions(o)
}

// recordTensors writes down what became of each tensor. The model has been saved, so that errors are known.
func (w *work) recordTensors() {
	r := w.plan.Report()
	for i, t := range r.Tensors {
		if slices.Contains(w.report.FloatProducts, t.Tensor) {
			r.Tensors[i].Reason = "ONNX Runtime computes its product in floating point"
		}
	}
	for _, t := range w.packed {
		r.Tensors = append(r.Tensors, t)
		r.Weights, r.BytesBefore, r.BytesAfter = r.Weights+t.Weights, r.BytesBefore+t.BytesBefore, r.BytesAfter+t.BytesAfter
	}
	w.report.Quantization, w.report.BitsPerWeight = &r, r.BitsPerWeight()
	w.recordSmoothing()
	w.manifest.Weights = &folder.Weights{
		Count: r.Weights, BytesBefore: r.BytesBefore, BytesAfter: r.BytesAfter, BitsPerWeight: digits(r.BitsPerWeight()),
	}
	for _, t := range r.Tensors {
		w.manifest.Quantization = append(w.manifest.Quantization, folder.QuantizedTensor{
			Name: t.Tensor, Method: string(t.Method), Scale: string(t.Scale), Bits: t.Bits, BlockSize: t.BlockSize, Symmetric: t.Symmetric,
			AccuracyLevel: t.AccuracyLevel, Bytes: t.BytesAfter, RMSE: digits(t.RMSE), SNR: digits(t.SNR), Loss: digits(t.Loss),
			ProductSNR: digits(t.ProductSNR), Reason: t.Reason,
		})
	}
}

// digits leaves of a measurement what is worth reading.
func digits(x float64) float64 {
	short, err := strconv.ParseFloat(strconv.FormatFloat(x, 'g', 4, 64), 64)
	if err != nil { // x is none of the numbers that have digits
		return 0
	}
	return short
}
