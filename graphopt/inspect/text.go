package inspect

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// nodeText is a node with its operands, results and attributes, such as
// "Gather(table, ids) {axis=0} → rows". Nodes with equal texts are the same.
func nodeText(n *ir.Node) string {
	text := fmt.Sprintf("%s(%s)", opName(n), valueNames(n.Inputs()))
	if len(n.Attrs) > 0 {
		text += " {" + attrsText(n) + "}"
	}
	return text + " → " + valueNames(n.Outputs())
}

func valueNames(vs []*ir.Value) string {
	names := make([]string, len(vs))
	for i, v := range vs {
		names[i] = "_"
		if v != nil {
			names[i] = v.Name
		}
	}
	return strings.Join(names, ", ")
}

func attrsText(n *ir.Node) string {
	parts := make([]string, len(n.Attrs))
	for i, a := range n.Attrs {
		parts[i] = a.Name + "=" + attrText(a)
	}
	return strings.Join(parts, ", ")
}

func attrText(a *ir.Attr) string {
	switch a.Type {
	case ir.AttrFloat:
		return strconv.FormatFloat(float64(a.F), 'g', -1, 32)
	case ir.AttrInt:
		return strconv.FormatInt(a.I, 10)
	case ir.AttrString:
		return strconv.Quote(string(a.S))
	case ir.AttrFloats:
		return strings.ReplaceAll(fmt.Sprint(a.Floats), " ", ",")
	case ir.AttrInts:
		return strings.ReplaceAll(fmt.Sprint(a.Ints), " ", ",")
	case ir.AttrStrings:
		return fmt.Sprintf("%q", a.Strings)
	case ir.AttrTensor:
		return attrTensor(a.T)
	case ir.AttrTensors:
		return each(a.Tensors, attrTensor)
	case ir.AttrGraph:
		return bodyText(a.G)
	case ir.AttrGraphs:
		return each(a.Graphs, bodyText)
	}
	return fmt.Sprintf("type(%d)", a.Type)
}

func each[T any](list []T, text func(T) string) string {
	parts := make([]string, len(list))
	for i, x := range list {
		parts[i] = text(x)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// attrTensor names the content by its hash.
func attrTensor(t *ir.Tensor) string {
	if t == nil {
		return "none"
	}
	b, err := t.Bytes()
	if err != nil { // strings
		b = fmt.Appendf(nil, "%q", t.Strings)
	}
	return fmt.Sprintf("%s #%.4x", tensorText(t), sha256.Sum256(b))
}

func bodyText(g *ir.Graph) string {
	if g == nil {
		return "none"
	}
	parts := []string{"graph " + valueNames(g.Inputs())}
	for _, v := range g.Initializers() {
		parts = append(parts, v.Name+" = "+attrTensor(v.Const))
	}
	for _, n := range g.Nodes() {
		parts = append(parts, nodeText(n))
	}
	return "<" + strings.Join(parts, "; ") + " → " + valueNames(g.Outputs()) + ">"
}
