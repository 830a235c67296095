package passes_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// generator strings random operators together, among them pieces that rules look for, whole or with
// something amiss. All activations have shape [b, s, width].
type generator struct {
	*graphtest.Sketch
	rng  *rand.Rand
	pool []activation
}

type activation struct {
	v     *ir.Value
	width int64
}

func (g *generator) pick() activation        { return g.pool[g.rng.IntN(len(g.pool))] }
func (g *generator) one(of ...string) string { return of[g.rng.IntN(len(of))] }
func (g *generator) chance(n int) bool       { return g.rng.IntN(n) == 0 }
func (g *generator) add(v *ir.Value, width int64) {
	g.pool = append(g.pool, activation{v, width})
}

// like picks an activation of this width, which may be x itself.
func (g *generator) like(width int64) *ir.Value {
	for {
		if a := g.pick(); a.width == width {
			return a.v
		}
	}
}

func (g *generator) constant(shape ...int64) *ir.Value {
	n, err := ir.NumElements(shape)
	if err != nil {
		panic(err)
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(g.rng.IntN(33)-16) / 16
	}
	return g.Graph.AddInitializer(g.Graph.Fresh("c"), ir.Float32Tensor(v, shape...))
}

func (g *generator) pair(op string, a, b *ir.Value) *ir.Value {
	if g.chance(2) {
		a, b = b, a
	}
	return g.Op(op, []*ir.Value{a, b})
}

// step adds one operator or piece.
func (g *generator) step() {
	a := g.pick()
	switch g.rng.IntN(11) {
	case 0: // elementwise, tame enough for sums to stay small
		g.add(g.Op(g.one("Neg", "Sigmoid", "Identity", "Abs", "Sin"), []*ir.Value{a.v}), a.width)
	case 1: // residual
		g.add(g.pair(g.one("Add", "Sub", "Max"), a.v, g.like(a.width)), a.width)
	case 2: // constants of all the shapes that broadcast
		shapes := [][]int64{{}, {1}, {a.width}, {1, a.width}, {1, 1, a.width}, {1, 1, 1}}
		c := g.constant(shapes[g.rng.IntN(len(shapes))]...)
		if g.chance(3) {
			c = g.Op("Neg", []*ir.Value{c}) // folds
		}
		g.add(g.pair(g.one("Add", "Mul"), a.v, c), a.width)
	case 3: // products of one value
		for range 1 + g.rng.IntN(3) {
			width := int64(4 + 2*g.rng.IntN(3))
			g.add(g.scaled(g.Op("MatMul", []*ir.Value{a.v, g.constant(a.width, width)})), width)
		}
	case 4: // a transposed table
		width := int64(4 + 2*g.rng.IntN(3))
		perm := ir.Ints("perm", 1, 0)
		table := g.constant(width, a.width)
		if g.chance(2) { // and something reads it as it is
			g.Output(g.Op("Neg", []*ir.Value{table}), "table")
		}
		g.add(g.scaled(g.Op("MatMul", []*ir.Value{a.v, g.Op("Transpose", []*ir.Value{table}, perm)})), width)
	case 5: // SiLU, or the gate of something else
		x := a.v
		if g.chance(3) {
			x = g.like(a.width)
		}
		g.add(g.pair("Mul", a.v, g.Op("Sigmoid", []*ir.Value{x})), a.width)
	case 6, 7:
		g.norm(a)
	case 8: // shapes computed from shapes
		half := a.width / 2
		dim := func(i int64) *ir.Value {
			return g.Op("Shape", []*ir.Value{a.v}, ir.Int("start", i), ir.Int("end", i+1))
		}
		split := g.Op("Reshape", []*ir.Value{a.v, g.Op("Concat", []*ir.Value{dim(0), dim(1), g.Ints(2, half)}, ir.Int("axis", 0))})
		turned := g.Op("Transpose", []*ir.Value{split}, ir.Ints("perm", 0, 1, 3, 2))
		g.add(g.Op("Reshape", []*ir.Value{turned, g.Op("Concat", []*ir.Value{dim(0), dim(1), g.Ints(-1)}, ir.Int("axis", 0))}), a.width)
	case 9: // rows that mix
		g.add(g.scaled(g.Op("CumSum", []*ir.Value{a.v, g.Graph.AddInitializer(g.Graph.Fresh("axis"), ir.Int64Scalar(int64(g.rng.IntN(3))))})), a.width)
	case 10:
		if g.chance(2) {
			g.Output(g.Op("Neg", []*ir.Value{a.v}), "inner")
		} else if !a.v.IsOutput() && !a.v.IsInput() {
			g.Output(a.v, "inner")
		}
	}
}

// scaled keeps sums of products small.
func (g *generator) scaled(v *ir.Value) *ir.Value {
	return g.Op("Mul", []*ir.Value{v, g.Floats("scale", ir.Float32, 0.25)})
}

// norm is a normalisation in one of its forms, or nearly so.
func (g *generator) norm(a activation) {
	x := a.v
	if g.chance(2) {
		x = g.pair("Add", a.v, g.like(a.width))
	}
	square := g.Op("Pow", []*ir.Value{x, g.Floats("p", ir.Float32, 2)})
	if g.chance(2) {
		square = g.Op("Mul", []*ir.Value{x, x})
	}
	axis := int64(-1)
	if g.chance(5) {
		axis = int64(g.rng.IntN(3))
	}
	mean := g.Op("ReduceMean", []*ir.Value{square, g.Ints(axis)}, ir.Int("keepdims", 1))
	root := g.Op("Sqrt", []*ir.Value{g.pair("Add", mean, g.Floats("eps", ir.Float32, 1e-3))})
	var y *ir.Value
	switch g.rng.IntN(3) {
	case 0:
		y = g.pair("Mul", x, g.Op("Reciprocal", []*ir.Value{root}))
	case 1:
		y = g.Op("Div", []*ir.Value{x, root})
	case 2:
		y = g.pair("Mul", x, g.Op("Div", []*ir.Value{g.Floats("one", ir.Float32, 1), root}))
	}
	shape := []int64{a.width}
	if g.chance(6) {
		shape = []int64{1}
	}
	g.add(g.pair("Mul", y, g.constant(shape...)), a.width)
	if g.chance(3) {
		g.add(x, a.width)
	}
	if g.chance(8) {
		g.Output(g.Op("Neg", []*ir.Value{g.choice(mean, root, square)}), "inner")
	}
}

func (g *generator) choice(vs ...*ir.Value) *ir.Value { return vs[g.rng.IntN(len(vs))] }

// generate makes a graph of about n steps.
func generate(seed uint64, n int) *graphtest.Sketch {
	gen := &generator{Sketch: graphtest.NewSketch(), rng: rand.New(rand.NewPCG(seed, 1))}
	for i, width := range []int64{4, 4, 6, 8} {
		name := fmt.Sprintf("x%d", i)
		gen.add(gen.Input(name, graphtest.Ramp(ir.Float32, 2, 3, width), ir.Sym("b"), ir.Sym("s"), ir.Fixed(width)), width)
	}
	for range n {
		gen.step()
	}
	last := gen.pool[len(gen.pool)-1]
	gen.Output(gen.Op("MatMul", []*ir.Value{last.v, gen.constant(last.width, 5)}), "logits")
	for range 2 {
		gen.Output(gen.Op("Identity", []*ir.Value{gen.pick().v}), "out")
	}
	return gen.Sketch
}

// check optimises a graph and requires the same outputs, and says what was applied.
func check(t *testing.T, s *graphtest.Sketch, seed uint64, applied map[string]int) {
	want := s.Run(t)
	var before strings.Builder
	require.NoError(t, g.Dump(&before, s.Model))
	var without []string
	if seed%2 == 0 {
		without = []string{"constants"} // which folds tables as small as those here
	}
	optimise(t, s.Model, g.Options{Disable: without, Trace: func(e g.Event) {
		if e.Kind == g.Applied {
			applied[e.Pass]++
		}
	}})
	got := s.Run(t)
	for name, w := range want {
		if err := graphtest.Differ(w, got[name], 2e-5); err != nil {
			var after strings.Builder
			require.NoError(t, g.Dump(&after, s.Model))
			require.NoError(t, err, "output %s\n%s\n%s", name, before.String(), after.String())
		}
	}
}

var graphs = flag.Uint64("graphs", 250, "how many random graphs to optimise")

// Random graphs, optimised, give equal outputs in ONNX Runtime. A longer search:
//
//	go test ./graphopt/passes -run RandomGraphs -graphs 100000
func TestRandomGraphs(t *testing.T) {
	applied := map[string]int{}
	for seed := range *graphs {
		check(t, generate(seed, 4+int(seed%12)), seed, applied)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	for _, pass := range []string{"constants", "weights", "rmsnorm", "reshapes", "skip-norm", "projections", "silu", "tied-head", "last-logits"} {
		require.Greater(t, applied[pass], 10, "%s: the graphs do not try it", pass)
	}
}
