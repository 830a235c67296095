package graphopt

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Dump writes a graph as text, one line for each input, constant, node and output, in graph order:
//
//	graph main, ir 10, opset 21, com.microsoft 1
//	  in x: float32[batch,64]
//	  const axes: int64[1] = [-1]
//	  y = ReduceMean(x, axes) {keepdims=1} # /norm/ReduceMean
//	  out y: float32[batch,1]
//
// Operands and results that are left out are "_". Constants of up to eight elements are shown
// with their values, others by type and shape; no weight is read. Equal models give equal text.
func Dump(w io.Writer, m *ir.Model) error {
	d := &dumper{w: bufio.NewWriter(w)}
	opsets := make([]string, len(m.Opsets))
	for i, o := range m.Opsets {
		name := o.Domain
		if name == "" {
			name = "opset"
		}
		opsets[i] = fmt.Sprintf("%s %d", quoted(name), o.Version)
	}
	d.line(0, "graph %s, ir %d, %s", quoted(m.Graph.Name), m.IRVersion, strings.Join(opsets, ", "))
	d.graph(m.Graph, 1)
	for _, f := range m.Functions {
		d.line(0, "function %s.%s", quoted(f.Domain), quoted(f.Name))
	}
	return d.w.Flush()
}

type dumper struct{ w *bufio.Writer }

func (d *dumper) line(depth int, format string, args ...any) {
	fmt.Fprintf(d.w, strings.Repeat("  ", depth)+format+"\n", args...) // Flush reports errors
}

func (d *dumper) graph(g *ir.Graph, depth int) {
	for _, v := range g.Inputs() {
		d.line(depth, "in %s: %s%s", quoted(v.Name), typeText(v.Type), content(v.Const))
	}
	for _, v := range g.Initializers() {
		if !v.IsInput() {
			d.line(depth, "const %s: %v%s%s", quoted(v.Name), v.Const.DType, dims(v.Const.Shape), content(v.Const))
		}
	}
	for _, n := range g.Nodes() {
		d.node(n, depth)
	}
	for _, v := range g.Outputs() {
		d.line(depth, "out %s: %s", quoted(v.Name), typeText(v.Type))
	}
}

func (d *dumper) node(n *ir.Node, depth int) {
	op := n.OpType
	if !n.Is("", op) {
		op = n.Domain + "." + op
	}
	var attrs []string
	for _, a := range n.Attrs {
		attrs = append(attrs, quoted(a.Name)+"="+attrText(a))
	}
	text := fmt.Sprintf("%s = %s(%s)", list(n.Outputs()), quoted(op), list(n.Inputs()))
	if len(attrs) > 0 {
		text += " {" + strings.Join(attrs, ", ") + "}"
	}
	if n.Name != "" {
		text += " # " + quoted(n.Name)
	}
	d.line(depth, "%s", text)
	for _, a := range n.Attrs {
		bodies := a.Graphs
		if a.G != nil {
			bodies = []*ir.Graph{a.G}
		}
		for _, b := range bodies {
			d.line(depth+1, "%s: graph %s", quoted(a.Name), quoted(b.Name))
			d.graph(b, depth+2)
		}
	}
}

// quoted is a name as it is, or in quotes where it could be taken for something else.
func quoted(s string) string {
	odd := func(r rune) bool { return !unicode.IsGraphic(r) || strings.ContainsRune(" ,=#()[]{}\"", r) }
	if s == "" || s == "_" || strings.ContainsFunc(s, odd) {
		return strconv.Quote(s)
	}
	return s
}

func list(vs []*ir.Value) string {
	names := make([]string, len(vs))
	for i, v := range vs {
		names[i] = "_"
		if v != nil {
			names[i] = quoted(v.Name)
		}
	}
	return strings.Join(names, ", ")
}

func dims(shape []int64) string { return strings.ReplaceAll(fmt.Sprint(shape), " ", ",") }

func typeText(t *ir.Type) string {
	if t == nil {
		return "?"
	}
	if !t.HasShape() {
		return t.DType.String()
	}
	parts := make([]string, len(t.Shape))
	for i, d := range t.Shape {
		switch {
		case d.Size >= 0:
			parts[i] = strconv.FormatInt(d.Size, 10)
		case d.Param != "":
			parts[i] = quoted(d.Param)
		default:
			parts[i] = "?"
		}
	}
	return fmt.Sprintf("%v[%s]", t.DType, strings.Join(parts, ","))
}

// shownElements is how many elements a constant may have for its values to be shown.
const shownElements = 8

func content(t *ir.Tensor) string {
	if t == nil || t.Len() > shownElements || t.Data == nil {
		return ""
	}
	var text string
	if t.DType.Float() {
		v, err := t.Float32s()
		if err != nil {
			return ""
		}
		text = fmt.Sprint(v)
	} else {
		v, err := t.Int64s()
		if err != nil {
			return ""
		}
		text = fmt.Sprint(v)
	}
	return " = " + strings.ReplaceAll(text, " ", ",")
}

func attrText(a *ir.Attr) string {
	switch a.Type {
	case ir.AttrFloat:
		return strconv.FormatFloat(float64(a.F), 'g', -1, 32)
	case ir.AttrInt:
		return strconv.FormatInt(a.I, 10)
	case ir.AttrString:
		return strconv.Quote(string(a.S))
	case ir.AttrInts:
		return dims(a.Ints)
	case ir.AttrFloats:
		return strings.ReplaceAll(fmt.Sprint(a.Floats), " ", ",")
	case ir.AttrStrings:
		return strings.ReplaceAll(fmt.Sprintf("%q", a.Strings), " ", ",")
	case ir.AttrTensor:
		if a.T != nil {
			return fmt.Sprintf("%v%s%s", a.T.DType, dims(a.T.Shape), content(a.T))
		}
	case ir.AttrGraph, ir.AttrGraphs:
		return "graph"
	}
	return fmt.Sprintf("type(%d)", a.Type)
}
