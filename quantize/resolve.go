package quantize

import (
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// constant is a weight as one operand sees it.
type constant struct {
	name    string     // of the initializer at the bottom
	root    *ir.Tensor // its content
	rootVal *ir.Value
	view    *ir.Tensor // the content as the operand sees it, lazily
	flipped bool       // view is root transposed
}

// maxChain bounds how many nodes between an initializer and its reader are looked through. Exporters
// put two there at most; without a bound a chain made for it would cost its length at every reader.
const maxChain = 16

// resolve finds the constant behind v through Identity, Cast between float types, and Transpose of a
// matrix. nil: v is not a constant, or one of another kind.
func resolve(v *ir.Value) *constant {
	var chain []*ir.Node
	for v != nil && v.Constant() == nil {
		n := v.Producer()
		if n == nil || len(chain) == maxChain {
			return nil
		}
		if t := constantNode(n); t != nil {
			break
		}
		if !n.Is("", "Identity") && !n.Is("", "Cast") && !n.Is("", "Transpose") {
			return nil
		}
		chain = append(chain, n)
		v = n.Input(0)
	}
	if v == nil {
		return nil
	}
	c := &constant{name: v.Name, root: v.Constant(), rootVal: v}
	if c.root == nil {
		c.root = constantNode(v.Producer())
	}
	if c.root.Data == nil {
		return nil
	}
	c.view = c.root
	for _, n := range slices.Backward(chain) {
		var err error
		switch n.OpType {
		case "Cast":
			c.view, err = ir.Cast(c.view, ir.DType(n.Int("to", 0)))
		case "Transpose":
			if perm := n.Ints("perm"); len(c.view.Shape) != 2 || perm != nil && !slices.Equal(perm, []int64{1, 0}) {
				return nil
			}
			c.flipped = !c.flipped
			c.view, err = ir.Transpose(c.view)
		}
		if err != nil {
			return nil
		}
	}
	return c
}

// constantNode is the content of a Constant node that holds a tensor.
func constantNode(n *ir.Node) *ir.Tensor {
	if !n.Is("", "Constant") {
		return nil
	}
	if a := n.Attr("value"); a != nil && a.Type == ir.AttrTensor {
		return a.T
	}
	return nil
}

// stored is t in the narrow type in which its data lies in a file, if t is such data widened: reading
// that is half the work. Widening is exact, so nothing else changes.
func stored(t *ir.Tensor) *ir.Tensor {
	for _, d := range []ir.DType{ir.BFloat16, ir.Float16} {
		if t.DType != ir.Float32 {
			break
		}
		narrow, err := ir.Cast(t, d)
		if err != nil {
			continue
		}
		// ir undoes a widening cast and gives what is below it. Any other cast is a new view.
		if again, err := ir.Cast(t, d); err == nil && again.Data == narrow.Data {
			return narrow
		}
	}
	return t
}
