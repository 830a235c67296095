package graphopt_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// sketch is a graph in the making: one output, of which the pattern under test is the root.
type sketch struct {
	m    *ir.Model
	g    *ir.Graph
	x, y *ir.Value // inputs [2,3]
}

func newSketch() *sketch {
	m := ir.NewModel("test", 10, 21)
	t := ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3))
	return &sketch{m, m.Graph, m.Graph.AddInput("x", t), m.Graph.AddInput("y", t)}
}

func (s *sketch) op(op string, in ...*ir.Value) *ir.Value { return s.g.Op(op, op, in) }
func (s *sketch) float(v ...float32) *ir.Value {
	return s.g.AddInitializer(s.g.Fresh("c"), ir.Float32Tensor(v))
}

// events matches a pattern in the graph that ends in out, and gives what happened. A match of
// it is replaced by the node Matched of all that is bound to a, b and c.
func (s *sketch) events(t *testing.T, p *g.Pattern, out *ir.Value, check func(*g.Match) error) []g.Event {
	t.Helper()
	s.g.AddOutput(out)
	out.Name = "out"
	var events []g.Event
	rule := &g.Rule{Name: "rule", Doc: "under test", Pattern: p, Check: check, Rewrite: func(m *g.Match) (*ir.Value, error) {
		var in []*ir.Value
		for _, name := range []string{"a", "b", "c"} {
			if v := m.Value(name); v != nil {
				in = append(in, v)
			}
		}
		return m.Graph.Op("Matched", "matched", in), nil
	}}
	_, err := g.Run(context.Background(), s.m, []*g.Pass{pass("test", rule)}, g.Options{Trace: func(e g.Event) { events = append(events, e) }})
	require.NoError(t, err)
	return events
}

func pass(name string, rules ...*g.Rule) *g.Pass {
	return &g.Pass{Name: name, Doc: "a test", Run: func(u *g.Unit) (int, error) { return u.Apply(rules...) }}
}

// bound gives the names of the operands of the only Matched node.
func (s *sketch) bound(t *testing.T) []string {
	t.Helper()
	var names []string
	found := 0
	for _, n := range s.g.Nodes() {
		if n.OpType == "Matched" {
			found++
			for _, v := range n.Inputs() {
				names = append(names, v.Name)
			}
		}
	}
	require.LessOrEqual(t, found, 1)
	if found == 0 {
		return nil
	}
	return names
}

func TestPatterns(t *testing.T) {
	a, b, c := g.Any("a"), g.Any("b"), g.Any("c")
	cases := []struct {
		why     string
		pattern *g.Pattern
		graph   func(s *sketch) *ir.Value
		want    []string // bound to a, b, c; nil: no match
	}{
		{"operands of Add in the order given", g.Op("Add", a, g.Op("Neg", b)),
			func(s *sketch) *ir.Value { return s.op("Add", s.x, s.op("Neg", s.y)) }, []string{"x", "y"}},
		{"operands of Add in the other order", g.Op("Add", a, g.Op("Neg", b)),
			func(s *sketch) *ir.Value { return s.op("Add", s.op("Neg", s.y), s.x) }, []string{"x", "y"}},
		{"Sub does not commute", g.Op("Sub", a, g.Op("Neg", b)),
			func(s *sketch) *ir.Value { return s.op("Sub", s.op("Neg", s.y), s.x) }, nil},
		{"Add of another domain does not commute", g.MSOp("Add", a, g.Op("Neg", b)), func(s *sketch) *ir.Value {
			return s.g.Add(ir.NodeSpec{Op: "Add", Domain: g.Microsoft, Inputs: []*ir.Value{s.op("Neg", s.y), s.x}}).Output(0)
		}, nil},
		{"an operator of another domain is another operator", g.Op("Neg", a),
			func(s *sketch) *ir.Value {
				return s.g.Add(ir.NodeSpec{Op: "Neg", Domain: g.Microsoft, Inputs: []*ir.Value{s.x}}).Output(0)
			}, nil},
		{"ai.onnx is the domain without a name", g.Op("Neg", a),
			func(s *sketch) *ir.Value {
				return s.g.Add(ir.NodeSpec{Op: "Neg", Domain: "ai.onnx", Inputs: []*ir.Value{s.x}}).Output(0)
			}, []string{"x"}},
		{"the order that fits first is taken back when the rest does not fit",
			g.Op("Add", g.Op("Neg", a), g.Op("Neg", g.Op("Abs", b))),
			func(s *sketch) *ir.Value { return s.op("Add", s.op("Neg", s.op("Abs", s.x)), s.op("Neg", s.y)) }, []string{"y", "x"}},
		{"a name stands for one value", g.Op("Mul", a, g.Op("Neg", a)),
			func(s *sketch) *ir.Value { return s.op("Mul", s.x, s.op("Neg", s.x)) }, []string{"x"}},
		{"a name does not stand for two values", g.Op("Mul", a, g.Op("Neg", a)),
			func(s *sketch) *ir.Value { return s.op("Mul", s.x, s.op("Neg", s.y)) }, nil},
		{"a binding is taken back with its order", g.Op("Mul", a, g.Op("Neg", a)),
			func(s *sketch) *ir.Value { return s.op("Mul", s.op("Neg", s.x), s.x) }, []string{"x"}},
		{"the second choice, when the first fits but the rest then does not",
			g.Op("Sub", g.Or(g.Op("Neg", a), g.Op("Neg", g.Op("Abs", a))), g.Op("Neg", a)),
			func(s *sketch) *ir.Value { return s.op("Sub", s.op("Neg", s.op("Abs", s.x)), s.op("Neg", s.x)) }, []string{"x"}},
		{"a name on alternatives", g.Op("Neg", g.Or(g.Op("Abs", b), g.Op("Exp", b)).As("a")),
			func(s *sketch) *ir.Value { return s.op("Neg", s.op("Exp", s.x)) }, []string{"Exp/out", "x"}},
		{"a choice that did not match binds nothing", g.Op("Neg", g.Or(g.Op("Abs", a), g.Op("Exp", b))),
			func(s *sketch) *ir.Value { return s.op("Neg", s.op("Exp", s.x)) }, []string{"x"}},
		{"an optional operand that is there", g.Op("Clip", a, g.Opt(b)),
			func(s *sketch) *ir.Value { return s.op("Clip", s.x, s.y) }, []string{"x", "y"}},
		{"an optional operand that is not there", g.Op("Clip", a, g.Opt(b)),
			func(s *sketch) *ir.Value { return s.op("Clip", s.x) }, []string{"x"}},
		{"an optional operand that is left out before another", g.Op("Clip", a, g.Opt(b), c),
			func(s *sketch) *ir.Value { return s.op("Clip", s.x, nil, s.y) }, []string{"x", "y"}},
		{"a name on an optional operand", g.Op("Clip", a, g.Opt(g.Op("Neg", c)).As("b")),
			func(s *sketch) *ir.Value { return s.op("Clip", s.x, s.op("Neg", s.y)) }, []string{"x", "Neg/out", "y"}},
		{"an operand too many", g.Op("Clip", a), func(s *sketch) *ir.Value { return s.op("Clip", s.x, s.y) }, nil},
		{"an operand too many that is left out", g.Op("Clip", a), func(s *sketch) *ir.Value { return s.op("Clip", s.x, nil) }, []string{"x"}},
		{"an operand too few", g.Op("Clip", a, b), func(s *sketch) *ir.Value { return s.op("Clip", s.x) }, nil},
		{"any number of further operands", g.Op("Concat", a, g.Rest()),
			func(s *sketch) *ir.Value { return s.op("Concat", s.x, s.y, s.x) }, []string{"x"}},
		{"no further operands", g.Op("Concat", a, g.Rest()), func(s *sketch) *ir.Value { return s.op("Concat", s.x) }, []string{"x"}},
		{"a constant", g.Op("Sub", a, g.Const("b")), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.float(1, 2)) }, []string{"x", "c"}},
		{"not a constant", g.Op("Sub", a, g.Const("b")), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.y) }, nil},
		{"a default of an input is no constant", g.Op("Sub", a, g.Const("b")),
			func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.g.AddOptionalInput("d", ir.Float32Scalar(1))) }, nil},
		{"a scalar", g.Op("Sub", a, g.Scalar(0.1)), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.float(0.1)) }, []string{"x"}},
		{"a scalar that is an integer", g.Op("Sub", a, g.Scalar(2)),
			func(s *sketch) *ir.Value {
				return s.op("Sub", s.x, s.g.AddInitializer("i", ir.Int64Scalar(2)))
			}, []string{"x"}},
		{"a scalar a little off", g.Op("Sub", a, g.Scalar(0.1)), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.float(0.10001)) }, nil},
		{"two elements are no scalar", g.Op("Sub", a, g.Scalar(1)), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.float(1, 1)) }, nil},
		{"integers", g.Op("Sub", a, g.Ints(1, -1)),
			func(s *sketch) *ir.Value {
				return s.op("Sub", s.x, s.g.AddInitializer("i", ir.Int64Tensor([]int64{1, -1})))
			}, []string{"x"}},
		{"other integers", g.Op("Sub", a, g.Ints(1, -1)),
			func(s *sketch) *ir.Value {
				return s.op("Sub", s.x, s.g.AddInitializer("i", ir.Int64Tensor([]int64{1, 1})))
			}, nil},
		{"floats are no integers", g.Op("Sub", a, g.Ints(1)), func(s *sketch) *ir.Value { return s.op("Sub", s.x, s.float(1)) }, nil},
		{"an attribute", g.Op("Softmax", a).Attr("axis", -1, -1, 2),
			func(s *sketch) *ir.Value { return s.g.Op("Softmax", "s", []*ir.Value{s.x}, ir.Int("axis", 2)) }, []string{"x"}},
		{"an attribute's default", g.Op("Softmax", a).Attr("axis", -1, -1), func(s *sketch) *ir.Value { return s.op("Softmax", s.x) }, []string{"x"}},
		{"another attribute", g.Op("Softmax", a).Attr("axis", -1, -1),
			func(s *sketch) *ir.Value { return s.g.Op("Softmax", "s", []*ir.Value{s.x}, ir.Int("axis", 1)) }, nil},
		{"two attributes: the second test does not replace the first", g.Op("Softmax", a).Attr("axis", -1, -1).Attr("other", 0, 0),
			func(s *sketch) *ir.Value { return s.g.Op("Softmax", "s", []*ir.Value{s.x}, ir.Int("axis", 1)) }, nil},
		{"a permutation", g.Op("Transpose", a).Perm(1, 0),
			func(s *sketch) *ir.Value { return s.g.Op("Transpose", "t", []*ir.Value{s.x}, ir.Ints("perm", 1, 0)) }, []string{"x"}},
		{"another permutation", g.Op("Transpose", a).Perm(1, 0),
			func(s *sketch) *ir.Value { return s.g.Op("Transpose", "t", []*ir.Value{s.x}, ir.Ints("perm", 0, 1)) }, nil},
		{"a test on alternatives holds for each", g.Or(g.Op("Neg", a), g.Op("Softmax", a)).Attr("axis", -1, -1),
			func(s *sketch) *ir.Value { return s.g.Op("Softmax", "s", []*ir.Value{s.x}, ir.Int("axis", 1)) }, nil},
		{"the second result of a node is not its first", g.Op("Neg", g.Op("Split", a)), func(s *sketch) *ir.Value {
			n := s.g.Add(ir.NodeSpec{Op: "Split", Inputs: []*ir.Value{s.x}, Outputs: []string{"p", "q"}})
			return s.op("Neg", n.Output(1))
		}, nil},
		{"a value inside may be read twice inside", g.Op("Add", g.Op("Neg", a).As("c"), g.Op("Abs", g.Op("Neg", a))), func(s *sketch) *ir.Value {
			n := s.op("Neg", s.x)
			return s.op("Add", n, s.op("Abs", n))
		}, []string{"x", "Neg/out"}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := newSketch()
			s.events(t, c.pattern, c.graph(s), nil)
			require.Equal(t, c.want, s.bound(t))
		})
	}
}

// A value inside a match that has readers outside forbids the match, unless it is marked as shared.
func TestLeak(t *testing.T) {
	graph := func(s *sketch) (out, inner *ir.Value) {
		inner = s.op("Neg", s.x)
		return s.op("Abs", inner), inner
	}
	cases := []struct {
		why     string
		pattern *g.Pattern
		leak    func(s *sketch, inner *ir.Value)
		fits    bool
	}{
		{"read by a node outside", g.Op("Abs", g.Op("Neg", g.Any("a"))), func(s *sketch, v *ir.Value) { s.g.AddOutput(s.op("Exp", v)) }, false},
		{"an output of the graph", g.Op("Abs", g.Op("Neg", g.Any("a"))), func(s *sketch, v *ir.Value) { s.g.AddOutput(v) }, false},
		{"shared", g.Op("Abs", g.Op("Neg", g.Any("a")).Shared()), func(s *sketch, v *ir.Value) { s.g.AddOutput(s.op("Exp", v)) }, true},
		{"shared, on alternatives", g.Op("Abs", g.Or(g.Op("Exp", g.Any("a")), g.Op("Neg", g.Any("a"))).Shared()),
			func(s *sketch, v *ir.Value) { s.g.AddOutput(s.op("Exp", v)) }, true},
		{"shared in a choice that was taken back only", g.Op("Abs", g.Or(g.Op("Neg", g.Op("Neg", g.Any("a"))).Shared(), g.Op("Neg", g.Any("a")))),
			func(s *sketch, v *ir.Value) { s.g.AddOutput(s.op("Exp", v)) }, false},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := newSketch()
			out, inner := graph(s)
			c.leak(s, inner)
			events := s.events(t, c.pattern, out, nil)
			require.Len(t, events, 1)
			if c.fits {
				require.Equal(t, g.Applied, events[0].Kind)
				require.Equal(t, []string{"Abs(Abs)", "Neg(Neg)"}, events[0].Nodes)
				return
			}
			require.Equal(t, g.Declined, events[0].Kind)
			require.Equal(t, `"Neg/out" is also read outside of the match`, events[0].Reason)
		})
	}
}

// A value that the body of a control-flow node reads is read outside of the match.
func TestLeakIntoBody(t *testing.T) {
	m := withBodies(t)
	var events []g.Event
	rule := &g.Rule{Name: "r", Doc: "d", Pattern: g.Op("Abs", g.Op("Neg", g.Any("a"))),
		Rewrite: func(m *g.Match) (*ir.Value, error) { return m.Value("a"), nil }}
	_, err := g.Run(context.Background(), m, []*g.Pass{pass("p", rule)}, g.Options{Trace: func(e g.Event) { events = append(events, e) }})
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, `"inner" is also read outside of the match`, events[0].Reason)
}

// A match that fails late is reported with the node at which it failed, and why.
func TestNearMiss(t *testing.T) {
	pattern := g.Op("Add", g.Op("Mul", g.Op("Exp", g.Op("Neg", g.Any("a"))), g.Any("b")), g.Any("c"))
	s := newSketch()
	out := s.op("Add", s.op("Mul", s.op("Exp", s.op("Abs", s.x)), s.y), s.y)
	require.Equal(t, []g.Event{{
		Pass: "test", Rule: "rule", Kind: g.NearMiss, Node: "Add(Add)",
		Reason: "Abs(Abs) stands where Neg should", Nodes: []string{"Abs(Abs)"},
	}}, s.events(t, pattern, out, nil))

	s = newSketch()
	require.Empty(t, s.events(t, pattern, s.op("Add", s.op("Mul", s.op("Abs", s.x), s.y), s.y), nil), "two nodes that fit are not near")
}

func TestCheckDeclines(t *testing.T) {
	s := newSketch()
	events := s.events(t, g.Op("Abs", g.Any("a")), s.op("Abs", s.x), func(m *g.Match) error {
		require.Nil(t, m.Value("nothing"))
		require.Nil(t, m.Node("nothing"))
		require.Nil(t, m.Const("a"))
		_, err := m.Ints("a")
		require.ErrorContains(t, err, "a is not a constant")
		require.Equal(t, "Abs", m.Root.OpType)
		return errors.New("not today")
	})
	require.Equal(t, []g.Event{{Pass: "test", Rule: "rule", Kind: g.Declined, Node: "Abs(Abs)", Reason: "not today", Nodes: []string{"Abs(Abs)"}}}, events)
	require.Nil(t, s.bound(t))
}

func TestScalarValue(t *testing.T) {
	for _, c := range []struct {
		t    *ir.Tensor
		want float64
		err  string
	}{
		{t: ir.Float32Scalar(1.5), want: 1.5},
		{t: ir.Int64Tensor([]int64{-3}), want: -3},
		{t: ir.Int64Tensor([]int64{1, 2}), err: "has shape [2], not one element"},
		{t: &ir.Tensor{DType: ir.String, Shape: []int64{}, Strings: [][]byte{[]byte("x")}}, err: "not an integer type"},
	} {
		got, err := g.ScalarValue(c.t)
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
}

func ExampleOp() {
	x := g.Any("x")
	silu := g.Op("Mul", x, g.Op("Sigmoid", x))
	rule := &g.Rule{
		Name: "silu", Doc: "x·sigmoid(x)", Pattern: silu,
		Rewrite: func(m *g.Match) (*ir.Value, error) {
			return m.Graph.Op("Swish", "swish", []*ir.Value{m.Value("x")}), nil
		},
	}

	m := ir.NewModel("example", 13, 24)
	in := m.Graph.AddInput("in", ir.TensorType(ir.Float32, ir.Sym("n")))
	m.Graph.AddOutput(m.Graph.Op("Mul", "mul", []*ir.Value{m.Graph.Op("Sigmoid", "sigmoid", []*ir.Value{in}), in}))
	report, err := g.Run(context.Background(), m, []*g.Pass{{
		Name: "swish", Doc: "x·sigmoid(x) becomes Swish",
		Run: func(u *g.Unit) (int, error) { return u.Apply(rule) },
	}}, g.Options{})
	fmt.Println(err, report.NodesBefore, report.NodesAfter, report.Passes)
	// Output: <nil> 2 1 [{swish 1}]
}
