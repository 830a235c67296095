package quantize_test

import (
	"context"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// The layer below: its sizes, and how many tokens it is run on.
const (
	layerWidth  = 64
	layerHeads  = 4
	layerKV     = 2
	layerDim    = 16
	layerMLP    = 96
	layerTokens = 24
)

// layer is a transformer layer as the optimiser leaves it, x [1, S, 64] → y [1, S, 64].
func layer(outliers bool) *ir.Model {
	m := ir.NewModel("layer", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("b"), ir.Sym("s"), ir.Fixed(layerWidth)))
	cache := ir.TensorType(ir.Float32, ir.Sym("b"), ir.Fixed(layerKV), ir.Sym("p"), ir.Fixed(layerDim))
	pastKey, pastValue := g.AddInput("past_key_values.0.key", cache), g.AddInput("past_key_values.0.value", cache)
	seqlens := g.AddInput("seqlens", ir.TensorType(ir.Int32, ir.Sym("b")))
	total := g.AddInput("total", &ir.Type{DType: ir.Int32, Rank0: true})
	seed := uint64(20)
	random := func(n int64) []float32 { seed++; return weights(seed, n) }
	constant := func(name string, v []float32, shape ...int64) *ir.Value {
		return g.AddInitializer(name, ir.Float32Tensor(v, shape...))
	}
	norm := func(name string) []float32 {
		v := random(layerWidth)
		for i := range v {
			v[i] = 1 + v[i]
		}
		return v
	}
	q, kv := int64(layerHeads*layerDim), int64(layerKV*layerDim)
	norm1, norm2 := norm("norm1"), norm("norm2")
	qkv, o := random(layerWidth*(q+2*kv)), random(q*layerWidth)
	up, down := random(layerWidth*2*layerMLP), random(layerMLP*layerWidth)
	if outliers { // the same function, with loud channels between
		loud(norm1, layerWidth, qkv, q+2*kv)
		loud(norm2, layerWidth, up, 2*layerMLP)
		for _, d := range []int64{3, 9} { // a channel of V, and what its query heads make of it
			scaleColumn(qkv, q+2*kv, q+kv+d, 64)
			for h := range int64(layerHeads / layerKV) {
				scaleRow(o, layerWidth, h*layerDim+d, 1./64)
			}
			scaleColumn(up, 2*layerMLP, layerMLP+d, 64)
			scaleRow(down, layerWidth, d, 1./64)
		}
	}
	split := func(v *ir.Value, name string, sizes ...int64) []*ir.Value {
		outputs := make([]string, len(sizes))
		for i := range outputs {
			outputs[i] = name + "/part"
		}
		return g.Add(ir.NodeSpec{
			Op: "Split", Name: name, Outputs: outputs, Attrs: []*ir.Attr{ir.Int("axis", -1)},
			Inputs: []*ir.Value{v, g.AddInitializer(name+"/sizes", ir.Int64Tensor(sizes))},
		}).Outputs()
	}
	n1 := g.Op("SimplifiedLayerNormalization", "n1", []*ir.Value{x, constant("norm1", norm1, layerWidth)}, ir.Float("epsilon", 1e-6), ir.Int("axis", -1))
	parts := split(g.Op("MatMul", "qkv", []*ir.Value{n1, constant("qkv.weight", qkv, layerWidth, q+2*kv)}), "heads", q, kv, kv)
	cos, sin := rotaryTable(512, layerDim)
	attention := g.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: "com.microsoft", Name: "attention",
		Inputs: []*ir.Value{
			parts[0], parts[1], parts[2], pastKey, pastValue, seqlens, total,
			constant("cos", cos, 512, layerDim/2), constant("sin", sin, 512, layerDim/2),
		},
		Outputs: []string{"attended", "present.0.key", "present.0.value"},
		Attrs:   []*ir.Attr{ir.Int("num_heads", layerHeads), ir.Int("kv_num_heads", layerKV), ir.Int("do_rotary", 1)},
	})
	projected := g.Op("MatMul", "o", []*ir.Value{attention.Output(0), constant("o.weight", o, q, layerWidth)})
	n2 := g.Add(ir.NodeSpec{
		Op: "SkipSimplifiedLayerNormalization", Domain: "com.microsoft", Name: "n2",
		Inputs: []*ir.Value{x, projected, constant("norm2", norm2, layerWidth)}, Attrs: []*ir.Attr{ir.Float("epsilon", 1e-6)},
	}).Output(0)
	halves := split(g.Op("MatMul", "up", []*ir.Value{n2, constant("up.weight", up, layerWidth, 2*layerMLP)}), "halves", layerMLP, layerMLP)
	gate := g.Add(ir.NodeSpec{Op: "QuickGelu", Domain: "com.microsoft", Name: "gate", Inputs: halves[:1], Attrs: []*ir.Attr{ir.Float("alpha", 1)}}).Output(0)
	hidden := g.Op("Mul", "hidden", []*ir.Value{gate, halves[1]})
	last := g.Op("MatMul", "down", []*ir.Value{hidden, constant("down.weight", down, layerMLP, layerWidth)})
	y := g.Op("Neg", "out", []*ir.Value{last})
	y.Name, y.Type = "y", ir.TensorType(ir.Float32, ir.Sym("b"), ir.Sym("s"), ir.Fixed(layerWidth))
	g.AddOutput(y)
	for i, name := range []string{"present.0.key", "present.0.value"} {
		v := attention.Output(1 + i)
		v.Name, v.Type = name, ir.TensorType(ir.Float32, ir.Sym("b"), ir.Fixed(layerKV), ir.Sym("t"), ir.Fixed(layerDim))
		g.AddOutput(v)
	}
	return m
}

// loud makes two channels of a norm 128 and 32 times as large, and takes it back in the weight behind.
func loud(norm []float32, width int64, w []float32, outputs int64) {
	for i, f := range map[int64]float32{5: 128, 40: 32} {
		norm[i] *= f
		scaleRow(w, outputs, i, 1/f)
	}
}

func scaleRow(w []float32, width, row int64, f float32) {
	for i := range width {
		w[row*width+i] *= f
	}
}

func scaleColumn(w []float32, width, column int64, f float32) {
	for i := column; i < int64(len(w)); i += width {
		w[i] *= f
	}
}

func rotaryTable(positions, dim int) (cos, sin []float32) {
	for p := range positions {
		for i := range dim / 2 {
			s, c := math.Sincos(float64(p) / math.Pow(10000, float64(2*i)/float64(dim)))
			cos, sin = append(cos, float32(c)), append(sin, float32(s))
		}
	}
	return cos, sin
}

// runLayer runs a layer, of which values are graph outputs too, on some tokens.
func runLayer(t *testing.T, m *ir.Model, values ...*ir.Value) map[string][]float32 {
	t.Helper()
	for _, v := range values {
		m.Graph.AddOutput(v)
		if v.Type == nil {
			v.Type = ir.TensorType(ir.Float32, ir.Sym(v.Name+"0"), ir.Sym(v.Name+"1"), ir.Sym(v.Name+"2"))
		}
	}
	s := open(t, save(t, m), ort.SessionConfig{})
	past, dim := ort.Float32, int64(layerDim)
	for _, in := range s.Inputs() {
		if in.Name == "past_key_values.0.key" {
			past, dim = in.DType, in.Shape[3]
		}
	}
	empty := func() *ort.Tensor {
		x, err := ort.NewTensor(past, 1, layerKV, 0, dim)
		require.NoError(t, err)
		t.Cleanup(x.Close)
		return x
	}
	total, err := ort.NewTensor(ort.Int32)
	require.NoError(t, err)
	t.Cleanup(total.Close)
	ort.Data[int32](total)[0] = layerTokens
	out, err := s.Run(context.Background(), map[string]*ort.Tensor{
		"x":                       tensor(t, ort.Float32, weights(99, layerTokens*layerWidth), 1, layerTokens, layerWidth),
		"past_key_values.0.key":   empty(),
		"past_key_values.0.value": empty(),
		"seqlens":                 tensor(t, ort.Int32, []int32{layerTokens - 1}, 1),
		"total":                   total,
	}, nil)
	require.NoError(t, err)
	seen := map[string][]float32{}
	for name, y := range out {
		t.Cleanup(y.Close)
		if y.DType() == ort.Float32 {
			seen[name] = ort.Data[float32](y)
		}
	}
	return seen
}

// observed is what a layer's products see.
func observed(t *testing.T, outliers bool, inputs []*ir.Value) map[string]*quantize.Observation {
	t.Helper()
	m := layer(outliers)
	byName := map[string]*ir.Value{}
	for _, n := range m.Graph.Nodes() {
		for _, v := range n.Outputs() {
			byName[v.Name] = v
		}
	}
	var values []*ir.Value
	for _, v := range inputs {
		values = append(values, byName[v.Name])
	}
	seen := map[string]*quantize.Observation{}
	for name, x := range runLayer(t, m, values...) {
		o := quantize.NewObserver(len(x)/layerTokens, layerTokens)
		require.NoError(t, o.Add(x[:len(x)/2]))
		require.NoError(t, o.Add(x[len(x)/2:]))
		seen[name] = o.Observation()
	}
	return seen
}

// smoothed is the layer after smoothing for options.
func smoothed(t *testing.T, outliers bool, o quantize.SmoothOptions) (*ir.Model, *quantize.Smoother, []quantize.Smoothing) {
	t.Helper()
	m := layer(outliers)
	s, err := quantize.NewSmoother(m, o)
	require.NoError(t, err)
	require.Len(t, s.Inputs(), 4)
	seen := observed(t, outliers, s.Inputs())
	for _, v := range s.Inputs() {
		require.NoError(t, s.Add(v.Name, seen[v.Name]))
	}
	all, err := s.Fold()
	require.NoError(t, err)
	require.NoError(t, m.Validate())
	return m, s, all
}

// relative is the root of the mean squared error over that of the values.
func relative(want, got []float32) float64 {
	var signal, noise float64
	for i, v := range want {
		d := float64(v) - float64(got[i])
		signal += float64(v) * float64(v)
		noise += d * d
	}
	return math.Sqrt(noise / signal)
}

func TestSmoothing(t *testing.T) {
	want := runLayer(t, layer(false))["y"]
	require.Less(t, relative(want, runLayer(t, layer(true))["y"]), 1e-5, "the layer with outliers is the same function")
	half := 0.5
	for _, c := range []struct {
		why   string
		o     quantize.SmoothOptions
		gain  float64 // decibels, of each product
		least float64 // by how much the error of the layer shrinks
	}{
		{"dynamic", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}}, 8, 8},
		{"static", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}}, 8, 8},
		{"static, centred ranges", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}, SymmetricRange: true}, 8, 8},
		{"static, unsigned weights", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8, Int8: quantize.Int8Options{Weights: quantize.UnsignedInt8}}}, 8, 8},
		{"an alpha that is given", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}, Alpha: &half}, 4, 4},
		{"blocks, whose activations are rounded too", quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.Int8, BlockSize: 32}}, 4, 3},
		{"four bits", quantize.SmoothOptions{Options: quantize.Options{BlockSize: 32}}, 2, 1.5},
	} {
		m, s, all := smoothed(t, true, c.o)
		require.Less(t, relative(want, runLayer(t, m)["y"]), 1e-5, "%s: the function stays", c.why)
		require.Len(t, all, 4, c.why)
		for i, into := range []string{"norm", "values", "norm", "product"} {
			require.Equal(t, into, all[i].Into, "%s: %s", c.why, all[i].Input)
			require.Greater(t, all[i].After, all[i].Before+c.gain, "%s: %s", c.why, all[i].Input)
		}
		if c.o.Alpha != nil {
			require.Equal(t, half, all[0].Alpha)
		}
		o := c.o.Options
		o.Int8.Activations = s.Activations()
		apply(t, m, o)
		after := relative(want, runLayer(t, m)["y"])

		off := c.o
		off.Off, off.Alpha = true, nil
		plain, s, all := smoothed(t, true, off)
		require.Empty(t, all[0].Into)
		o.Int8.Activations = s.Activations()
		apply(t, plain, o)
		before := relative(want, runLayer(t, plain)["y"])
		require.Less(t, after*c.least, before, "%s: %g, without smoothing %g", c.why, after, before)
	}
}

// The ranges of static INT8: each method must serve, also where a token is far louder than all others.
func TestStaticRanges(t *testing.T) {
	want := runLayer(t, layer(false))["y"]
	for _, method := range quantize.RangeMethods() {
		o := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}, Range: method}
		m, s, _ := smoothed(t, false, o)
		require.Len(t, s.Activations(), 4)
		o.Options.Int8.Activations = s.Activations()
		apply(t, m, o.Options)
		require.Len(t, find(t, m, "QuantizeLinear"), 4, "%s: one for each tensor of activations", method)
		require.Less(t, relative(want, runLayer(t, m)["y"]), 0.03, method)
	}
}

// ONNX Runtime must turn static INT8 into integer kernels, whatever the levels: none of the four products
// may be left in floating point.
func TestStaticBecomesIntegers(t *testing.T) {
	for _, levels := range []quantize.Int8Weights{quantize.SignedInt8, quantize.UnsignedInt8} {
		o := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8, Int8: quantize.Int8Options{Weights: levels}}}
		m, s, _ := smoothed(t, true, o)
		o.Options.Int8.Activations = s.Activations()
		apply(t, m, o.Options)
		path := save(t, m)
		optimized := filepath.Join(filepath.Dir(path), "optimized.onnx")
		open(t, path, ort.SessionConfig{OptimizedModelPath: optimized})
		seen, err := ir.Load(optimized)
		require.NoError(t, err)
		defer seen.Close()
		require.Empty(t, find(t, seen, "MatMul"), levels)
		require.Len(t, find(t, seen, "MatMulIntegerToFloat"), 4, levels)
	}
}

// Where integers are expected to do badly blocks are taken, and the report says so; a rule has its way.
func TestUnsuitedProductsStayInBlocks(t *testing.T) {
	for _, c := range []struct {
		why   string
		least float64
		rules []string
		want  []string // in integers
	}{
		{"all of them suit", -100, nil, []string{"qkv.weight", "o.weight", "up.weight", "down.weight"}},
		{"no limit", 0, nil, []string{"qkv.weight", "o.weight", "up.weight", "down.weight"}},
		{"none of them does", 1000, nil, nil},
		{"a rule asks for integers", 1000, []string{"up.weight=dynamic-int8"}, []string{"up.weight"}},
	} {
		m, _, all := smoothed(t, true, quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.DynamicInt8}, Off: true})
		expected := quantize.Expected(all)
		require.Len(t, expected, 4)
		p := apply(t, m, quantize.Options{
			Precision: quantize.DynamicInt8, Rules: rules(t, c.rules...), Int8: quantize.Int8Options{Expected: expected, LeastSNR: c.least},
		})
		require.Len(t, find(t, m, "DynamicQuantizeMatMul"), len(c.want), c.why)
		require.Len(t, find(t, m, "MatMulNBits"), 4-len(c.want), c.why)
		for _, r := range p.Report().Tensors {
			require.Equal(t, expected[r.Tensor], r.ProductSNR, c.why)
			if slices.Contains(c.want, r.Tensor) {
				require.Empty(t, r.Reason, c.why)
				require.Equal(t, quantize.Method("dynamic-int8"), r.Method, c.why)
			} else {
				require.Contains(t, r.Reason, "dB between signal and noise expected in dynamic-int8", c.why)
				require.Equal(t, 128, r.BlockSize, c.why)
			}
		}
	}
}

func TestSmoothingRefusals(t *testing.T) {
	m := layer(false)
	bad := 1.5
	_, err := quantize.NewSmoother(m, quantize.SmoothOptions{Alpha: &bad})
	require.ErrorContains(t, err, "alpha 1.5: it must be 0 to 1")
	_, err = quantize.NewSmoother(m, quantize.SmoothOptions{Range: "widest"})
	require.ErrorContains(t, err, `range "widest": it must be minmax, average, percentile, entropy or mse`)
	s, err := quantize.NewSmoother(m, quantize.SmoothOptions{})
	require.NoError(t, err)
	x := s.Inputs()[0].Name
	require.ErrorContains(t, s.Add("nothing", &quantize.Observation{}), "nothing is no input of a product")
	require.ErrorContains(t, s.Add(x, &quantize.Observation{}), "0 channels were seen, where there are 64")

	o := quantize.NewObserver(layerWidth, 0)
	values := weights(1, 4*layerWidth)
	values[70] = float32(math.NaN())
	require.NoError(t, o.Add(values))
	require.ErrorContains(t, s.Add(x, o.Observation()), "channel 6 was seen from NaN to NaN")
	require.Error(t, o.Add(values[:7]), "no whole token")
}

// Channels of which nothing is seen, and those that no weight reads, must leave finite numbers and the
// same function.
func TestSmoothingSilentChannels(t *testing.T) {
	want := runLayer(t, layer(false))["y"]
	m := layer(false)
	s, err := quantize.NewSmoother(m, quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.StaticInt8}})
	require.NoError(t, err)
	for _, v := range s.Inputs() {
		k := layerWidth
		if v.Name == s.Inputs()[3].Name {
			k = layerMLP
		}
		o := quantize.NewObserver(k, 0)
		require.NoError(t, o.Add(make([]float32, 3*k)), "nothing but zeros")
		require.NoError(t, s.Add(v.Name, o.Observation()))
	}
	_, err = s.Fold()
	require.NoError(t, err)
	require.Less(t, relative(want, runLayer(t, m)["y"]), 1e-5)
	for name, a := range s.Activations() {
		require.Equal(t, quantize.Activation{Scale: 1}, a, name)
	}
}

func TestEqualize(t *testing.T) {
	o := quantize.SmoothOptions{Options: quantize.Options{Precision: quantize.Int8, BlockSize: 32}}
	m := layer(false)
	before, err := ir.Encode(m)
	require.NoError(t, err)
	changed, err := quantize.Equalize(context.Background(), m, o)
	require.NoError(t, err)
	require.Empty(t, changed)
	after, err := ir.Encode(m)
	require.NoError(t, err)
	require.Equal(t, before, after, "a model without outliers stays as it is")

	want := runLayer(t, layer(false))["y"]
	m = layer(true)
	changed, err = quantize.Equalize(context.Background(), m, o)
	require.NoError(t, err)
	require.Len(t, changed, 4)
	require.Less(t, relative(want, runLayer(t, m)["y"]), 1e-5)
	apply(t, m, o.Options)
	plain := layer(true)
	apply(t, plain, o.Options)
	require.Less(t, 3*relative(want, runLayer(t, m)["y"]), relative(want, runLayer(t, plain)["y"]))
}
