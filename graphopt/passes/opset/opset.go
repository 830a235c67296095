// Package opset raises a model to the oldest opset that has all that the other passes write.
//
//	Unsqueeze(x) {axes=[1]}, opset 11 ⇒ Unsqueeze(x, [1]), opset 15
//
// That is opset 15, the first in which Shape takes a range; 13 made operands of the axes of Squeeze, Unsqueeze
// and ReduceSum and of the sizes of Split, and changed what Softmax means over an axis that is not the last.
// Changes of other operators are listed in ONNX's Changelog.md. Models of a later opset are left as they
// are, and so are those with an operator whose change this package does not know.
package opset

import (
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass converts a model's operators upward.
var Pass = &g.Pass{
	Name:  "opset",
	Doc:   "models of opset 11 to 14 are converted to opset 15, which the other passes need",
	Needs: "no operator that changed in a way not known here",
	Run:   run,
}

const (
	passName = "opset"
	oldest   = 11
	wanted   = 15
)

func run(u *g.Unit) (int, error) {
	version := u.Model.Opset("")
	if version == 0 || version >= wanted {
		return 0, nil
	}
	if version < oldest {
		u.Decline(passName, "", fmt.Errorf("opset %d is older than %d", version, oldest))
		return 0, nil
	}
	var nodes []*ir.Node
	u.Model.Graph.Walk(func(n *ir.Node) { nodes = append(nodes, n) })
	for _, n := range nodes {
		if err := convertible(u, n, version); err != nil {
			u.Decline(passName, n.String(), err)
			return 0, nil
		}
	}
	converted := 0
	for _, n := range nodes {
		attr, ok := moved[n.OpType]
		if !ok || !n.Is("", n.OpType) || version >= 13 {
			continue
		}
		if a := n.Attr(attr); a != nil {
			gr := n.Graph()
			n.SetInput(1, gr.AddInitializer(gr.Fresh(n.OpType+"/"+attr), ir.Int64Tensor(n.Ints(attr))))
			n.Attrs = slices.DeleteFunc(n.Attrs, func(b *ir.Attr) bool { return b == a })
			converted++
		}
	}
	u.Model.RequireOpset("", wanted)
	u.Applied(passName, "")
	return converted + 1, nil
}

// moved are the attributes that opset 13 made the second operand.
var moved = map[string]string{"Squeeze": "axes", "Unsqueeze": "axes", "ReduceSum": "axes", "Split": "split"}

// changed are operators that mean something else, or are written in another way, from an opset on.
var changed = map[string]int64{
	"Dropout": 12, "BatchNormalization": 14, "Resize": 13, "Hardmax": 13, "LogSoftmax": 13, "Softmax": 13,
}

func convertible(u *g.Unit, n *ir.Node, version int64) error {
	if !n.Is("", n.OpType) || version >= changed[n.OpType] {
		return nil
	}
	if n.OpType != "Softmax" && n.OpType != "LogSoftmax" {
		return fmt.Errorf("%s changed in opset %d", n.OpType, changed[n.OpType])
	}
	// Before opset 13 the axis was 1 unless given, and all axes from it on were one.
	axis := n.Int("axis", 1)
	if axis == -1 {
		return nil
	}
	if t := u.Type(n.Input(0)); n.Graph() == u.Model.Graph && t.HasShape() && axis == int64(len(t.Shape))-1 {
		n.SetAttr(ir.Int("axis", -1))
		return nil
	}
	return fmt.Errorf("the softmax runs over axis %d, not the last", axis)
}
