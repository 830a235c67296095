// Package cse removes common subexpressions: of nodes that compute the same from the same operands,
// one stays.
//
//	Unsqueeze(cos, [1]) in every layer ⇒ one Unsqueeze(cos, [1]), read by every layer
//
// Exporters that trace a program compute again in each layer what the layers share: rotary tables, masks,
// lengths. Small constants of the same content become one too, or else nothing that reads them would be
// the same; weights are left alone.
package cse

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass joins all such nodes of a graph.
var Pass = &g.Pass{
	Name:  "cse",
	Doc:   "nodes that compute the same from the same operands become one, and so do equal small constants",
	Needs: "nothing; nodes with bodies and random ones are left alone",
	After: []string{"constants"},
	Run:   run,
}

const passName = "cse"

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	if err := constants(graph); err != nil {
		return 0, err
	}
	ids := map[*ir.Value]int{}
	first := map[string]*ir.Node{}
	joined := 0
	for _, n := range graph.Nodes() { // operands come first, so what is the same further down is found too
		k, ok := key(n, ids)
		if !ok {
			continue
		}
		kept := first[k]
		if kept == nil {
			first[k] = n
			continue
		}
		if bothOutputs(kept, n) {
			continue
		}
		for i, o := range n.Outputs() {
			if o == nil {
				continue
			}
			if err := graph.Replace(o, kept.Output(i)); err != nil {
				return joined, err
			}
		}
		if err := graph.Remove(n); err != nil {
			return joined, err
		}
		u.Applied(passName, n.String())
		joined++
	}
	return joined, nil
}

// bothOutputs reports whether a and b give outputs of the graph in the same place: each keeps its name.
func bothOutputs(a, b *ir.Node) bool {
	for i, o := range a.Outputs() {
		if o != nil && o.IsOutput() && b.Output(i).IsOutput() {
			return true
		}
	}
	return false
}

// smallElements bounds the constants that are compared: shapes, axes, bounds and scalars have no more.
const smallElements = 16

// constants makes small constants of the same content one.
func constants(graph *ir.Graph) error {
	first := map[string]*ir.Value{}
	for _, v := range graph.Initializers() {
		t := v.Constant()
		if t == nil || t.Data == nil || t.Len() > smallElements || v.IsOutput() {
			continue
		}
		k, err := tensorKey(t)
		if err != nil {
			return err
		}
		if first[k] == nil {
			first[k] = v
		} else if err := graph.Replace(v, first[k]); err != nil {
			return err
		}
	}
	return nil
}

func tensorKey(t *ir.Tensor) (string, error) {
	b, err := t.Bytes()
	return fmt.Sprintf("%v%v%x", t.DType, t.Shape, b), err
}

// key is the same for nodes that compute the same. It fails for those that may not be joined.
func key(n *ir.Node, ids map[*ir.Value]int) (string, bool) {
	if n.HasGraph() || random(n) {
		return "", false
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", n.Domain, n.OpType)
	for _, v := range n.Inputs() {
		if v != nil && ids[v] == 0 {
			ids[v] = len(ids) + 1
		}
		fmt.Fprintf(&b, " %d", ids[v]) // 0: left out
	}
	for _, o := range n.Outputs() {
		fmt.Fprintf(&b, " %t", o != nil)
	}
	attrs := slices.SortedFunc(slices.Values(n.Attrs), func(a, b *ir.Attr) int { return cmp.Compare(a.Name, b.Name) })
	for _, a := range attrs {
		k, ok := attrKey(a)
		if !ok {
			return "", false
		}
		fmt.Fprintf(&b, " %q=%s", a.Name, k)
	}
	return b.String(), true
}

func random(n *ir.Node) bool {
	switch n.OpType {
	case "Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike":
		return true
	}
	return false
}

func attrKey(a *ir.Attr) (string, bool) {
	switch a.Type {
	case ir.AttrFloat:
		return fmt.Sprintf("%b", a.F), true
	case ir.AttrInt:
		return fmt.Sprint(a.I), true
	case ir.AttrString:
		return fmt.Sprintf("%q", a.S), true
	case ir.AttrFloats:
		return fmt.Sprintf("%b", a.Floats), true
	case ir.AttrInts:
		return fmt.Sprint(a.Ints), true
	case ir.AttrStrings:
		return fmt.Sprintf("%q", a.Strings), true
	case ir.AttrTensor:
		if a.T != nil && a.T.Data != nil && a.T.Len() <= smallElements {
			k, err := tensorKey(a.T)
			return k, err == nil
		}
	}
	return "", false
}
