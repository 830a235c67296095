package ir

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func newTestModel() (*Model, *Graph, *Value) {
	m := NewModel("test", 10, 21)
	return m, m.Graph, m.Graph.AddInput("x", TensorType(Float32, Sym("n")))
}

// branch makes the body of an If whose only node computes op of what it reads.
func branch(g *Graph, op, out string, reads ...*Value) *Graph {
	b := &Graph{Name: out, outer: g}
	v := b.Add(NodeSpec{Op: op, Name: op, Inputs: reads, Outputs: []string{out}}).Output(0)
	v.Type = TensorType(Float32, Sym("n"))
	b.AddOutput(v)
	return b
}

func addIf(g *Graph, cond *Value, then, other *Graph) *Node {
	return g.Add(NodeSpec{Op: "If", Name: "if", Inputs: []*Value{cond}, Attrs: []*Attr{
		{Name: "then_branch", Type: AttrGraph, G: then},
		{Name: "else_branch", Type: AttrGraph, G: other},
	}})
}

func ops(g *Graph) (names []string) {
	for _, n := range g.Nodes() {
		names = append(names, n.OpType)
	}
	return names
}

func TestReplace(t *testing.T) {
	m, g, x := newTestModel()
	a := g.Op("A", "a", []*Value{x})
	twice := g.Op("B", "b", []*Value{a, a})
	g.AddOutput(twice)
	c := g.Op("C", "c", []*Value{x})

	require.NoError(t, g.Replace(a, c))
	require.Zero(t, a.NumUses())
	require.Equal(t, []Use{{twice.Producer(), 0}, {twice.Producer(), 1}}, c.Uses())
	require.Equal(t, []*Value{c, c}, twice.Producer().Inputs())
	require.NoError(t, g.Remove(a.Producer()))

	// The name of an output is the interface: it goes with the place.
	twice.Name, twice.Type = "logits", TensorType(Float32, Sym("n"), Fixed(3))
	d := g.Op("D", "d", []*Value{c})
	require.NoError(t, g.Replace(twice, d))
	require.Equal(t, []*Value{d}, g.Outputs())
	require.Equal(t, "logits", d.Name)
	require.Equal(t, twice.Type, d.Type)
	require.True(t, d.IsOutput())
	require.False(t, twice.IsOutput())
	require.NotEqual(t, "logits", twice.Name)
	require.NoError(t, m.Validate())

	require.ErrorContains(t, g.Replace(d, x), `output "logits" cannot be taken over by "x"`, "an input has its own name")
	require.NoError(t, g.Replace(d, d))
	require.NoError(t, m.Validate(), "a refused replacement changes nothing")
}

// What a body reads from outside is a use as any other.
func TestBodiesKeepWhatTheyRead(t *testing.T) {
	m, g, x := newTestModel()
	cond := g.AddInput("cond", TensorType(Bool))
	a, unused := g.Op("A", "a", []*Value{x}), g.Op("U", "u", []*Value{x})
	w := g.AddInitializer("w", Float32Scalar(1))
	deep := branch(g, "Neg", "t", a)
	inner := addIf(deep, cond, branch(deep, "Add", "deep", a, w), branch(deep, "Abs", "deep2", x))
	deep.outputs = nil
	deep.AddOutput(inner.Output(0))
	n := addIf(g, cond, deep, branch(g, "Relu", "e", a))
	g.AddOutput(n.Output(0))
	require.NoError(t, m.Validate())

	require.Equal(t, 3, a.NumUses())
	require.Nil(t, a.SoleUse())
	require.ErrorContains(t, g.Remove(a.Producer()), "still read")
	require.Equal(t, 1, g.Prune())
	require.True(t, unused.Producer().Removed())
	require.Equal(t, []string{"A", "If"}, ops(g))
	require.Len(t, g.Initializers(), 1, "read two bodies down")

	var walked []string
	g.Walk(func(n *Node) { walked = append(walked, n.OpType) })
	require.Equal(t, []string{"A", "If", "Neg", "If", "Add", "Abs", "Relu"}, walked)

	b := g.Op("B", "b", []*Value{x})
	require.NoError(t, g.Replace(a, b))
	require.Equal(t, 3, b.NumUses(), "bodies read the new value")
	require.NoError(t, m.Validate())
	require.Equal(t, []string{"A", "B", "If"}, ops(g), "sorted in front of the body that reads it")

	// When the node goes, so do the uses in its bodies.
	y := g.Op("Y", "y", []*Value{x})
	require.NoError(t, g.Replace(n.Output(0), y))
	require.NoError(t, g.Remove(n))
	require.Zero(t, b.NumUses())
	require.Equal(t, 2, g.Prune())
	require.Empty(t, g.Initializers())
	require.Equal(t, []string{"Y"}, ops(g))
	require.NoError(t, m.Validate())
}

func TestPrune(t *testing.T) {
	m, g, x := newTestModel()
	g.AddOptionalInput("opt", Int64Scalar(1))
	w, dead := g.AddInitializer("w", Float32Scalar(1)), g.AddInitializer("dead", Float32Scalar(2))
	// added in front of what they read, so that one pass from the back would not do
	late := g.Op("Late", "late", []*Value{x, dead})
	user := g.Op("User", "user", []*Value{late})
	late.Producer().SetInput(0, g.Op("Early", "early", []*Value{x}))
	keep := g.Op("Keep", "keep", []*Value{x, w})
	g.AddOutput(keep)

	require.Equal(t, 3, g.Prune())
	require.True(t, user.Producer().Removed())
	require.Equal(t, []*Value{w}, g.Initializers()[1:])
	require.Len(t, g.Inputs(), 2, "inputs are the interface")
	require.Equal(t, []Use{{keep.Producer(), 0}}, x.Uses())
	require.Zero(t, g.Prune())
	require.NoError(t, m.Validate())
	require.NoError(t, g.Remove(late.Producer()), "what is gone may go again")
}

func TestSort(t *testing.T) {
	m, g, x := newTestModel()
	a := g.Op("A", "a", []*Value{x})
	b := g.Op("B", "b", []*Value{a})
	c := g.Op("C", "c", []*Value{x})
	g.AddOutput(b)
	g.AddOutput(c)
	d := g.Op("D", "d", []*Value{x})
	b.Producer().SetInput(1, d)
	require.NoError(t, g.Sort())
	require.Equal(t, []string{"A", "D", "B", "C"}, ops(g), "a new node stands before its reader, the rest keeps its order")

	a.Producer().SetInput(0, b)
	require.ErrorIs(t, g.Sort(), ErrCycle)
	require.ErrorIs(t, m.Validate(), ErrCycle)
	require.Equal(t, []string{"A", "D", "B", "C"}, ops(g), "a refused sort changes nothing")
	a.Producer().SetInput(0, x)

	body := branch(g, "Neg", "inner", x)
	n := addIf(g, g.AddInput("cond", TensorType(Bool)), body, branch(g, "Abs", "other", x))
	body.nodes[0].SetInput(0, n.Output(0))
	require.ErrorIs(t, g.Sort(), ErrCycle, "a body that reads its own node")
}

func TestValidate(t *testing.T) {
	for _, c := range []struct {
		why    string
		break_ func(m *Model, g *Graph, x, y *Value)
		has    string
	}{
		{"no graph", func(m *Model, _ *Graph, _, _ *Value) { m.Graph = nil }, "no graph"},
		{"a name of nothing", func(_ *Model, _ *Graph, x, _ *Value) { x.Name = "" }, "has no name"},
		{"an input and a result", func(_ *Model, g *Graph, x, y *Value) { g.Op("B", "b", []*Value{x}).Name = x.Name }, `two values are named "x"`},
		{"an initializer and an input", func(_ *Model, g *Graph, x, _ *Value) { g.AddInitializer("x", Float32Scalar(1)) }, `two values are named "x"`},
		{"nodes", func(_ *Model, g *Graph, x, y *Value) { g.Add(NodeSpec{Op: "B"}).Name = y.Producer().Name }, "two nodes are named"},
		{"a removed node that is read", func(_ *Model, g *Graph, x, y *Value) {
			b := g.Op("B", "b", []*Value{x})
			_ = g.Remove(b.Producer())
			y.Producer().SetInput(0, b)
		}, `reads "b/out", which nothing produces`},
		{"a removed initializer that is read", func(_ *Model, g *Graph, _, y *Value) {
			w := g.AddInitializer("w", Float32Scalar(1))
			_ = g.RemoveInitializer(w)
			y.Producer().SetInput(1, w)
		}, `reads "w", which nothing produces`},
		{"a value of another model", func(_ *Model, _ *Graph, _, y *Value) {
			_, _, stranger := newTestModel()
			y.Producer().SetInput(0, stranger)
		}, `reads "x", which nothing produces`},
		{"an output that is gone", func(_ *Model, g *Graph, x, _ *Value) {
			b := g.Op("B", "b", []*Value{x})
			_ = g.Remove(b.Producer())
			g.AddOutput(b)
		}, `nothing in graph "test" produces its output "b/out"`},
		{"an output twice", func(_ *Model, g *Graph, _, y *Value) { g.AddOutput(y) }, "listed twice"},
		{"data of another size", func(_ *Model, g *Graph, _, _ *Value) {
			g.AddInitializer("w", &Tensor{DType: Float32, Shape: []int64{2}, Data: NewBuffer(make([]byte, 7))})
		}, `initializer "w": float32[2] takes 8 bytes, got 7`},
		{"an attribute without data", func(_ *Model, _ *Graph, _, y *Value) {
			y.Producer().SetAttr(TensorAttr("value", &Tensor{DType: Float32, Shape: []int64{2}}))
		}, `attribute "value": float32[2] has no data`},
		{"strings that are missing", func(_ *Model, g *Graph, _, _ *Value) {
			g.AddInitializer("w", &Tensor{DType: String, Shape: []int64{2}})
		}, `0 strings for shape [2]`},
		{"a body that reads what another body makes", func(_ *Model, g *Graph, x, _ *Value) {
			then := branch(g, "Neg", "t", x)
			addIf(g, x, then, branch(g, "Abs", "e", then.outputs[0]))
		}, `reads "t", which nothing produces`},
		{"a body that hides what it reads", func(_ *Model, g *Graph, x, y *Value) {
			then := branch(g, "Neg", "t", y)
			then.outputs[0].Name = y.Name
			addIf(g, x, then, branch(g, "Abs", "e", x))
		}, `which nothing produces`},
	} {
		m, g, x := newTestModel()
		y := g.Op("A", "a", []*Value{x})
		g.AddOutput(y)
		require.NoError(t, m.Validate(), c.why)
		c.break_(m, g, x, y)
		err := m.Validate()
		require.ErrorContains(t, err, c.has, c.why)
		require.Regexp(t, "^ir: ", err, c.why)
		_, err = Encode(m)
		require.Error(t, err, "%s: must not be written", c.why)
	}
}

func TestFreshNames(t *testing.T) {
	_, g, x := newTestModel()
	b := &Graph{outer: g}
	require.Equal(t, "inner", b.Op("Neg", "inner", []*Value{x}).producer.Name)
	require.Equal(t, "inner_1", g.Fresh("inner"), "names in bodies are taken, too")
	require.Equal(t, "x_1", b.Fresh("x"))
	require.Equal(t, "x_2", g.Fresh("x"))
	require.Equal(t, "x_1_1", g.Fresh("x_1"))
	n := g.Add(NodeSpec{Op: "Split", Inputs: []*Value{x}, Outputs: []string{"", "part", "part"}})
	require.Nil(t, n.Output(0))
	require.Equal(t, []string{"part", "part_1"}, []string{n.Output(1).Name, n.Output(2).Name})
	require.Nil(t, n.Output(7))
	require.Nil(t, n.Input(-1))
}

// Nodes may be removed and added while the graph is looked at.
func TestChangeWhileRanging(t *testing.T) {
	_, g, x := newTestModel()
	for range 10 {
		g.Op("A", "a", []*Value{x})
	}
	seen := 0
	g.Walk(func(n *Node) {
		seen++
		require.NoError(t, g.Remove(n))
		g.Op("B", "b", []*Value{x})
		require.Equal(t, 10, g.NumNodes())
	})
	require.Equal(t, 10, seen)
	require.Len(t, x.Uses(), 10)
}

// chain makes n nodes that read each other and one value that all share.
func chain(n int) (*Model, []*Node) {
	m, g, x := newTestModel()
	shared := g.AddInitializer("shared", Float32Scalar(1))
	v := x
	for i := range n {
		v = g.Op("Add", fmt.Sprint("/layer/", i), []*Value{v, shared})
	}
	g.AddOutput(v)
	return m, g.Nodes()
}

// A graph of a million nodes that share a value is small as a file. Work on it must not grow with
// the square: that would take minutes.
func TestLargeGraph(t *testing.T) {
	const n = 100_000
	m, nodes := chain(n)
	g := m.Graph
	require.NoError(t, m.Validate())
	y := g.Op("Neg", "y", []*Value{g.Inputs()[0]})
	require.NoError(t, g.Replace(g.Outputs()[0], y))
	other := g.AddInitializer("other", Float32Scalar(1))
	require.NoError(t, g.Replace(g.Initializers()[0], other))
	for _, n := range nodes[len(nodes)/2:] {
		n.SetInput(0, g.Inputs()[0])
	}
	for i := len(nodes) - 1; i >= len(nodes)/2; i-- {
		require.NoError(t, g.Remove(nodes[i]))
	}
	require.Equal(t, n/2, g.Prune())
	require.Equal(t, 1, g.NumNodes())
}

func BenchmarkGraph(b *testing.B) {
	const n = 6000
	m, _ := chain(n)
	b.Run("Sort", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, m.Graph.Sort())
		}
	})
	b.Run("Validate", func(b *testing.B) {
		for b.Loop() {
			require.NoError(b, m.Validate())
		}
	})
	b.Run("Prune", func(b *testing.B) {
		for b.Loop() {
			require.Zero(b, m.Graph.Prune())
		}
	})
	b.Run("Encode", func(b *testing.B) {
		for b.Loop() {
			_, err := Encode(m)
			require.NoError(b, err)
		}
	})
	encoded, err := Encode(m)
	require.NoError(b, err)
	b.Run("Parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := Parse(encoded)
			require.NoError(b, err)
		}
	})
	b.Run("Remove10000", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			m, nodes := chain(10_000)
			m.Graph.outputs[0].outs = 0
			b.StartTimer()
			for i := range nodes { // the slow way round: what is shared is found at the far end
				for j := range nodes[i].inputs {
					nodes[i].SetInput(j, nil)
				}
			}
			for i := range nodes {
				require.NoError(b, m.Graph.Remove(nodes[i]))
			}
		}
	})
}
