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

// Options says how to calibrate. The zero value works.
type Options struct {
	// Dir is where temporary files go, some gigabytes for large models: 4 bytes for each token of the samples
	// and each channel that a product reads or passes by. Default: the system's folder for them.
	Dir string
	// Threads is how many threads ONNX Runtime uses. Default: all CPUs, see ort.DefaultThreads.
	Threads int
	GPTQ    quantize.GPTQOptions
	// Statistics, if set, is a file of statistics, what AWQ and a Smoother want to know of activations. What it holds is
	// read, in place of running the model, and what it lacks is added. Activations are those of the model before it is
	// rescaled, and good for all precisions and formats. What GPTQ and a KV cache need is not in it: that depends on how
	// the weights before are rounded.
	Statistics string
	// Progress, if set, is told how far the work has come.
	Progress func(Progress)
}

// Phase is a part of calibration.
type Phase string

// The phases, in order. Methods take one or both.
const (
	Observing Phase = "observing" // activations of the model as it is
	Rounding  Phase = "rounding"  // weight after weight
)

// Progress is how far a phase has come.
type Progress struct {
	Phase       Phase
	Tensor      string  // the weight that is worked on
	Done, Total int     // steps, of about equal length
	Loss        float64 // of the last weight that was finished: error of its product relative to the product
}

func (o *Options) tell(p Progress) {
	if o.Progress != nil {
		o.Progress(p)
	}
}

// complete checks what there is and gets ONNX Runtime ready.
func (o *Options) complete(samples [][]int64) error {
	if err := checkSamples(samples); err != nil {
		return err
	}
	if err := ort.Init(ort.Environment{}); err != nil {
		return fmt.Errorf("calib: %w", err)
	}
	if o.Threads == 0 {
		o.Threads = ort.DefaultThreads()
	}
	return nil
}

// Found holds what calibration has found, in temporary files from which the plan reads while the model is saved.
type Found struct {
	// Folded are the activations that have been rescaled.
	Folded []quantize.Folded

	dir    string   // "": nothing is on disk
	levels *os.File // of all weights, one behind the other
	size   int64
}

// Close removes the files.
func (f *Found) Close() error {
	if f.dir == "" {
		return nil
	}
	err := f.levels.Close()
	err = errors.Join(err, os.RemoveAll(f.dir))
	f.dir, f.levels = "", nil
	return err
}

// open makes the folder and the file.
func (f *Found) open(parent string) (err error) {
	if f.dir, err = workFolder(parent); err != nil {
		return err
	}
	if f.levels, err = tempFile(f.dir); err != nil {
		err = errors.Join(err, os.RemoveAll(f.dir))
		f.dir = ""
	}
	return err
}

// place is room for some bytes.
func (f *Found) place(size int64) *fileData {
	d := &fileData{f.levels, f.size, size}
	f.size += size
	return d
}

// Plan makes a plan for m and finds on samples whatever its methods need. Samples are token ids, all of one
// length. Methods that rescale (AWQ) change m, which computes the same function afterwards.
//
// Found must be closed after the model has been saved, and not before.
func Plan(ctx context.Context, m *ir.Model, q quantize.Options, samples [][]int64, o Options) (*quantize.Plan, *Found, error) {
	plan, err := quantize.NewPlan(m, q)
	if err != nil {
		return nil, nil, err
	}
	var stats quantize.Statistics
	found := &Found{}
	if needed := selected(plan, func(t quantize.Target) bool { return t.Method.Rescales() }); len(needed) > 0 {
		if stats, err = statistics(ctx, m, plan, samples, o); err != nil {
			return nil, nil, err
		}
		folded, err := quantize.FoldAWQ(ctx, m, plan, stats)
		if err != nil {
			return nil, nil, err
		}
		if plan, err = quantize.NewPlan(m, q); err != nil {
			return nil, nil, err
		}
		for _, t := range plan.Targets() {
			if s := stats[t.Inputs[len(t.Inputs)-1].Name]; s != nil {
				if err := plan.Weigh(t, s.Square); err != nil {
					return nil, nil, err
				}
			}
		}
		found.Folded = folded
	}
	if err := round(ctx, m, plan, samples, o, found); err != nil {
		return nil, nil, errors.Join(err, found.Close())
	}
	return plan, found, nil
}

func selected(p *quantize.Plan, want func(quantize.Target) bool) []quantize.Target {
	var some []quantize.Target
	for _, t := range p.Targets() {
		if want(t) {
			some = append(some, t)
		}
	}
	return some
}

// round finds the levels of the targets that are rounded with compensation, and supplies them. Each weight is
// found with the inputs that it gets from the weights before it as they have been quantised ("true sequential").
func round(ctx context.Context, m *ir.Model, plan *quantize.Plan, samples [][]int64, o Options, f *Found) error {
	targets := selected(plan, func(t quantize.Target) bool { return t.Method.Compensates() })
	if len(targets) == 0 {
		return nil
	}
	if err := o.complete(samples); err != nil {
		return err
	}
	if err := f.open(o.Dir); err != nil {
		return err
	}
	w, err := newWalk(m, plan, targets, samples, f.dir, o.Threads)
	if err != nil {
		return err
	}
	defer w.close()
	w.rounded = true
	r := &rounding{found: f, plan: plan, options: o, algebra: newAlgebra(f.dir, o.Threads)}
	defer r.close()
	w.progress = r.progress
	return w.run(ctx, r)
}

func checkSamples(samples [][]int64) error {
	if len(samples) == 0 || len(samples[0]) == 0 {
		return fmt.Errorf("calib: %w: there is not one sample", ErrNoData)
	}
	for i, s := range samples {
		if len(s) != len(samples[0]) {
			return fmt.Errorf("calib: sample %d has %d tokens, the first one %d", i, len(s), len(samples[0]))
		}
	}
	return nil
}

// rounding is the observer that quantises with GPTQ.
type rounding struct {
	found   *Found
	plan    *quantize.Plan
	options Options
	algebra *algebra

	moments *moments // of the point that is being observed; nil between two
	loss    float64
}

func (r *rounding) close() {
	if r.moments != nil {
		r.moments.close()
	}
	r.algebra.close()
}

func (r *rounding) progress(p *point, done, total int) {
	r.options.tell(Progress{Phase: Rounding, Tensor: p.targets[0].Tensor, Done: done, Total: total, Loss: r.loss})
}

func (r *rounding) begin(_ *point, width int) (err error) {
	r.moments, err = newMoments(width, r.found.dir, r.options.Threads)
	return err
}

func (r *rounding) observe(_ context.Context, _ *point, x *ort.Tensor) error { return r.moments.add(x) }

func (r *rounding) finish(ctx context.Context, p *point, needed func(*ir.Node) bool) (map[*ir.Node]*ort.Tensor, error) {
	factor, err := r.factorise(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w (%s)", err, p.x.Name)
	}
	defer factor.Close()
	weights := map[*ir.Node]*ort.Tensor{}
	for _, t := range p.targets {
		if err := r.round(ctx, factor, t, needed, weights); err != nil {
			return weights, err
		}
	}
	return weights, nil
}

// factorise decomposes what has been added up.
func (r *rounding) factorise(ctx context.Context) (*quantize.Factor, error) {
	m := r.moments
	h, err := r.algebra.Alloc(m.width * m.width)
	if err != nil {
		return nil, err
	}
	defer r.algebra.Free(h)
	m.matrix(h)
	r.moments = nil
	return quantize.Factorise(ctx, r.algebra, h, m.width, r.options.GPTQ)
}

// round quantises one weight.
func (r *rounding) round(ctx context.Context, f *quantize.Factor, t quantize.Target, needed func(*ir.Node) bool, weights map[*ir.Node]*ort.Tensor) error {
	var values []float32
	for _, n := range t.Nodes {
		if !needed(n) {
			continue
		}
		x, err := ort.NewTensor(ort.Float32, t.Columns(), t.Rows())
		if err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		weights[n] = x
		values = ort.Data[float32](x)
	}
	var parts [3]*fileData
	for i, size := range t.LevelSizes() {
		parts[i] = r.found.place(size)
	}
	c, err := f.Round(ctx, t, quantize.LevelWriters{Packed: parts[0], Scales: parts[1], ZeroPoints: parts[2]}, values)
	if err != nil {
		return err
	}
	for _, n := range t.Nodes {
		if x := weights[n]; x != nil {
			copy(ort.Data[float32](x), values)
		}
	}
	r.loss = c.Loss
	return r.plan.Supply(t, quantize.Levels{Packed: parts[0], Scales: parts[1], ZeroPoints: parts[2], Compensated: c})
}

// fileData is a range of a file, to be written once and then read.
type fileData struct {
	file *os.File
	off  int64
	size int64
}

func (d *fileData) Len() int64 { return d.size }

func (d *fileData) ReadAt(p []byte, off int64) (int, error) { return d.file.ReadAt(p, d.off+off) }

func (d *fileData) WriteAt(p []byte, off int64) (int, error) { return d.file.WriteAt(p, d.off+off) }
