package quantize_test

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// lookupAndProduct is a model with one table: rows are looked up, and multiplied with the table again.
//
//	input_ids [n] → Gather(table) → embedding [n, k]
//	x [m, k] → MatMul(·, tableᵀ) → logits [m, v]
func lookupAndProduct(table *ir.Tensor) *ir.Model {
	m := ir.NewModel("lookup", 10, 21)
	g := m.Graph
	ids := g.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Sym("n")))
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("m"), ir.Fixed(table.Shape[1])))
	e := g.AddInitializer("table", table)
	embedding := g.Op("Gather", "gather", []*ir.Value{e, ids})
	embedding.Name, embedding.Type = g.Fresh("embedding"), ir.TensorType(ir.Float32, ir.Sym("n"), ir.Fixed(table.Shape[1]))
	turned := g.Op("Transpose", "turn", []*ir.Value{e}, ir.Ints("perm", 1, 0))
	logits := g.Op("MatMul", "head", []*ir.Value{x, turned})
	logits.Name, logits.Type = g.Fresh("logits"), ir.TensorType(ir.Float32, ir.Sym("m"), ir.Fixed(table.Shape[0]))
	g.AddOutput(embedding)
	g.AddOutput(logits)
	return m
}

func tensor[T ort.Element](t *testing.T, dtype ort.DType, values []T, shape ...int64) *ort.Tensor {
	t.Helper()
	x, err := ort.NewTensor(dtype, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	copy(ort.Data[T](x), values)
	return x
}

// ONNX Runtime must read from the saved file what this package reads: rows bit by bit, products to the
// precision of the accuracy level.
func TestONNXRuntimeAgrees(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	const v, rows = 37, 3
	for _, c := range []struct {
		why string
		k   int64
		o   quantize.Options
	}{
		{"the default", 256, quantize.Options{}},
		{"no zero points: the operators must imply the same one", 256, quantize.Options{Symmetric: true}},
		{"fp32 products", 256, quantize.Options{AccuracyLevel: 1}},
		{"smallest block, odd number of blocks, so padded zero points", 48, quantize.Options{BlockSize: 16}},
		{"large blocks", 512, quantize.Options{BlockSize: 256, Symmetric: true}},
		{"block 128", 384, quantize.Options{BlockSize: 128}},
		{"rows that do not fill their last block", 80, quantize.Options{AccuracyLevel: 1}},
		{"the same, in int8 products", 80, quantize.Options{}},
		{"less than one block", 48, quantize.Options{BlockSize: 128}},
		{"grids that do not span their blocks", 256, quantize.Options{Method: quantize.HQQ}},
		{"scales in float16", 256, quantize.Options{HalfScales: true}},
		{"scales in float16, no zero points, padding", 80, quantize.Options{HalfScales: true, Symmetric: true}},
		{"8 bits", 256, quantize.Options{Precision: quantize.Int8}},
		{"8 bits without zero points", 256, quantize.Options{Precision: quantize.Int8, Symmetric: true}},
		{"8 bits, rows that do not fill their last block", 80, quantize.Options{Precision: quantize.Int8, BlockSize: 64}},
	} {
		m := lookupAndProduct(ir.Float32Tensor(weights(11, v*c.k), v, c.k))
		apply(t, m, c.o)
		table := matrixOf(t, find(t, m, "MatMulNBits")[0])
		path := filepath.Join(t.TempDir(), "model.onnx")
		require.NoError(t, ir.Save(context.Background(), m, path, ir.SaveOptions{}))

		s, err := ort.NewSession(path, ort.SessionConfig{Threads: 1})
		require.NoError(t, err, c.why)
		defer s.Close()
		ids := make([]int64, v)
		for i := range ids {
			ids[i] = int64(i)
		}
		x := weights(12, rows*c.k)
		out, err := s.Run(context.Background(), map[string]*ort.Tensor{
			"input_ids": tensor(t, ort.Int64, ids, v),
			"x":         tensor(t, ort.Float32, x, rows, c.k),
		}, nil)
		require.NoError(t, err, c.why)
		embedding, logits := ort.Data[float32](out["embedding"]), ort.Data[float32](out["logits"])
		// The activations of an int8 product have 127 steps a block of the largest magnitude, 0.4 here.
		tolerance := 1e-5
		if c.o.AccuracyLevel != 1 {
			tolerance = 0.4 / 127 * 0.1 * math.Sqrt(float64(c.k)) * 1.5
		}
		for n := range int64(v) {
			want := row(t, table, n)
			require.Equal(t, want, embedding[n*c.k:(n+1)*c.k], "%s: row %d", c.why, n)
			for r := range int64(rows) {
				sum := 0.0
				for i := range c.k {
					sum += float64(want[i]) * float64(x[r*c.k+i])
				}
				require.InDelta(t, sum, logits[r*v+n], tolerance, "%s: product of row %d", c.why, n)
			}
		}
		for _, y := range out {
			y.Close()
		}
	}
}
