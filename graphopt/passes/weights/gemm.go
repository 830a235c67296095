package weights

import (
	"errors"
	"fmt"
	"path"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// gemm makes a product of flattened activations one of activations as they are: Gemm takes two dimensions
// only, so exporters that use it reshape before and behind.
var gemm = &g.Rule{
	Name: "gemm",
	Doc:  "Reshape(Gemm(Reshape(x), weight)) where the first dimensions come back",
	Pattern: g.Op("Reshape",
		g.Op("Gemm", g.Op("Reshape", g.Any("x"), g.Any("")).Shared(), g.Const("weight")).As("product").
			Attr("transA", 0, 0).Attr("transB", 0, 0, 1).Where(unscaled), g.Any("")),
	Check: func(m *g.Match) error {
		w := m.Const("weight")
		if len(w.Shape) != 2 || !w.DType.Float() || w.Data == nil {
			return fmt.Errorf("the weight is %v%v", w.DType, w.Shape)
		}
		x, y := m.Unit.Type(m.Value("x")), m.Unit.Type(m.Root.Output(0))
		if !x.HasShape() || !y.HasShape() || len(x.Shape) != len(y.Shape) || len(x.Shape) < 2 {
			return errors.New("the shape before or behind is not known")
		}
		last := len(x.Shape) - 1
		for i, d := range x.Shape[:last] {
			if d != y.Shape[i] || d == ir.Sym("") {
				return fmt.Errorf("dimension %d is %v before and %v behind", i, d, y.Shape[i])
			}
		}
		depth, width := w.Shape[0], w.Shape[1]
		if m.Node("product").Int("transB", 0) == 1 {
			depth, width = width, depth
		}
		if x.Shape[last].Size != depth || y.Shape[last].Size != width {
			return fmt.Errorf("a weight %v between %v and %v", w.Shape, x.Shape[last], y.Shape[last])
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		n, weight := m.Node("product"), m.Value("weight")
		base := path.Dir(n.Name)
		if n.Int("transB", 0) == 1 {
			weight = m.Graph.Op("Transpose", path.Join(base, "Transpose"), []*ir.Value{weight}, ir.Ints("perm", 1, 0))
		}
		return m.Graph.Op("MatMul", path.Join(base, "MatMul"), []*ir.Value{m.Value("x"), weight}), nil
	},
}

func unscaled(n *ir.Node) error {
	if a := n.Float("alpha", 1); a != 1 {
		return fmt.Errorf("alpha is %g", a)
	}
	return nil
}
