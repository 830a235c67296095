package quantize_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

const (
	kvHeads = 2
	kvDim   = 8
	kvWidth = kvHeads * kvDim
)

// attention is a graph with one GroupQueryAttention, which turns keys by tables of 16 positions whose cosines
// begin at reach.
func attention(dtype ir.DType, reach float32, attrs ...*ir.Attr) (*ir.Model, *ir.Node) {
	m := ir.NewModel("attention", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	input := func(name string, dtype ir.DType, dims ...ir.Dim) *ir.Value {
		return g.AddInput(name, ir.TensorType(dtype, dims...))
	}
	batch, length := ir.Sym("batch"), ir.Sym("sequence")
	cache := []ir.Dim{batch, ir.Fixed(kvHeads), ir.Sym("past"), ir.Fixed(kvDim)}
	table := make([]float32, 16*kvDim/2)
	for i := range table {
		table[i] = reach
	}
	n := g.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: "com.microsoft", Name: "attention",
		Inputs: []*ir.Value{
			input("q", ir.Float32, batch, length, ir.Fixed(2*kvWidth)), input("k", ir.Float32, batch, length, ir.Fixed(kvWidth)),
			input("v", ir.Float32, batch, length, ir.Fixed(kvWidth)),
			input("past_key_values.0.key", dtype, cache...), input("past_key_values.0.value", dtype, cache...),
			input("seqlens", ir.Int32, batch), input("total", ir.Int32),
			g.AddInitializer("cos", ir.Float32Tensor(table, 16, kvDim/2)), g.AddInitializer("sin", ir.Float32Tensor(table, 16, kvDim/2)),
		},
		Outputs: []string{"out", "present.0.key", "present.0.value"},
		Attrs:   append([]*ir.Attr{ir.Int("num_heads", 2*kvHeads), ir.Int("kv_num_heads", kvHeads), ir.Int("do_rotary", 1)}, attrs...),
	})
	for _, v := range n.Outputs() {
		v.Type = ir.TensorType(dtype, cache...)
		g.AddOutput(v)
	}
	return m, n
}

// scales quantises the cache after some tokens of k and v, and gives the scales of keys and values.
func scales(t *testing.T, reach float32, o quantize.KVOptions, k, v []float32, attrs ...*ir.Attr) (keys, values []float32) {
	t.Helper()
	m, n := attention(ir.Float32, reach, attrs...)
	kv, err := quantize.NewKV(m, o)
	require.NoError(t, err)
	require.Len(t, kv.Inputs(), 2)
	require.NoError(t, kv.Add("k", k, kvWidth))
	require.NoError(t, kv.Add("v", v, kvWidth))
	require.NoError(t, kv.Apply())
	require.NoError(t, m.Validate())
	for i := range 2 {
		s := n.Input(12 + i).Const
		if o.PerTensor {
			require.Equal(t, []int64{1}, s.Shape)
		} else {
			require.Equal(t, []int64{1, kvHeads, 1, kvDim}, s.Shape)
		}
		all, err := s.Float32s()
		require.NoError(t, err)
		if i == 0 {
			keys = all
		} else {
			values = all
		}
	}
	return keys, values
}

// The cache changes its type and width, and nothing else of its shape.
func TestKVTypes(t *testing.T) {
	for _, c := range []struct {
		o     quantize.KVOptions
		dtype ir.DType
		width int64
		bits  int64
		kind  string
	}{
		{quantize.KVOptions{}, ir.Int8, kvDim, 8, "PER_CHANNEL"},
		{quantize.KVOptions{Bits: 8, PerTensor: true}, ir.Int8, kvDim, 8, "PER_TENSOR"},
		{quantize.KVOptions{Bits: 4}, ir.Uint8, kvDim / 2, 4, "PER_CHANNEL"},
	} {
		m, n := attention(ir.Float32, 1)
		kv, err := quantize.NewKV(m, c.o)
		require.NoError(t, err)
		require.NoError(t, kv.Apply())
		for _, v := range []*ir.Value{n.Input(3), n.Input(4), n.Output(1), n.Output(2)} {
			require.Equal(t, c.dtype, v.Type.DType, v.Name)
			require.Equal(t, []ir.Dim{ir.Sym("batch"), ir.Fixed(kvHeads), ir.Sym("past"), ir.Fixed(c.width)}, v.Type.Shape, v.Name)
		}
		require.Equal(t, c.kind, n.Str("k_quant_type", ""))
		require.Equal(t, c.kind, n.Str("v_quant_type", ""))
		require.Equal(t, c.bits, n.Int("kv_cache_bit_width", 0))
	}
}

// A pair of channels that is turned must fit its scale at every angle, not only at those of the positions that were
// calibrated. Values are not turned.
func TestKVScalesHoldAtAllPositions(t *testing.T) {
	const tokens = 40
	k, v := weights(1, tokens*kvWidth), weights(2, tokens*kvWidth)
	for _, c := range []struct {
		why     string
		reach   float32
		attrs   []*ir.Attr
		partner func(d int) int
	}{
		{"halves", 1, nil, func(d int) int { return (d + kvDim/2) % kvDim }},
		{"neighbours", 1, []*ir.Attr{ir.Int("rotary_interleaved", 1)}, func(d int) int { return d ^ 1 }},
		{"tables that YaRN has scaled", 1.3, nil, func(d int) int { return (d + kvDim/2) % kvDim }},
	} {
		keys, values := scales(t, c.reach, quantize.KVOptions{}, k, v, c.attrs...)
		for i := range kvWidth {
			partner := i/kvDim*kvDim + c.partner(i%kvDim)
			longest, largest := 0.0, 0.0
			for at := 0; at < len(k); at += kvWidth {
				longest = max(longest, math.Hypot(float64(k[at+i]), float64(k[at+partner])))
				largest = max(largest, math.Abs(float64(v[at+i])))
			}
			require.InDelta(t, 1.3*float64(c.reach)*longest, 127*float64(keys[i]), 1e-5, "%s, channel %d", c.why, i)
			require.InDelta(t, 1.3*largest, 127*float64(values[i]), 1e-5, "%s, channel %d", c.why, i)
		}
	}
}

// 4 bits cut off what is rare, but never more than the bound, and one scale for all has the largest of them.
func TestKVSearch(t *testing.T) {
	const tokens = 2000 // more than are kept
	k, v := weights(1, tokens*kvWidth), weights(2, tokens*kvWidth)
	v[100*kvWidth+3] = 5
	_, eight := scales(t, 1, quantize.KVOptions{}, k, v)
	_, four := scales(t, 1, quantize.KVOptions{Bits: 4}, k, v)
	for i := range eight {
		top := 127 * eight[i] / 1.3
		require.LessOrEqual(t, 7*four[i], top*1.0001)
		require.GreaterOrEqual(t, 7*four[i], top*11/16*0.9999)
	}
	require.Less(t, 7*four[0], 0.95*127*eight[0]/1.3, "the largest of 2,000 normal numbers is worth less than a finer step")
	require.InDelta(t, 5, 7*four[3], 1e-5, "an outlier of 50 deviations is not")
	_, one := scales(t, 1, quantize.KVOptions{Bits: 4, PerTensor: true}, k, v)
	require.Len(t, one, 1)
	require.InDelta(t, 5, 7*one[0], 1e-5)
}

// What was never seen has a scale that a number can be divided by.
func TestKVSilent(t *testing.T) {
	zeros := make([]float32, kvWidth)
	keys, values := scales(t, 1, quantize.KVOptions{}, zeros, zeros)
	for _, s := range append(keys, values...) {
		require.InDelta(t, 1.3/127, s, 1e-6)
	}
	some := append([]float32{0, 3}, zeros[2:]...)
	_, values = scales(t, 1, quantize.KVOptions{}, zeros, some)
	for _, s := range values {
		require.InDelta(t, 3*1.3/127, s, 1e-6, "as the loudest of its head, or else of the layer")
	}
}

func TestKVRefusals(t *testing.T) {
	m, _ := attention(ir.Float32, 1)
	_, err := quantize.NewKV(m, quantize.KVOptions{Bits: 5})
	require.ErrorContains(t, err, "5 bits for the KV cache: it must be 8 or 4")

	_, err = quantize.NewKV(newTiny(ir.Float32).Model, quantize.KVOptions{})
	require.ErrorIs(t, err, quantize.ErrNoCache)
	require.ErrorContains(t, err, "optimize the model first")

	half, _ := attention(ir.Float16, 1)
	_, err = quantize.NewKV(half, quantize.KVOptions{})
	require.ErrorIs(t, err, quantize.ErrNoCache)
	require.ErrorContains(t, err, "past_key_values.0.key is float16: only caches in float32 are quantised")

	shared, n := attention(ir.Float32, 1)
	shared.Graph.AddOutput(shared.Graph.Op("Identity", "other", []*ir.Value{n.Input(3)}))
	_, err = quantize.NewKV(shared, quantize.KVOptions{})
	require.ErrorContains(t, err, "past_key_values.0.key is read by other nodes")

	kv, err := quantize.NewKV(m, quantize.KVOptions{})
	require.NoError(t, err)
	require.ErrorContains(t, kv.Add("k", make([]float32, 5), 5), "k has a width of 5")
	bad := make([]float32, kvWidth)
	bad[2] = float32(math.NaN())
	require.NoError(t, kv.Add("k", bad, kvWidth))
	err = kv.Apply()
	require.ErrorIs(t, err, quantize.ErrNotFinite)
	require.ErrorContains(t, err, "k, channel 2")
	require.Equal(t, ir.Float32, m.Graph.Inputs()[3].Type.DType, "nothing has changed")

	again, _ := attention(ir.Float32, 1)
	kv, err = quantize.NewKV(again, quantize.KVOptions{})
	require.NoError(t, err)
	require.NoError(t, kv.Apply())
	_, err = quantize.NewKV(again, quantize.KVOptions{})
	require.ErrorIs(t, err, quantize.ErrNoCache)
	require.ErrorContains(t, err, "it is quantised already")
}
