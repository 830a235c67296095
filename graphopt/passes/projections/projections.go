// Package projections joins products that read the same activations.
//
//	MatMul(x, Wq), MatMul(x, Wk), MatMul(x, Wv) ⇒ Split(MatMul(x, [Wq Wk Wv]))
//
// The same goes for products with quantised weights (MatMulNBits) of one format, whose outputs lie one after
// the other.
//
// One product of the joined width starts the thread pool once, and quantises or packs x once. For
// Qwen3 these are the query, key and value projections, and the gate and up projections of the MLP.
package projections

import (
	"fmt"
	"path"
	"strings"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass joins all such products of a graph.
var Pass = &g.Pass{
	Name:  "projections",
	Doc:   "products of the same activations (Q, K, V; gate, up) become one, with a Split behind",
	Needs: "constant weight matrices that nothing else reads",
	After: []string{"opset", "constants", "attention"},
	Run:   run,
}

const passName = "projections"

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	if v := u.Model.Opset(""); v < 13 {
		u.Decline(passName, "", fmt.Errorf("opset %d has no Split with sizes as an operand", v))
		return 0, nil
	}
	joined := 0
	groups := map[*ir.Value][]*ir.Node{}
	var order []*ir.Value
	for _, n := range graph.Nodes() {
		if !joinable(n) {
			continue
		}
		x := n.Input(0)
		if groups[x] == nil {
			order = append(order, x)
		}
		groups[x] = append(groups[x], n)
	}
	for _, x := range order {
		for _, group := range alike(groups[x]) {
			if len(group) < 2 {
				continue
			}
			if err := join(graph, group); err != nil {
				return joined, err
			}
			u.Applied(passName, group[0].String())
			joined++
		}
	}
	return joined, nil
}

// joinable reports whether n is a product with a weight of its own. A weight with other readers, as of tied
// embeddings, would have to be stored twice.
func joinable(n *ir.Node) bool {
	if n.Input(0) == nil || n.Output(0) == nil {
		return false
	}
	if n.Is(g.Microsoft, "MatMulNBits") {
		return packed(n)
	}
	w := n.Input(1)
	c := w.Constant()
	return n.Is("", "MatMul") && c != nil && len(c.Shape) == 2 && c.DType.Float() && w.NumUses() == 1
}

// packed reports whether all weights of a quantised product are constants of its own that lie output by
// output. Operands behind the zero points, the order of the inputs and a bias, are left alone.
func packed(n *ir.Node) bool {
	width := n.Int("N", 0)
	if width <= 0 || len(n.Inputs()) < 3 {
		return false
	}
	for i, v := range n.Inputs() {
		c := v.Constant()
		switch {
		case i == 0:
		case v == nil && i >= 3:
		case c == nil || i > 3 || v.NumUses() != 1 || len(c.Shape) == 0 || c.Shape[0] == 0 || c.Shape[0]%width != 0 || c.DType.Bits()%8 != 0:
			return false
		}
	}
	return true
}

// alike parts nodes by operator and by what must agree in a joined one: the type and the depth of their
// weights, or the format.
func alike(nodes []*ir.Node) [][]*ir.Node {
	var groups [][]*ir.Node
	at := map[string]int{}
	for _, n := range nodes {
		key := fmt.Sprint(n.Input(1).Const.DType, n.Input(1).Const.Shape[0])
		if n.Is(g.Microsoft, "MatMulNBits") {
			key = fmt.Sprint(n.Int("K", 0), n.Int("bits", 4), n.Int("block_size", 0), n.Int("accuracy_level", 0))
			for _, v := range n.Inputs()[1:] {
				if v != nil {
					key += fmt.Sprint(v.Const.DType, len(v.Const.Shape))
				}
			}
		}
		i, ok := at[key]
		if !ok {
			i = len(groups)
			at[key], groups = i, append(groups, nil)
		}
		groups[i] = append(groups[i], n)
	}
	return groups
}

func join(graph *ir.Graph, group []*ir.Node) error {
	first := group[0]
	inputs := []*ir.Value{first.Input(0)}
	axis := 1
	if first.Is(g.Microsoft, "MatMulNBits") {
		axis = 0
	}
	var base string
	for i, v := range first.Inputs() {
		if i == 0 || v == nil {
			continue
		}
		var parts []*ir.Tensor
		var names []string
		for _, n := range group {
			parts, names = append(parts, n.Input(i).Const), append(names, n.Input(i).Name)
		}
		all, err := ir.Concat(axis, parts...)
		if err != nil {
			return err
		}
		name, module := joinNames(names)
		if i == 1 {
			base = path.Join(path.Dir(path.Dir(first.Name)), module)
		}
		inputs = append(inputs, graph.AddInitializer(graph.Fresh(name), all))
	}
	var sizes []int64
	var outputs []string
	for _, n := range group {
		width := n.Int("N", 0)
		if axis == 1 {
			width = n.Input(1).Const.Shape[1]
		}
		sizes, outputs = append(sizes, width), append(outputs, n.Output(0).Name+"/part")
	}
	product := graph.Add(ir.NodeSpec{Op: first.OpType, Domain: first.Domain, Name: base + "/" + first.OpType, Inputs: inputs, Outputs: []string{base + "/" + first.OpType + "/out"}})
	product.Attrs = append(product.Attrs, first.Attrs...)
	if axis == 0 {
		var width int64
		for _, s := range sizes {
			width += s
		}
		product.SetAttr(ir.Int("N", width))
	}
	parts := graph.Add(ir.NodeSpec{
		Op: "Split", Name: base + "/Split",
		Inputs:  []*ir.Value{product.Output(0), graph.AddInitializer(graph.Fresh(base+"/sizes"), ir.Int64Tensor(sizes))},
		Outputs: outputs,
		Attrs:   []*ir.Attr{ir.Int("axis", -1)},
	})
	for i, n := range group {
		if err := graph.Replace(n.Output(0), parts.Output(i)); err != nil {
			return err
		}
		if err := graph.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

// joinNames makes a.q_proj.weight, a.k_proj.weight, a.v_proj.weight into a.qkv_proj.weight, the
// names that other implementations give to joined weights of Qwen and Llama, and gives the name of the module,
// qkv_proj, as well.
func joinNames(names []string) (name, module string) {
	const projection = "_proj."
	var parts []string
	prefix, suffix := "", ""
	for i, name := range names {
		end := strings.LastIndex(name, projection)
		if end < 0 {
			end = len(name)
		}
		dot := strings.LastIndex(name[:end], ".") + 1
		if end == len(name) || i > 0 && (name[:dot] != prefix || name[end:] != suffix) {
			last := names[0][strings.LastIndex(strings.TrimSuffix(names[0], ".weight"), ".")+1:]
			return fmt.Sprintf("%s+%d", names[0], len(names)-1), fmt.Sprintf("%s+%d", last, len(names)-1)
		}
		prefix, suffix = name[:dot], name[end:]
		parts = append(parts, name[dot:end])
	}
	sep := "_"
	if len(parts[0]) == 1 {
		sep = ""
	}
	module = strings.Join(parts, sep)
	return prefix + module + suffix, module + strings.TrimSuffix(projection, ".")
}
