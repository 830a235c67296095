package graphtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Tensors are inputs or outputs by name.
type Tensors map[string]*interp.Tensor

// Session is a model in ONNX Runtime.
type Session struct{ s *ort.Session }

// Open loads a model, without ONNX Runtime's own optimisations, so that what runs is what the graph says.
// The session closes with the test.
func Open(tb testing.TB, m *ir.Model) *Session {
	tb.Helper()
	s, err := TryOpen(tb, m)
	require.NoError(tb, err)
	return s
}

// TryOpen is Open for models that ONNX Runtime may refuse. A missing ONNX Runtime fails the test.
func TryOpen(tb testing.TB, m *ir.Model) (*Session, error) {
	tb.Helper()
	require.NoError(tb, ort.Init(ort.Environment{}))
	b, err := ir.Encode(m)
	require.NoError(tb, err)
	s, err := ort.NewSessionFromBytes(b, ort.SessionConfig{Threads: 1, Optimization: ort.OptimizeNone})
	if err != nil {
		return nil, err
	}
	tb.Cleanup(s.Close)
	return &Session{s}, nil
}

// Close releases the session before the test ends.
func (s *Session) Close() { s.s.Close() }

// Run computes all outputs.
func (s *Session) Run(tb testing.TB, in Tensors) Tensors {
	tb.Helper()
	out, err := s.TryRun(tb, in)
	require.NoError(tb, err)
	return out
}

// TryRun is Run for runs that may fail.
func (s *Session) TryRun(tb testing.TB, in Tensors) (Tensors, error) {
	tb.Helper()
	given := map[string]*ort.Tensor{}
	for name, t := range in {
		given[name] = toORT(tb, t)
		defer given[name].Close()
	}
	got, err := s.s.Run(context.Background(), given, nil)
	if err != nil {
		return nil, err
	}
	out := Tensors{}
	for name, t := range got {
		out[name] = fromORT(tb, t)
		t.Close()
	}
	return out, nil
}

func toORT(tb testing.TB, t *interp.Tensor) *ort.Tensor {
	tb.Helper()
	c, err := t.IR()
	require.NoError(tb, err)
	b, err := c.Bytes()
	require.NoError(tb, err)
	o, err := ort.NewTensor(ort.DType(t.DType), t.Shape...)
	require.NoError(tb, err)
	copy(o.Bytes(), b)
	return o
}

func fromORT(tb testing.TB, o *ort.Tensor) *interp.Tensor {
	tb.Helper()
	c, err := ir.NewTensor(ir.DType(o.DType()), slices.Clone(o.Shape()), ir.NewBuffer(slices.Clone(o.Bytes())))
	require.NoError(tb, err)
	t, err := interp.FromIR(c)
	require.NoError(tb, err)
	return t
}

// Near requires the same outputs, of the same types and shapes, with elements that differ by no more
// than tolerance times the larger of one and the largest element.
func Near(tb testing.TB, want, got Tensors, tolerance float64) {
	tb.Helper()
	require.Equal(tb, sortedNames(want), sortedNames(got))
	for _, name := range sortedNames(want) {
		require.NoError(tb, Differ(want[name], got[name], tolerance), "output %s", name)
	}
}

// Differ says how two tensors differ, nil where they do not.
func Differ(w, g *interp.Tensor, tolerance float64) error {
	if w.DType != g.DType || !slices.Equal(w.Shape, g.Shape) {
		return fmt.Errorf("%v%v, want %v%v", g.DType, g.Shape, w.DType, w.Shape)
	}
	if !slices.Equal(w.I, g.I) {
		return fmt.Errorf("%v, want %v", g.I, w.I)
	}
	largest := 1.0
	for _, x := range w.F {
		if !math.IsInf(x, 0) {
			largest = math.Max(largest, math.Abs(x))
		}
	}
	for i, x := range w.F {
		y := g.F[i]
		if x == y || math.IsNaN(x) && math.IsNaN(y) {
			continue
		}
		if d := math.Abs(x - y); !(d <= tolerance*largest) {
			return fmt.Errorf("element %d is %g, want %g: off by %.2g of %.3g", i, y, x, d, largest)
		}
	}
	return nil
}

func sortedNames(t Tensors) []string {
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// Prompt makes the inputs of a decoder's first run: n tokens in each of batch rows, without padding
// and without a past. The tokens are the same each time.
func Prompt(m *ir.Model, batch, n int) Tensors {
	return step(m, rand.New(rand.NewPCG(3, 3)), batch, 0, n, nil)
}

// step makes the inputs of a run of n tokens behind those of past. It gives position_ids and a past
// where the model has them.
func step(m *ir.Model, rng *rand.Rand, batch, before, n int, past Tensors) Tensors {
	in := Tensors{}
	for _, v := range m.Graph.Inputs() {
		switch {
		case v.Name == "input_ids":
			in[v.Name] = counted(batch, n, func(int) int64 { return int64(rng.IntN(10)) })
		case v.Name == "attention_mask":
			in[v.Name] = counted(batch, before+n, func(int) int64 { return 1 })
		case v.Name == "position_ids":
			in[v.Name] = counted(batch, n, func(j int) int64 { return int64(before + j) })
		case strings.HasPrefix(v.Name, "past_key_values.") && past[v.Name] != nil:
			in[v.Name] = past[v.Name]
		case strings.HasPrefix(v.Name, "past_key_values."):
			d := v.Type.Shape
			in[v.Name] = interp.ShapeOnly(v.Type.DType, int64(batch), d[1].Size, 0, d[3].Size)
		}
	}
	return in
}

// Generate runs a decoder in steps: steps[0] tokens, then steps[1] tokens behind them, and so on, in each
// of batch rows, and gives the outputs of all steps, the number of the step in front of their names.
// The inputs are the same each time.
func Generate(tb testing.TB, m *ir.Model, batch int, steps ...int) Tensors {
	tb.Helper()
	s := Open(tb, m)
	defer s.Close()
	rng := rand.New(rand.NewPCG(3, 3))
	past, all := Tensors{}, Tensors{}
	before := 0
	for i, n := range steps {
		for name, t := range s.Run(tb, step(m, rng, batch, before, n, past)) {
			all[fmt.Sprintf("%d.%s", i, name)] = t
			if rest, ok := strings.CutPrefix(name, "present."); ok {
				past["past_key_values."+rest] = t
			}
		}
		before += n
	}
	return all
}

// Behind runs a decoder once: n tokens behind a past of given length.
func Behind(tb testing.TB, m *ir.Model, batch, past, n int) Tensors {
	tb.Helper()
	in := Tensors{}
	for _, v := range m.Graph.Inputs() {
		switch {
		case v.Name == "input_ids":
			in[v.Name] = counted(batch, n, func(i int) int64 { return int64(3*i) % 10 })
		case v.Name == "attention_mask":
			in[v.Name] = counted(batch, past+n, func(int) int64 { return 1 })
		case v.Name == "position_ids":
			in[v.Name] = counted(batch, n, func(i int) int64 { return int64(past + i) })
		case strings.HasPrefix(v.Name, "past_key_values."):
			in[v.Name] = Ramp(v.Type.DType, int64(batch), v.Type.Shape[1].Size, int64(past), v.Type.Shape[3].Size)
		}
	}
	return Open(tb, m).Run(tb, in)
}

func counted(rows, n int, at func(i int) int64) *interp.Tensor {
	t := interp.Ints([]int64{int64(rows), int64(n)}, make([]int64, rows*n)...)
	for i := range t.I {
		t.I[i] = at(i % n)
	}
	return t
}
