package accelerate

import (
	"context"
	"time"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/quantize/calib"
)

// Step is a part of the work.
type Step string

// The steps, in order. All but Write take a fraction of a second: they decide what Write computes.
const (
	StepWait     Step = "wait"     // another process is building the same cached folder
	StepExport   Step = "export"   // the graph is made from the checkpoint
	StepOptimize Step = "optimize" // its nodes are fused
	StepQuantize Step = "quantize" // formats are chosen, weight by weight
	StepWrite    Step = "write"    // weights are converted, quantised and written
	StepCompile  Step = "compile"  // weights are packed as kernels want them, and kept
)

// Events are told what goes on. Any of the functions may be nil; calls do not overlap.
type Events struct {
	// Step is called when a step begins.
	Step func(Step)
	// Progress is called in StepWrite: bytes written, of all that there will be.
	Progress func(done, total int64)
	// Trace is called for each match of the optimiser, see graphopt.Options.
	Trace func(graphopt.Event)
	// Tensor is called in StepQuantize, where a tensor is measured or calibrated.
	Tensor func(TensorProgress)
	// Built is called when Open or Prepare have made a model folder, before they open it.
	Built func(*Report)
	// Check is called with the finished folder, which still has another name. Its error ends the work,
	// and nothing is left behind.
	Check func(ctx context.Context, dir string) error
}

func (e Events) step(s Step) {
	if e.Step != nil {
		e.Step(s)
	}
}

// Phase is what is done to one tensor after the other.
type Phase string

// The phases.
const (
	PhaseProbe   Phase = "probing"              // what it does to the model to round it
	PhaseObserve Phase = Phase(calib.Observing) // activations, in the model as it is
	PhaseRound   Phase = Phase(calib.Rounding)  // levels, one tensor with what those before it have become
	PhaseCache   Phase = "caching"              // keys and values, for the scales of a KV cache
)

// TensorProgress is how far a phase has come.
type TensorProgress struct {
	Phase       Phase
	Tensor      string
	Done, Total int     // steps of about equal length
	Loss        float64 // squared error of the last product relative to the product; 0 where it is not known
}

func (e Events) tensor(p TensorProgress) {
	if e.Tensor != nil {
		e.Tensor(p)
	}
}

// Report says what was built.
type Report struct {
	Dir                     string           // the folder
	NodesBefore, NodesAfter int              // of the graph; the same where it was not optimised
	Passes                  []graphopt.Count // of the optimiser, in order
	// Missing says for what the target has no kernel, so that it runs elsewhere or in another type; empty if
	// there is nothing.
	Missing string
	Bytes   int64 // of the model and its weights on disk
	// BitsPerWeight is the size of all weights, scales and zero points included, over their number;
	// 0 where a quantised model came in.
	BitsPerWeight float64
	// Quantization is nil where nothing was quantised.
	Quantization *quantize.Report
	// Smoothing is how activation channels were evened out, and what is expected of each product.
	Smoothing []quantize.Smoothing
	// FloatProducts are weights of StaticInt8 whose products ONNX Runtime leaves in floating point.
	FloatProducts []string
	// Allocation is how target bits were spent; nil where there were none.
	Allocation *quantize.Allocation
	Elapsed    time.Duration
}
