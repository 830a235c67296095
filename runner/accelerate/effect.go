package accelerate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// probeTokens is how much calibration text each probe is run on. The effect of one tensor on the KL divergence
// varies by a tenth between two texts of this length, less than what separates tensors.
const probeTokens = 256

// effect measures what rounding one tensor at a time does: the mean KL divergence of the model's predictions from those of
// the model as it is. The model is saved once, with the tensors to be probed as inputs that have defaults, and one
// session then runs it with each of them replaced. Weights are mapped; what it takes in memory is the tensor in
// question and two sets of logits, [probeTokens, vocabulary].
func (w *work) effect(ctx context.Context, m *ir.Model, probes []quantize.Probe) (effects []float64, err error) {
	samples, err := w.probeText(ctx)
	if err != nil {
		return nil, err
	}
	if err := ort.Init(ort.Environment{}); err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	dir, err := os.MkdirTemp(w.stage.Dir(), "probe")
	if err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	names, err := saveOpen(ctx, m, filepath.Join(dir, "model.onnx"), probes)
	if err != nil {
		return nil, err
	}
	s, err := ort.NewSession(filepath.Join(dir, "model.onnx"), ort.SessionConfig{Threads: ort.DefaultThreads()})
	if err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	defer s.Close()
	p, err := newProber(s, samples)
	if err != nil {
		return nil, err
	}
	defer p.close()
	effects = make([]float64, len(probes))
	for i, probe := range probes {
		w.events.tensor(TensorProgress{Phase: PhaseProbe, Tensor: probe.Tensor, Done: i, Total: len(probes)})
		if effects[i], err = p.probe(ctx, names[probe.Tensor], probe); err != nil {
			return nil, err
		}
	}
	return effects, nil
}

// probeText is one sample of calibration text.
func (w *work) probeText(ctx context.Context) ([]int64, error) {
	one := w.set.Calibration
	defer func() { w.set.Calibration = one }()
	w.set.Calibration.Samples, w.set.Calibration.Length = 1, probeTokens
	samples, err := w.samples(ctx)
	if err != nil {
		return nil, err
	}
	return samples[0], nil
}

// saveOpen writes m with the tensors to be probed as inputs that have defaults, and gives their names by those of the tensors.
// m is as it was when it returns.
func saveOpen(ctx context.Context, m *ir.Model, path string, probes []quantize.Probe) (names map[string]string, err error) {
	g := m.Graph
	byName := map[string]*ir.Value{}
	for _, v := range g.Initializers() {
		byName[v.Name] = v
	}
	names = map[string]string{}
	for _, p := range probes {
		v := byName[p.Tensor]
		if v == nil {
			return nil, fmt.Errorf("accelerate: %s is no initializer, so its effect cannot be measured; leave the target bits out, or give it a rule", p.Tensor)
		}
		if names[p.Tensor] != "" {
			continue
		}
		open := g.AddOptionalInput(g.Fresh(p.Tensor+"/probe"), v.Const)
		names[p.Tensor] = open.Name
		moveUses(v, open)
		defer func() {
			moveUses(open, v)
			err = errors.Join(err, g.RemoveInput(open), g.RemoveInitializer(open))
		}()
	}
	return names, ir.Save(ctx, m, path, ir.SaveOptions{})
}

// moveUses lets to be read where from was.
func moveUses(from, to *ir.Value) {
	for _, u := range from.Uses() {
		u.Node.SetInput(u.Index, to)
	}
}

// prober runs a model on one text, with one input or another replaced.
type prober struct {
	session *ort.Session
	inputs  map[string]*ort.Tensor
	before  *ort.Tensor // logits of the model as it is
}

func newProber(s *ort.Session, tokens []int64) (*prober, error) {
	p := &prober{session: s, inputs: map[string]*ort.Tensor{}}
	for _, in := range s.Inputs() {
		t, err := promptInput(in, tokens)
		if err != nil {
			p.close()
			return nil, err
		}
		p.inputs[in.Name] = t
	}
	return p, nil
}

func (p *prober) close() {
	for _, t := range p.inputs {
		t.Close()
	}
	if p.before != nil {
		p.before.Close()
	}
}

// promptInput is what an input takes when tokens are all that the model has seen.
func promptInput(in ort.ValueInfo, tokens []int64) (*ort.Tensor, error) {
	shape := []int64{1, int64(len(tokens))}
	if strings.HasPrefix(in.Name, "past_key_values.") {
		shape = nil
		for i, d := range in.Shape {
			switch {
			case d >= 0:
				shape = append(shape, d)
			case i == 0:
				shape = append(shape, 1)
			default:
				shape = append(shape, 0)
			}
		}
	} else if in.DType != ort.Int64 {
		return nil, fmt.Errorf("accelerate: the effect of tensors cannot be measured: input %v is unknown", in)
	}
	t, err := ort.NewTensor(in.DType, shape...)
	if err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	switch in.Name {
	case "input_ids":
		copy(ort.Data[int64](t), tokens)
	case "attention_mask":
		for i := range tokens {
			ort.Data[int64](t)[i] = 1
		}
	case "position_ids":
		for i := range tokens {
			ort.Data[int64](t)[i] = int64(i)
		}
	}
	return t, nil
}

// probe is the KL divergence with one tensor rounded.
func (p *prober) probe(ctx context.Context, name string, probe quantize.Probe) (float64, error) {
	if p.before == nil {
		var err error
		if p.before, err = p.run(ctx); err != nil {
			return 0, err
		}
	}
	rounded, err := probe.Rounded()
	if err != nil {
		return 0, err
	}
	t, err := ort.NewTensor(ort.Float32, rounded.Shape...)
	if err != nil {
		return 0, fmt.Errorf("accelerate: %w", err)
	}
	defer t.Close()
	if err := rounded.ReadFloat32(ort.Data[float32](t), 0); err != nil {
		return 0, fmt.Errorf("accelerate: %w", err)
	}
	p.inputs[name] = t
	defer delete(p.inputs, name)
	after, err := p.run(ctx)
	if err != nil {
		return 0, err
	}
	defer after.Close()
	return meanDivergence(p.before, after)
}

func (p *prober) run(ctx context.Context) (*ort.Tensor, error) {
	out, err := p.session.Run(ctx, p.inputs, []string{"logits"})
	if err != nil {
		return nil, fmt.Errorf("accelerate: %w", err)
	}
	t := out["logits"]
	if t.DType() != ort.Float32 || len(t.Shape()) != 3 {
		defer t.Close()
		return nil, fmt.Errorf("accelerate: the effect of tensors cannot be measured: logits are %v%v", t.DType(), t.Shape())
	}
	return t, nil
}

// meanDivergence is KL(before || after) in nats, the mean over all positions.
func meanDivergence(before, after *ort.Tensor) (float64, error) {
	a, b := ort.Data[float32](before), ort.Data[float32](after)
	vocabulary := int(before.Shape()[2])
	if len(a) != len(b) || vocabulary == 0 {
		return 0, fmt.Errorf("accelerate: logits of shape %v and %v", before.Shape(), after.Shape())
	}
	rows := make([]float64, len(a)/vocabulary)
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i := range rows {
		g.Go(func() error {
			rows[i] = divergence(a[i*vocabulary:][:vocabulary], b[i*vocabulary:][:vocabulary])
			return nil
		})
	}
	_ = g.Wait() // they do not fail
	sum := 0.0
	for _, v := range rows { // in order, so that the sum is the same each time
		sum += v
	}
	if math.IsNaN(sum) || math.IsInf(sum, 0) {
		return 0, errors.New("accelerate: the model's logits are not finite")
	}
	return sum / float64(len(rows)), nil
}

// divergence is KL(p || q) of two rows of logits.
func divergence(p, q []float32) float64 {
	highP, highQ := highest(p), highest(q)
	var normP, normQ, dot float64
	for i := range p {
		x, y := float64(p[i])-highP, float64(q[i])-highQ
		e := math.Exp(x)
		normP += e
		normQ += math.Exp(y)
		dot += e * (x - y)
	}
	return dot/normP - math.Log(normP) + math.Log(normQ)
}

func highest(v []float32) float64 {
	h := math.Inf(-1)
	for _, x := range v {
		h = max(h, float64(x))
	}
	return h
}
