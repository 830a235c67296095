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

// product is x [m, k] → MatMul(·, w) → y [m, n].
func product(w *ir.Tensor) *ir.Model {
	m := ir.NewModel("product", 10, 21)
	g := m.Graph
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("m"), ir.Fixed(w.Shape[0])))
	h := g.Op("Identity", "input", []*ir.Value{x})
	h.Name = "h"
	y := g.Op("MatMul", "product/MatMul", []*ir.Value{h, g.AddInitializer("w", w)})
	z := g.Op("Neg", "out", []*ir.Value{y})
	z.Name, z.Type = "z", ir.TensorType(ir.Float32, ir.Sym("m"), ir.Fixed(w.Shape[1]))
	g.AddOutput(z)
	return m
}

func save(t *testing.T, m *ir.Model) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.onnx")
	require.NoError(t, ir.Save(context.Background(), m, path, ir.SaveOptions{}))
	return path
}

func open(t *testing.T, path string, c ort.SessionConfig) *ort.Session {
	t.Helper()
	require.NoError(t, ort.Init(ort.Environment{}))
	if c.Threads == 0 {
		c.Threads = 1
	}
	s, err := ort.NewSession(path, c)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func runProduct(t *testing.T, s *ort.Session, x []float32, k int64) []float32 {
	t.Helper()
	out, err := s.Run(context.Background(), map[string]*ort.Tensor{"x": tensor(t, ort.Float32, x, int64(len(x))/k, k)}, nil)
	require.NoError(t, err)
	t.Cleanup(out["z"].Close)
	return ort.Data[float32](out["z"])
}

// range8 is the asymmetric range of x in 8 bits.
func range8(x []float32) quantize.Activation {
	lo, hi := float32(0), float32(0)
	for _, v := range x {
		lo, hi = min(lo, v), max(hi, v)
	}
	s := (hi - lo) / 255
	return quantize.Activation{Scale: s, Zero: uint8(math.Round(float64(-lo / s)))}
}

func TestInt8Products(t *testing.T) {
	const m = 5
	for _, c := range []struct {
		why  string
		k, n int64
	}{
		{"whole tiles", 64, 64},
		{"a shard that ends within a tile, odd sizes", 37, 43},
		{"more than one shard", 24, 1029},
		{"one output", 48, 1},
	} {
		w := weights(5, c.k*c.n)
		for i := range w[:c.k] { // an output channel of zeros, where there are more
			if c.n > 1 {
				w[int64(i)*c.n+1] = 0
			}
		}
		x := weights(6, m*c.k)
		for _, levels := range []quantize.Int8Weights{"", quantize.SignedInt8, quantize.ReducedInt8, quantize.UnsignedInt8} {
			for _, precision := range []quantize.Precision{quantize.DynamicInt8, quantize.StaticInt8} {
				a := range8(x)
				o := quantize.Options{Precision: precision, Int8: quantize.Int8Options{
					Weights: levels, Activations: map[string]quantize.Activation{"h": a},
				}}
				model := product(ir.Float32Tensor(w, c.k, c.n))
				p := apply(t, model, o)
				s := open(t, save(t, model), ort.SessionConfig{})
				got := runProduct(t, s, x, c.k)
				top := 127.0
				if levels == quantize.ReducedInt8 {
					top = 63
				}
				for j := range c.n {
					largest := 0.0
					for i := range c.k {
						largest = max(largest, math.Abs(float64(w[i*c.n+j])))
					}
					scale := largest / top
					for r := range int64(m) {
						sum := 0.0
						for i := range c.k {
							q := 0.0
							if scale > 0 {
								q = math.RoundToEven(float64(w[i*c.n+j]) / scale)
							}
							v := min(max(math.RoundToEven(float64(x[r*c.k+i]/a.Scale))+float64(a.Zero), 0), 255) - float64(a.Zero)
							sum += q * scale * v * float64(a.Scale)
						}
						// Rounding of the scales in float32 can move a level here and there.
						require.InDelta(t, -sum, got[r*c.n+j], 2e-3, "%s, %s, %s: row %d, output %d", c.why, precision, levels, r, j)
					}
				}
				r := p.Report()
				require.Len(t, r.Tensors, 1)
				require.Greater(t, r.Tensors[0].SNR, 30.0)
				require.InDelta(t, 8+32/float64(c.k), r.BitsPerWeight(), 1+8/float64(c.k))
			}
		}
	}
}
