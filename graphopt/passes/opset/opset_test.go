package opset_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/opset"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{opset.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

// old writes a graph as opset 11 has it.
func old(version int64, softmax ...*ir.Attr) *graphtest.Sketch {
	s := graphtest.NewSketch()
	s.Model.Opsets[0].Version = version
	x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, 4), ir.Sym("b"), ir.Fixed(3), ir.Fixed(4))
	wide := s.Op("Unsqueeze", []*ir.Value{x}, ir.Ints("axes", 0, -1))
	s.Output(s.Op("Squeeze", []*ir.Value{wide}, ir.Ints("axes", 0)), "squeezed")
	s.Output(s.Op("Squeeze", []*ir.Value{wide}), "all squeezed")
	s.Output(s.Op("ReduceSum", []*ir.Value{x}, ir.Ints("axes", -1), ir.Int("keepdims", 0)), "sum")
	s.Output(s.Op("ReduceSum", []*ir.Value{x}), "total")
	s.Output(s.Op("ReduceMean", []*ir.Value{x}, ir.Ints("axes", 1)), "mean")
	parts := s.Graph.Add(ir.NodeSpec{Op: "Split", Inputs: []*ir.Value{x}, Outputs: []string{"p", "q"}, Attrs: []*ir.Attr{ir.Ints("split", 1, 3), ir.Int("axis", 2)}})
	s.Output(parts.Output(0), "first part")
	s.Output(parts.Output(1), "second part")
	s.Output(s.Op("Softmax", []*ir.Value{x}, softmax...), "softmax")
	return s
}

func TestConverts(t *testing.T) {
	for why, softmax := range map[string][]*ir.Attr{
		"the last axis, from the end":   {ir.Int("axis", -1)},
		"the last axis, from the start": {ir.Int("axis", 2)},
	} {
		t.Run(why, func(t *testing.T) {
			s := old(11, softmax...)
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Empty(t, declined)
			require.Equal(t, 5, n, "four nodes and the model")
			require.EqualValues(t, 15, s.Model.Opset(""))
			graphtest.Near(t, want, s.Run(t), 0)
			var b strings.Builder
			require.NoError(t, g.Dump(&b, s.Model))
			if why == "the last axis, from the end" {
				graphtest.Golden(t, "opset", b.String())
			}
		})
	}
}

func TestDeclines(t *testing.T) {
	with := func(op string) func() *graphtest.Sketch {
		return func() *graphtest.Sketch {
			s := old(12, ir.Int("axis", -1))
			s.Output(s.Op(op, []*ir.Value{s.Graph.Inputs()[0]}), "more")
			return s
		}
	}
	for why, c := range map[string]struct {
		build  func() *graphtest.Sketch
		reason string
	}{
		"a softmax over more than the last axis": {func() *graphtest.Sketch { return old(11, ir.Int("axis", 1)) }, "the softmax runs over axis 1"},
		"a softmax over all axes from 1":         {func() *graphtest.Sketch { return old(11) }, "the softmax runs over axis 1"},
		"an operator that changed":               {with("Hardmax"), "Hardmax changed in opset 13"},
		"an opset from before operands":          {func() *graphtest.Sketch { return old(9) }, "opset 9 is older than 11"},
	} {
		t.Run(why, func(t *testing.T) {
			s := c.build()
			version := s.Model.Opset("")
			n, declined := run(t, s.Model)
			require.Zero(t, n)
			require.Contains(t, declined, c.reason)
			require.Equal(t, version, s.Model.Opset(""))
			require.NotNil(t, graphtest.Named(t, s.Model, "/m/Unsqueeze").Attr("axes"), "nothing is half converted")
		})
	}
}

func TestNewer(t *testing.T) {
	for _, version := range []int64{15, 18, 21} {
		m := graphtest.Decoder{}.Model(t)
		m.Opsets[0].Version = version
		n, declined := run(t, m)
		require.Zero(t, n)
		require.Empty(t, declined)
		require.Equal(t, version, m.Opset(""))
	}
	m := graphtest.Decoder{}.Model(t)
	m.Opsets[0].Version = 13
	n, _ := run(t, m)
	require.Equal(t, 1, n, "nothing to rewrite from opset 13 on")
	require.EqualValues(t, 15, m.Opset(""))
}

// Bodies are written in the model's opset too.
func TestBodies(t *testing.T) {
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	m.Opsets[0].Version = 12
	var inner *ir.Node
	m.Graph.Walk(func(n *ir.Node) {
		if n.OpType == "Exp" {
			inner = n
		}
	})
	inner.OpType, inner.Attrs = "ReduceSum", []*ir.Attr{ir.Ints("axes", 1)}
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Equal(t, 2, n)
	require.Nil(t, inner.Attr("axes"))
	require.NotNil(t, inner.Input(1).Constant())
	require.NoError(t, m.Validate())
}
