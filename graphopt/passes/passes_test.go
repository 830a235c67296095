package passes_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
)

// The published shapes, with weights that have no content.
var (
	qwen06B = graphtest.Decoder{Layers: 28, Heads: 16, KVHeads: 8, HeadDim: 128, Hidden: 1024, MLP: 3072, Vocab: 151936, Tied: true, ShapeOnly: true}
	qwen32B = graphtest.Decoder{Layers: 64, Heads: 64, KVHeads: 8, HeadDim: 128, Hidden: 5120, MLP: 25600, Vocab: 151936, ShapeOnly: true}
)

// contextLength is that of all Qwen3 models without YaRN.
const contextLength = 40960

func optimise(tb testing.TB, m *ir.Model, o g.Options) *g.Report {
	tb.Helper()
	if o.MaxPositions == 0 {
		o.MaxPositions = contextLength
	}
	r, err := g.Run(context.Background(), m, passes.All(), o)
	require.NoError(tb, err)
	return r
}

// The list of the repository holds what Check asks of it, and says what each pass needs.
func TestAllPasses(t *testing.T) {
	all := passes.All()
	require.NoError(t, g.Check(all, g.Options{}))
	seen := map[string]bool{}
	for _, p := range all {
		seen[p.Name] = true
		require.NotEmpty(t, p.Needs, p.Name)
	}
	for _, p := range all {
		for _, a := range p.After {
			require.True(t, seen[a], "%s comes after %s, which there is not", p.Name, a)
		}
	}
}

// Bodies and functions are carried through as they are; what they read from outside stays.
func TestBodies(t *testing.T) {
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	inputs := graphtest.ControlFlowInputs()
	want := graphtest.Open(t, m).Run(t, inputs)
	bodies := dumpBodies(t, m)
	require.NotEmpty(t, bodies)
	_, err = g.Run(context.Background(), m, passes.All(), g.Options{})
	require.NoError(t, err)
	require.Equal(t, bodies, dumpBodies(t, m))
	require.Len(t, m.Functions, 1)
	graphtest.Near(t, want, graphtest.Open(t, m).Run(t, inputs), 0)
}

// dumpBodies gives the lines of a dump that belong to bodies.
func dumpBodies(t *testing.T, m *ir.Model) (lines []string) {
	t.Helper()
	for _, l := range strings.Split(dump(t, m), "\n") {
		if strings.HasPrefix(l, "    ") {
			lines = append(lines, l)
		}
	}
	return lines
}

func dump(t *testing.T, m *ir.Model) string {
	t.Helper()
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	return b.String()
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	m := graphtest.Decoder{Layers: 2}.Model(t)
	seen := map[string]bool{}
	_, err := g.Run(ctx, m, passes.All(), g.Options{MaxPositions: 64, Trace: func(e g.Event) {
		seen[e.Pass] = true
		cancel()
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, seen, 1, "the first pass that finds something is the last to run")
}

// Two runs give the same bytes, and so do one thread and many.
func TestDeterminism(t *testing.T) {
	optimise := func() string {
		m := graphtest.Decoder{Layers: 3, OwnTables: true, ComputedShapes: true}.Model(t)
		var trace strings.Builder
		_, err := g.Run(context.Background(), m, passes.All(), g.Options{MaxPositions: 3000, Trace: func(e g.Event) { fmt.Fprintln(&trace, e) }})
		require.NoError(t, err)
		b, err := ir.Encode(m)
		require.NoError(t, err)
		return trace.String() + string(b)
	}
	want := optimise()
	for range 4 {
		require.True(t, want == optimise(), "two runs differ")
	}
	for _, n := range []int{1, 2, 7} {
		before := runtime.GOMAXPROCS(n)
		got := optimise()
		runtime.GOMAXPROCS(before)
		require.True(t, want == got, "GOMAXPROCS %d", n)
	}
}

func operators(m *ir.Model) map[string]int {
	h := map[string]int{}
	for _, n := range m.Graph.Nodes() {
		h[n.OpType]++
	}
	return h
}

// One function, however it is written, becomes one graph: the same operators, as often.
func TestOneGraph(t *testing.T) {
	form := graphtest.Decoder{Layers: 3, Tied: true, Vocab: 400} // a table that is too large to be folded
	m := form.Model(t)
	want := graphtest.Generate(t, m, 1, 5, 1, 3)
	optimise(t, m, g.Options{})
	require.Equal(t, map[string]int{
		"Gather": 2, "GroupQueryAttention": 3, "MatMul": 12, "FusedMatMul": 1, "Split": 6, "QuickGelu": 3, "Mul": 3,
		"SimplifiedLayerNormalization": 7, "SkipSimplifiedLayerNormalization": 6, "Reshape": 12,
		"ReduceSum": 1, "Sub": 1, "Cast": 2, "Shape": 1, "Neg": 1, "Slice": 2,
	}, operators(m))
	graphtest.Near(t, want, graphtest.Generate(t, m, 1, 5, 1, 3), 2e-5)
	for why, change := range map[string]func(*graphtest.Decoder){
		"commuted":        func(d *graphtest.Decoder) { d.Commuted = true },
		"computed shapes": func(d *graphtest.Decoder) { d.ComputedShapes = true },
		"own tables":      func(d *graphtest.Decoder) { d.OwnTables = true },
		"half tables":     func(d *graphtest.Decoder) { d.HalfTables = true },
		"squares":         func(d *graphtest.Decoder) { d.MulSquare = true },
		"safe softmax":    func(d *graphtest.Decoder) { d.SafeSoftmax, d.ScaleQuery = true, true },
		"from the mask":   func(d *graphtest.Decoder) { d.Positions = graphtest.FromMask },
		"Trilu":           func(d *graphtest.Decoder) { d.Mask = graphtest.CausalTrilu },
	} {
		other := with(form, change).Model(t)
		optimise(t, other, g.Options{})
		require.Equal(t, operators(m), operators(other), why)
		graphtest.Near(t, want, graphtest.Generate(t, other, 1, 5, 1, 3), 2e-5)
	}
}

func BenchmarkOptimise(b *testing.B) {
	for _, c := range []struct {
		name string
		form graphtest.Decoder
	}{
		{"0.6B", qwen06B},
		{"0.6B-traced", with(qwen06B, func(d *graphtest.Decoder) { d.OwnTables, d.ComputedShapes = true, true })},
		{"0.6B-fp16", with(qwen06B, func(d *graphtest.Decoder) { d.DType = ir.Float16 })},
		{"32B", qwen32B},
		{"32B-declined", with(qwen32B, func(d *graphtest.Decoder) { d.Mask = graphtest.SlidingWindow; d.OwnTables = true })},
	} {
		b.Run(c.name, func(b *testing.B) {
			var before, after runtime.MemStats
			for range b.N {
				b.StopTimer()
				m := c.form.Model(b)
				runtime.GC()
				runtime.ReadMemStats(&before)
				b.StartTimer()
				optimise(b, m, g.Options{})
				runtime.ReadMemStats(&after)
			}
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/1e6, "MB-allocated")
			b.ReportMetric(float64(after.Sys)/1e6, "MB-of-system")
		})
	}
}

func with(d graphtest.Decoder, change func(*graphtest.Decoder)) graphtest.Decoder {
	change(&d)
	return d
}
