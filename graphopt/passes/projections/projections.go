// Package projections joins products that read the same activations.
//
//	MatMul(x, Wq), MatMul(x, Wk), MatMul(x, Wv) ⇒ Split(MatMul(x, [Wq Wk Wv]))
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
	Run:   run,
}

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	joined := 0
	groups := map[*ir.Value][]*ir.Node{}
	var order []*ir.Value
	for _, n := range graph.Nodes() {
		if !n.Is("", "MatMul") || !joinable(n) {
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
			if err := join(graph, x, group); err != nil {
				return joined, err
			}
			joined++
		}
	}
	return joined, nil
}

func joinable(n *ir.Node) bool {
	w := n.Input(1)
	c := w.Constant()
	return n.Input(0) != nil && c != nil && len(c.Shape) == 2 && c.DType.Float() && w.NumUses() == 1
}

// alike parts nodes by type and depth of their weights.
func alike(nodes []*ir.Node) [][]*ir.Node {
	var groups [][]*ir.Node
next:
	for _, n := range nodes {
		c := n.Input(1).Const
		for i, group := range groups {
			if d := group[0].Input(1).Const; d.DType == c.DType && d.Shape[0] == c.Shape[0] {
				groups[i] = append(group, n)
				continue next
			}
		}
		groups = append(groups, []*ir.Node{n})
	}
	return groups
}

func join(graph *ir.Graph, x *ir.Value, group []*ir.Node) error {
	var weights []*ir.Tensor
	var names, outputs []string
	var sizes []int64
	for _, n := range group {
		w := n.Input(1)
		weights, names = append(weights, w.Const), append(names, w.Name)
		sizes = append(sizes, w.Const.Shape[1])
		outputs = append(outputs, n.Output(0).Name+"/part")
	}
	all, err := ir.Concat(1, weights...)
	if err != nil {
		return err
	}
	name := joinNames(names)
	base := path.Join(path.Dir(path.Dir(group[0].Name)), strings.TrimSuffix(name[strings.LastIndex(strings.TrimSuffix(name, ".weight"), ".")+1:], ".weight"))
	product := graph.Op("MatMul", base+"/MatMul", []*ir.Value{x, graph.AddInitializer(graph.Fresh(name), all)})
	parts := graph.Add(ir.NodeSpec{
		Op: "Split", Name: base + "/Split",
		Inputs:  []*ir.Value{product, graph.AddInitializer(graph.Fresh(base+"/sizes"), ir.Int64Tensor(sizes))},
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
// names that other implementations give to joined weights of Qwen and Llama.
func joinNames(names []string) string {
	const suffix = "_proj.weight"
	var parts []string
	prefix := ""
	for i, name := range names {
		stem, ok := strings.CutSuffix(name, suffix)
		dot := strings.LastIndex(stem, ".") + 1
		if !ok || i > 0 && stem[:dot] != prefix {
			return fmt.Sprintf("%s+%d", names[0], len(names)-1)
		}
		prefix = stem[:dot]
		parts = append(parts, stem[dot:])
	}
	sep := "_"
	if len(parts[0]) == 1 {
		sep = ""
	}
	return prefix + strings.Join(parts, sep) + suffix
}
