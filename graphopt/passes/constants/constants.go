// Package constants computes what does not depend on any input, and lifts Constant nodes to
// initializers, so that the rules behind it meet every constant in one form.
package constants

import (
	"errors"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass folds constants.
var Pass = &g.Pass{
	Name:  "constants",
	Doc:   "constant expressions and Constant nodes become initializers",
	Needs: "nothing; weights are left where they are",
	Run:   run,
}

// maxElements keeps weights out: a transposed or cast weight is dealt with where it is used.
const maxElements = 4096

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	folded := 0
	for _, n := range graph.Nodes() { // operands come first, so one sweep suffices
		if len(n.Outputs()) != 1 || n.HasGraph() || n.Output(0).IsOutput() { // an output keeps its node: ONNX wants one
			continue
		}
		t, err := value(n)
		if errors.Is(err, interp.ErrUnsupported) {
			continue
		}
		if err != nil {
			u.Decline(passName, n.String(), err) // it is for ONNX Runtime to say, when it gets there
			continue
		}
		old := n.Output(0)
		name := old.Name
		old.Name = graph.Fresh(name + "/folded")
		if err := graph.Replace(old, graph.AddInitializer(name, t)); err != nil {
			return folded, err
		}
		if err := graph.Remove(n); err != nil {
			return folded, err
		}
		u.Applied(passName, n.String())
		folded++
	}
	return folded, nil
}

const passName = "constants"

// value is what n always gives. It fails with interp.ErrUnsupported where that is not known, or too
// large to be worth storing.
func value(n *ir.Node) (*ir.Tensor, error) {
	if a := n.Attr("value"); n.Is("", "Constant") && a != nil && a.T != nil {
		return a.T, nil // of any size and type
	}
	if !small(n) {
		return nil, interp.ErrUnsupported
	}
	e := interp.New(nil)
	e.MaxElements = maxElements
	t, err := e.Value(n.Output(0))
	if err != nil {
		return nil, err
	}
	return t.IR()
}

// small reports whether all operands of n are constants of moderate size.
func small(n *ir.Node) bool {
	for _, v := range n.Inputs() {
		if v == nil {
			continue
		}
		c := v.Constant()
		if c == nil {
			return false
		}
		if n.OpType != "Shape" && c.Len() > maxElements {
			return false
		}
	}
	return true
}
