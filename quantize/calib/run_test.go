package calib

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

// plan calibrates m and applies what comes out.
func plan(t *testing.T, m *ir.Model, q quantize.Options, samples [][]int64, o Options) *Found {
	t.Helper()
	p, found, err := Plan(t.Context(), m, q, samples, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, found.Close()) })
	require.NoError(t, p.Apply(m))
	return found
}

// What is found must be better than rounding to nearest, on other samples, and by more than chance.
func TestBetterThanNearest(t *testing.T) {
	calibration, other := toySamples(1, 24, 40), toySamples(2, 6, 40)
	want := logits(t, newToy(), other)
	for _, f := range []quantize.Options{
		{BlockSize: 32, Symmetric: true, AccuracyLevel: 1},
		{BlockSize: 64, AccuracyLevel: 1},
	} {
		errs := map[quantize.Method]float64{}
		for _, method := range []quantize.Method{quantize.RTN, quantize.GPTQ, quantize.AWQ, quantize.AWQGPTQ} {
			m := newToy()
			f.Method = method
			plan(t, m, f, calibration, Options{})
			errs[method] = distance(want, logits(t, m, other))
		}
		t.Log(f.BlockSize, errs)
		require.Less(t, errs[quantize.GPTQ], 0.85*errs[quantize.RTN])
		require.Less(t, errs[quantize.AWQ], 0.85*errs[quantize.RTN])
		require.Less(t, errs[quantize.AWQGPTQ], 0.7*errs[quantize.RTN])
	}
}

// Rescaling must leave the function as it is, and rescale everything that there is to rescale: two norms, the
// values and the inner product of each layer.
func TestFoldKeepsFunction(t *testing.T) {
	samples := toySamples(1, 8, 40)
	m := newToy()
	want := logits(t, m, samples)
	p, err := quantize.NewPlan(m, quantize.Options{Method: quantize.AWQ})
	require.NoError(t, err)
	stats, err := Collect(t.Context(), m, p, samples, Options{})
	require.NoError(t, err)
	require.Len(t, stats, 4*toyLayers+1)
	for _, s := range stats { // scales that make a difference wherever they go
		for i := range s.Mean {
			s.Mean[i] *= float32(1 + i%7*i%7)
			s.Square[i] *= float32(1 + i%7*i%7)
		}
	}
	folded, err := quantize.FoldAWQ(t.Context(), m, p, stats)
	require.NoError(t, err)
	into := map[string]int{}
	for _, f := range folded {
		into[f.Into]++
		require.Less(t, f.After, f.Before, f.Activation)
	}
	require.Equal(t, map[string]int{"norm": 2 * toyLayers, "values": toyLayers, "product": toyLayers}, into)
	got := logits(t, m, samples)
	require.Less(t, distance(want, got), 1e-5*distance(want, make([]float32, len(want))))
}

// Statistics must be those of the model run as a whole.
func TestCollect(t *testing.T) {
	samples := toySamples(1, 7, 300) // batches of 6 and 1
	m := newToy()
	p, err := quantize.NewPlan(m, quantize.Options{Method: quantize.AWQ})
	require.NoError(t, err)
	stats, err := Collect(t.Context(), m, p, samples, Options{})
	require.NoError(t, err)

	whole := newToy()
	g := whole.Graph
	for _, n := range g.Nodes() {
		if n.Name == "layers.1.down" { // its input becomes what the model gives
			x := n.Input(0)
			logits := g.Outputs()[0].Producer()
			last := g.Op("Slice", "some", []*ir.Value{x, (&toy{g: g}).ints("from", 0), (&toy{g: g}).ints("to", toyInner), (&toy{g: g}).ints("axes", 2)})
			require.NoError(t, g.Replace(logits.Output(0), last))
		}
	}
	require.NoError(t, g.Sort())
	g.Outputs()[0].Type = ir.TensorType(ir.Float32, ir.Sym("batch"), ir.Sym("sequence"), ir.Fixed(toyInner))
	g.Prune()
	x := logits(t, whole, samples)
	mean, square := make([]float64, toyInner), make([]float64, toyInner)
	for i, v := range x {
		mean[i%toyInner] += math.Abs(float64(v)) * toyInner / float64(len(x))
		square[i%toyInner] += float64(v) * float64(v) * toyInner / float64(len(x))
	}
	s := stats["layers.1.mul/out"]
	require.NotNil(t, s)
	for i := range mean {
		require.InEpsilon(t, mean[i], s.Mean[i], 1e-4)
		require.InEpsilon(t, square[i], s.Square[i], 1e-4)
	}
}

// The same inputs must give the same bytes, whatever the number of threads.
func TestDeterministic(t *testing.T) {
	samples := toySamples(1, 12, 40)
	var first []byte
	for _, threads := range []int{1, 2, 3} {
		m := newToy()
		plan(t, m, quantize.Options{Method: quantize.AWQGPTQ}, samples, Options{Threads: threads})
		path := filepath.Join(t.TempDir(), "model.onnx")
		require.NoError(t, ir.Save(t.Context(), m, path, ir.SaveOptions{InlineBytes: 1 << 30}))
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		if first == nil {
			first = b
		}
		require.True(t, string(first) == string(b), "%d threads", threads)
	}
}

// newBrokenToy has a weight that is not a number.
func newBrokenToy(t *testing.T) *ir.Model {
	m := newToy()
	for _, v := range m.Graph.Initializers() {
		if v.Name == "layers.1.o.weight" {
			w, err := v.Const.Float32s()
			require.NoError(t, err)
			w[77] = float32(math.NaN())
			v.Const = ir.Float32Tensor(w, v.Const.Shape...)
		}
	}
	return m
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	options := Options{Dir: dir}
	samples := toySamples(1, 4, 40)
	gptq := quantize.Options{Method: quantize.GPTQ}
	broken := newBrokenToy(t)
	for _, c := range []struct {
		why     string
		m       *ir.Model
		q       quantize.Options
		samples [][]int64
		is      error
		text    string
	}{
		{"no samples", newToy(), gptq, nil, ErrNoData, "not one sample"},
		{"an empty sample", newToy(), gptq, [][]int64{{}}, ErrNoData, ""},
		{"samples of two lengths", newToy(), gptq, [][]int64{{1, 2}, {1}}, nil, "sample 1 has 1 tokens"},
		{"a token of another vocabulary", newToy(), gptq, [][]int64{{1, toyVocabulary}}, nil, "token 96 is not among the 96"},
		{"a weight that is not a number", broken, gptq, samples, quantize.ErrNotFinite, "layers.1.o.weight"},
		{"the same, in AWQ's search", broken, quantize.Options{Method: quantize.AWQ}, samples, nil, ""},
		{"half precision", narrow(t), gptq, samples, nil, "float32"},
	} {
		_, _, err := Plan(t.Context(), c.m, c.q, c.samples, options)
		require.Error(t, err, c.why)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.why)
		}
		require.ErrorContains(t, err, c.text, c.why)
		require.NotContains(t, err.Error(), "\n", c.why)
	}
	ctx, cancel := context.WithCancel(t.Context())
	options.Progress = func(p Progress) {
		if p.Done == 5 {
			cancel()
		}
	}
	_, _, err := Plan(ctx, newToy(), gptq, samples, options)
	require.ErrorIs(t, err, context.Canceled)

	options.Progress = nil
	m := newToy()
	p, err := quantize.NewPlan(m, gptq)
	require.NoError(t, err)
	require.ErrorIs(t, p.Apply(m), quantize.ErrNotCalibrated)
	_, found, err := Plan(t.Context(), m, gptq, samples, options)
	require.NoError(t, err)
	require.NoError(t, found.Close())
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left behind")
}

// narrow is the toy with weights in float16 and without a cast.
func narrow(t *testing.T) *ir.Model {
	m := newToy()
	for _, v := range m.Graph.Initializers() {
		if v.Const.DType == ir.Float32 {
			c, err := ir.Cast(v.Const, ir.Float16)
			require.NoError(t, err)
			v.Const = c
			v.Type.DType = ir.Float16
		}
	}
	return m
}

func TestProgress(t *testing.T) {
	var phases []Phase
	last := Progress{}
	plan(t, newToy(), quantize.Options{Method: quantize.AWQGPTQ}, toySamples(1, 4, 40), Options{Progress: func(p Progress) {
		if p.Phase != last.Phase {
			phases = append(phases, p.Phase)
			require.Equal(t, 1, p.Done)
		} else {
			require.Equal(t, last.Done+1, p.Done)
		}
		require.LessOrEqual(t, p.Done, p.Total)
		require.NotEmpty(t, p.Tensor)
		last = p
	}})
	require.Equal(t, []Phase{Observing, Rounding}, phases)
	require.Equal(t, last.Total, last.Done)
	require.Positive(t, last.Loss)
}
