// Package constants computes what does not depend on any input, and lifts Constant nodes to
// initializers, so that the rules behind it meet every constant in one form.
package constants

import (
	"errors"
	"fmt"

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
		if len(n.Outputs()) != 1 || n.HasGraph() || !interp.Known(n.OpType) || !n.Is("", n.OpType) || !small(n) {
			continue
		}
		out, err := interp.New(nil).Value(n.Output(0))
		if errors.Is(err, interp.ErrUnsupported) {
			continue
		}
		if err != nil {
			return folded, err
		}
		if out.Len() > maxElements {
			continue
		}
		t, err := out.IR()
		if err != nil {
			return folded, fmt.Errorf("%v: %w", n, err)
		}
		old := n.Output(0)
		if old.IsOutput() {
			continue // an output keeps its node: ONNX wants one
		}
		name := old.Name
		old.Name = graph.Fresh(name + "/folded")
		c := graph.AddInitializer(name, t)
		if err := graph.Replace(old, c); err != nil {
			return folded, err
		}
		if err := graph.Remove(n); err != nil {
			return folded, err
		}
		folded++
	}
	return folded, nil
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
