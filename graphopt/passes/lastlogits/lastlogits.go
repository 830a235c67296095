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
	"fmt"
	"math"

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
	After: []string{"attention", "skip-norm", "tied-head"},
	Run:   run,
}

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	var logits *ir.Value
	for _, o := range graph.Outputs() {
		if o.Name == "logits" {
			logits = o
		}
	}
	for _, in := range graph.Inputs() {
		if in.Name == Input {
			return 0, nil
		}
	}
	if logits == nil || logits.Producer() == nil || !rowwise(logits.Producer()) {
		return 0, nil
	}
	frontier := cut(graph, logits)
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
	for _, n := range graph.Nodes() { // shapes inside the cut are no longer what they were
		for _, o := range n.Outputs() {
			if o != nil && o.Type != nil && !o.IsOutput() {
				o.Type = &ir.Type{DType: o.Type.DType}
			}
		}
	}
	if t := logits.Type; t.HasShape() && len(t.Shape) == 3 {
		logits.Type = ir.TensorType(t.DType, t.Shape[0], ir.Sym("num_logits"), t.Shape[2])
	}
	return 1, nil
}

type edge struct {
	value *ir.Value
	uses  []ir.Use
}

// cut finds the region before logits in which every row is computed from the same row alone, and
// whose results nothing else reads; it gives the values that enter it, in graph order.
func cut(graph *ir.Graph, logits *ir.Value) []edge {
	region := map[*ir.Node]bool{logits.Producer(): true}
	nodes := graph.Nodes()
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		if region[n] || !rowwise(n) {
			continue
		}
		inside, read := true, false
		for _, o := range n.Outputs() {
			if o == nil {
				continue
			}
			if o.IsOutput() {
				inside = false
			}
			for _, u := range o.Uses() {
				read = true
				inside = inside && region[u.Node]
			}
		}
		if inside && read {
			region[n] = true
		}
	}
	var edges []edge
	at := map[*ir.Value]int{}
	for _, n := range nodes {
		if !region[n] {
			continue
		}
		for i, v := range n.Inputs() {
			if v == nil || v.Const != nil || region[v.Producer()] {
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

// rowwise reports whether n computes each row [·, s, ·] of its results from row s of its operands alone.
func rowwise(n *ir.Node) bool {
	switch n.OpType {
	case "MatMul", "FusedMatMul":
		return n.Input(1).Constant() != nil || constantTranspose(n.Input(1))
	case "Add", "Mul", "Sub", "Div":
		for _, v := range n.Inputs() {
			if c := v.Constant(); c != nil && len(c.Shape) > 1 {
				return false
			}
		}
		return true
	case "Sigmoid", "QuickGelu", "Cast", "Pow", "Sqrt", "Reciprocal", "Identity":
		return true
	case "SimplifiedLayerNormalization", "RMSNormalization":
		return n.Int("axis", -1) == -1
	case "SkipSimplifiedLayerNormalization":
		return true
	case "ReduceMean":
		axes := n.Input(1).Constant()
		if axes == nil {
			return false
		}
		v, err := axes.Int64s()
		return err == nil && len(v) == 1 && v[0] == -1
	case "Split":
		return n.Int("axis", 0) == -1 && n.Input(1).Constant() != nil
	}
	return false
}

func constantTranspose(v *ir.Value) bool {
	if v == nil {
		return false
	}
	return v.Producer().Is("", "Transpose") && v.Producer().Input(0).Constant() != nil
}
