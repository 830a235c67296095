// Package reshapes gives Reshape nodes constant shapes.
//
//	Reshape(x, Concat(Shape(x)[0:1], Shape(x)[1:2], [−1], [64])) ⇒ Reshape(x, [0, 0, −1, 64])
//
// Exporters that trace a program compute shapes as the program did: dozens of small nodes a layer,
// each of which costs a kernel call, and behind which shape inference sees nothing. A target shape
// is written with 0 for a dimension that x has in the same place, with a number where it is the same for
// all inputs, and with at most one −1 for the rest.
//
// Whether that is the same shape is found out by computing it for inputs of different lengths. Only
// shapes that are made of other shapes and constants by integer arithmetic are looked at: sums,
// products and quotients of a few lengths that agree on several sets of unrelated primes are equal.
package reshapes

import (
	"errors"
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass makes the shapes of a graph's Reshape nodes constant.
var Pass = &g.Pass{
	Name:  "reshapes",
	Doc:   "Reshape to a computed shape becomes Reshape to a constant one, with 0 and -1 for what varies",
	Needs: "shapes computed from shapes; behind attention few are left",
	After: []string{"opset", "constants", "attention"},
	Run:   run,
}

const passName = "reshapes"

// lengths are the runs for which shapes are computed. The last has no past, as a prompt has none.
var lengths = []sample.Lengths{
	{Batch: 2, Sequence: 7, Past: 11}, {Batch: 5, Sequence: 13, Past: 17}, {Batch: 3, Sequence: 19, Past: 0},
}

func run(u *g.Unit) (int, error) {
	graph := u.Model.Graph
	in := sample.Find(graph)
	var runs []*interp.Evaluator
	for _, l := range lengths {
		runs = append(runs, interp.New(in.Given(in.Fit(l))))
	}
	made := 0
	for _, n := range graph.Nodes() {
		if !n.Is("", "Reshape") || n.Input(0) == nil || n.Input(1) == nil || n.Input(1).Constant() != nil {
			continue
		}
		shape, err := constantShape(n, runs)
		if err != nil {
			u.Decline(passName, n.String(), err)
			continue
		}
		c := graph.AddInitializer(graph.Fresh(n.Name+"/shape"), ir.Int64Tensor(shape))
		n.SetInput(1, c)
		n.Attrs = slices.DeleteFunc(n.Attrs, func(a *ir.Attr) bool { return a.Name == "allowzero" })
		u.Applied(passName, n.String())
		made++
	}
	return made, nil
}

// constantShape finds a shape operand for n that gives what its computed one gives.
func constantShape(n *ir.Node, runs []*interp.Evaluator) ([]int64, error) {
	if err := fromShapes(n.Input(1)); err != nil {
		return nil, err
	}
	var from, to [][]int64 // for each run
	for _, e := range runs {
		x, err := e.Shape(n.Input(0))
		if err != nil {
			return nil, err
		}
		y, err := e.Shape(n.Output(0))
		if err != nil {
			return nil, err
		}
		from, to = append(from, x.Shape), append(to, y.Shape)
		if len(y.Shape) != len(to[0]) || len(x.Shape) != len(from[0]) {
			return nil, errors.New("the number of dimensions varies")
		}
	}
	shape := make([]int64, len(to[0]))
	rest := -1
	for i := range shape {
		switch {
		case to[0][i] != 0 && everywhere(to, func(run int) int64 { return to[0][i] }, i):
			shape[i] = to[0][i]
		case i < len(from[0]) && everywhere(to, func(run int) int64 { return from[run][i] }, i):
			shape[i] = 0
		case rest >= 0:
			return nil, fmt.Errorf("more than one dimension of %v is neither fixed nor copied", to[0])
		default:
			shape[i], rest = -1, i
		}
	}
	if rest < 0 {
		return shape, nil
	}
	for _, s := range to {
		if slices.Contains(s, 0) {
			return nil, errors.New("without a past there are no elements from which a dimension could be inferred")
		}
	}
	return shape, nil
}

// everywhere reports whether dimension i is, in every run, what want says.
func everywhere(to [][]int64, want func(run int) int64, i int) bool {
	for run, s := range to {
		if s[i] != want(run) {
			return false
		}
	}
	return true
}

// maxNodes bounds the arithmetic behind one shape.
const maxNodes = 256

// fromShapes makes sure that v is computed from shapes and constants alone, by operations of which
// agreement on the runs means agreement on all of them.
func fromShapes(v *ir.Value) error {
	seen := map[*ir.Value]bool{}
	stack := []*ir.Value{v}
	for len(stack) > 0 {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if v == nil || seen[v] || v.Constant() != nil {
			continue
		}
		if seen[v] = true; len(seen) > maxNodes {
			return fmt.Errorf("more than %d nodes compute the shape", maxNodes)
		}
		n := v.Producer()
		if n == nil {
			return fmt.Errorf("the shape depends on the content of %q", v.Name)
		}
		if n.Is("", "Shape") {
			continue
		}
		if !n.Is("", n.OpType) || !slices.Contains(arithmetic, n.OpType) {
			return fmt.Errorf("%v takes part in the shape", n)
		}
		stack = append(stack, n.Inputs()...)
	}
	return nil
}

var arithmetic = []string{
	"Add", "Sub", "Mul", "Div", "Cast", "Concat", "Gather", "Identity", "Reshape", "Size", "Slice", "Split",
	"Squeeze", "Unsqueeze",
}
