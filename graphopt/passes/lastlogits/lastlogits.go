// Package lastlogits computes logits only for the rows that are asked for.
//
// A prompt of S tokens needs one row of logits, the last; the head alone is a fifth of the work of an INT4
// prefill of a small model. The pass adds an optional input num_logits_to_keep [1] int64: the number
// of rows, counted from the end, or 0, its default, for all of them. Callers that do not know it see the
// same graph as before.
//
// The rows are cut not at the head but as early as nothing mixes rows any more: behind the last
// attention, so that the last layer's output projection and MLP are left out too.
package lastlogits

import (
	"errors"
	"fmt"
	"math"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Input is the name of the input that the pass adds.
const Input = "num_logits_to_keep"

// Pass cuts rows that no logits are asked for.
var Pass = &g.Pass{
	Name:  "last-logits",
	Doc:   "logits only for the last rows, as many as num_logits_to_keep says",
	Needs: "an output named logits of shape [batch, sequence, vocabulary]",
	After: []string{"opset", "attention", "skip-norm", "projections", "silu", "tied-head"},
	Run:   run,
}

const passName = "last-logits"

func run(u *g.Unit) (int, error) {
	c := &cutter{unit: u, graph: u.Model.Graph}
	at, err := c.prepare()
	if err != nil {
		u.Decline(passName, at, err)
		return 0, nil
	}
	frontier := c.cut()
	graph := c.graph
	keep := graph.AddOptionalInput(Input, ir.Int64Tensor([]int64{0}))
	// Slice reads a start of -n from the end; -0 is 0, all rows.
	start := graph.Op("Neg", "/last_logits/Neg", []*ir.Value{keep})
	end := graph.AddInitializer(graph.Fresh("/last_logits/end"), ir.Int64Tensor([]int64{math.MaxInt64}))
	axis := graph.AddInitializer(graph.Fresh("/last_logits/axis"), ir.Int64Tensor([]int64{1}))
	for i, f := range frontier {
		rows := graph.Op("Slice", fmt.Sprintf("/last_logits/Slice.%d", i), []*ir.Value{f.value, start, end, axis})
		if f.value.Type != nil {
			rows.Type = &ir.Type{DType: f.value.Type.DType}
		}
		for _, use := range f.uses {
			use.Node.SetInput(use.Index, rows)
		}
	}
	for n := range c.region { // shapes inside the cut are no longer what they were
		for _, o := range n.Outputs() {
			if o != nil && o.Type != nil && !o.IsOutput() {
				o.Type = &ir.Type{DType: o.Type.DType}
			}
		}
	}
	t := c.unit.Type(c.logits)
	c.logits.Type = ir.TensorType(t.DType, t.Shape[0], ir.Sym("num_logits"), t.Shape[2])
	u.Applied(passName, c.logits.Producer().String())
	return 1, nil
}

type cutter struct {
	unit   *g.Unit
	graph  *ir.Graph
	logits *ir.Value
	shape  []ir.Dim // of the logits
	region map[*ir.Node]bool
}

// prepare finds the logits and says, with the node that it is about, why they cannot be cut.
func (c *cutter) prepare() (node string, err error) {
	if v := c.unit.Model.Opset(""); v < 10 {
		return "", fmt.Errorf("opset %d has no Slice with bounds as operands", v)
	}
	for _, o := range c.graph.Outputs() {
		if o.Name == "logits" {
			c.logits = o
		}
	}
	if c.logits == nil || c.logits.Producer() == nil {
		return "", errors.New("the graph has no output named logits")
	}
	node = c.logits.Producer().String()
	t := c.unit.Type(c.logits)
	if !t.HasShape() || len(t.Shape) != 3 || t.Shape[1].Param == "" {
		return node, errors.New("the logits are not of shape [batch, sequence, vocabulary] with a free sequence")
	}
	c.shape = t.Shape
	if !c.rowwise(c.logits.Producer()) {
		return node, errors.New("rows of the logits are computed from more than one row")
	}
	if c.graph.Fresh(Input) != Input {
		return node, fmt.Errorf("%s is a name in this graph already", Input)
	}
	return "", nil
}

type edge struct {
	value *ir.Value
	uses  []ir.Use
}

// cut finds the region before logits in which every row is computed from the same row alone, and
// whose results nothing else reads; it gives the values that enter it, in graph order.
func (c *cutter) cut() []edge {
	c.region = map[*ir.Node]bool{c.logits.Producer(): true}
	nodes := c.graph.Nodes()
	for _, n := range slices.Backward(nodes) {
		if !c.region[n] && c.inside(n) && c.rowwise(n) {
			c.region[n] = true
		}
	}
	var edges []edge
	at := map[*ir.Value]int{}
	for _, n := range nodes {
		if !c.region[n] {
			continue
		}
		for i, v := range n.Inputs() {
			if !varies(v) || c.region[v.Producer()] {
				continue
			}
			if _, ok := at[v]; !ok {
				at[v] = len(edges)
				edges = append(edges, edge{value: v})
			}
			edges[at[v]].uses = append(edges[at[v]].uses, ir.Use{Node: n, Index: i})
		}
	}
	return edges
}

// inside reports whether only the region reads what n gives.
func (c *cutter) inside(n *ir.Node) bool {
	read := false
	for _, o := range n.Outputs() {
		if o == nil {
			continue
		}
		if o.IsOutput() {
			return false
		}
		for _, u := range o.Uses() {
			if !c.region[u.Node] {
				return false
			}
			read = true
		}
	}
	return read
}

// varies reports whether v depends on the run; weights, transposed or not, do not.
func varies(v *ir.Value) bool {
	return v != nil && v.Constant() == nil && !constantTranspose(v)
}

// constantTranspose reports whether v is a constant in another shape: of a table that is stored once for
// embedding and head, one of the two has it behind such a node.
func constantTranspose(v *ir.Value) bool {
	n := v.Producer()
	if n.Is("", "Reshape") && n.Input(1).Constant() == nil {
		return false
	}
	return (n.Is("", "Transpose") || n.Is("", "Reshape")) && n.Input(0).Constant() != nil
}

// rowwise reports whether n computes each row [b, s, ·] of its results from row [b, s, ·] of its
// operands alone.
func (c *cutter) rowwise(n *ir.Node) bool {
	for _, v := range n.Inputs() {
		if varies(v) && !c.hasRows(v) {
			return false
		}
	}
	switch {
	case n.Is("", "MatMul"), n.Is(g.Microsoft, "FusedMatMul"):
		return n.Int("transA", 0) == 0 && n.Int("transBatchA", 0) == 0 && !varies(n.Input(1))
	case n.Is(g.Microsoft, "MatMulNBits"):
		return !slices.ContainsFunc(n.Inputs()[1:], varies)
	case n.Is("", "Add"), n.Is("", "Mul"), n.Is("", "Sub"), n.Is("", "Div"), n.Is("", "Pow"):
		for _, v := range n.Inputs() {
			if t := v.Constant(); t != nil && len(t.Shape) > 1 && t.Shape[len(t.Shape)-2] != 1 {
				return false // something of its own for each row
			}
		}
		return true
	case n.Is("", "Sigmoid"), n.Is("", "Cast"), n.Is("", "Sqrt"), n.Is("", "Reciprocal"), n.Is("", "Identity"), n.Is(g.Microsoft, "QuickGelu"):
		return true
	case n.Is("", "SimplifiedLayerNormalization"), n.Is("", "RMSNormalization"):
		axis := n.Int("axis", -1)
		return axis == -1 || axis == 2
	case n.Is(g.Microsoft, "SkipSimplifiedLayerNormalization"):
		return true
	case n.Is("", "ReduceMean"):
		axes := n.Ints("axes")
		if v := n.Input(1).Constant(); v != nil {
			axes, _ = v.Int64s()
		}
		return len(axes) == 1 && (axes[0] == -1 || axes[0] == 2) && n.Int("keepdims", 1) == 1
	case n.Is("", "Split"):
		axis := n.Int("axis", 0)
		return (axis == -1 || axis == 2) && !varies(n.Input(1))
	}
	return false
}

// hasRows reports whether v has the batch and the sequence of the logits as its first two of three dimensions.
func (c *cutter) hasRows(v *ir.Value) bool {
	t := c.unit.Type(v)
	return t.HasShape() && len(t.Shape) == 3 && t.Shape[0] == c.shape[0] && t.Shape[1] == c.shape[1]
}
