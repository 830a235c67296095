// Package weights brings a model's weights into the form in which the other passes look for them.
//
//	MatMul(x, Transpose(W)), MatMul(x, Cast(W))        ⇒ MatMul(x, W')
//	GatherBlockQuantized(Reshape(W), ids)              ⇒ GatherBlockQuantized(W', ids)
//	Reshape(Gemm(Reshape(x), W; transB 1))             ⇒ MatMul(x, W')
//	Gather(Transpose(W), ids), MatMul(x, W)            ⇒ Gather(E, ids), MatMul(x, Transpose(E))
//	Gather(E, ids), MatMul(x, W) with W = E transposed ⇒ Gather(E, ids), MatMul(x, Transpose(E))
//
// W' and E are views: nothing is computed before the model is saved. The last two make tied embeddings one
// tensor, in the form that pass tied-head turns into one product. An exporter that traces a program, or
// folds constants, stores such a table twice. Whether two tensors that could be one are one is found out
// by reading them, to the first difference; see ir.Equal.
package weights

import (
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass does all of that.
var Pass = &g.Pass{
	Name:  "weights",
	Doc:   "weights behind Cast, Reshape and Transpose become initializers, Gemm becomes MatMul, tied embeddings become one tensor",
	Needs: "weights that are constants; reads two tensors where one may be the other transposed",
	After: []string{"opset", "constants", "cleanup"},
	Run:   run,
}

const passName = "weights"

func run(u *g.Unit) (int, error) {
	changed, err := u.Apply(gemm)
	if err != nil {
		return changed, err
	}
	w := &weights{unit: u, graph: u.Model.Graph}
	for _, step := range []func() error{w.casts, w.reshapes, w.lookups, w.transpositions, w.ties} {
		if err := step(); err != nil {
			return changed + w.changed, err
		}
	}
	return changed + w.changed, nil
}

type weights struct {
	unit    *g.Unit
	graph   *ir.Graph
	changed int
}

func (w *weights) done(n *ir.Node) {
	w.unit.Applied(passName, n.String())
	w.changed++
}

// fold replaces the result of n by a constant.
func (w *weights) fold(n *ir.Node, t *ir.Tensor) error {
	old := n.Output(0)
	name := old.Name
	old.Name = w.graph.Fresh(name + "/folded")
	if err := w.graph.Replace(old, w.graph.AddInitializer(name, t)); err != nil {
		return err
	}
	w.done(n)
	return w.graph.Remove(n)
}

// matrix is the constant that v is, if it is one of floating point numbers and two dimensions.
func matrix(v *ir.Value) *ir.Tensor {
	if c := v.Constant(); c != nil && len(c.Shape) == 2 && c.DType.Float() && c.Data != nil {
		return c
	}
	return nil
}

// inside reports whether n gives something that is no output of the graph: outputs keep their nodes.
func inside(n *ir.Node) bool { return n.Output(0) != nil && !n.Output(0).IsOutput() }

// turned reports whether n transposes a matrix.
func turned(n *ir.Node) bool {
	perm := n.Ints("perm")
	return n.Is("", "Transpose") && n.Output(0) != nil && matrix(n.Input(0)) != nil && (perm == nil || slices.Equal(perm, []int64{1, 0}))
}

// casts folds casts of weights. Those of small constants are computed before.
func (w *weights) casts() error {
	for _, n := range w.graph.Nodes() { // operands come first: a cast of a cast is folded too
		to := ir.DType(n.Int("to", 0))
		if !n.Is("", "Cast") || n.Input(0).Constant() == nil || !inside(n) {
			continue
		}
		if c := n.Input(0).Constant(); c.DType.Float() && c.Data != nil && to.Float() {
			t, err := ir.Cast(c, to)
			if err != nil {
				return err
			}
			if to.Bits() <= c.DType.Bits() && to != c.DType {
				t = &ir.Tensor{DType: t.DType, Shape: t.Shape, Data: &rounded{t.Data}}
			}
			if err := w.fold(n, t); err != nil {
				return err
			}
		}
	}
	return nil
}

// reshapes folds those of weights: a table that is stored once in two shapes stays one range of the file, while
// ONNX Runtime would compute a second table from the first.
func (w *weights) reshapes() error {
	for _, n := range w.graph.Nodes() {
		c, to := n.Input(0).Constant(), n.Input(1).Constant()
		if !n.Is("", "Reshape") || c == nil || to == nil || c.Data == nil || !inside(n) {
			continue
		}
		shape, err := to.Int64s()
		if err != nil || slices.ContainsFunc(shape, func(d int64) bool { return d <= 0 }) {
			continue // to be computed; exporters write shapes of weights as they are
		}
		t, err := ir.Reshape(c, shape...)
		if err != nil {
			w.unit.Decline(passName, n.String(), err)
			continue
		}
		if err := w.fold(n, t); err != nil {
			return err
		}
	}
	return nil
}

// rounded is the result of a cast that loses digits. ir would take a cast back for no cast at all.
type rounded struct{ ir.Data }

// Granule is that of the cast itself.
func (r *rounded) Granule() int64 {
	if d, ok := r.Data.(interface{ Granule() int64 }); ok {
		return d.Granule()
	}
	return 1
}

// lookups stores a table of which columns are looked up as one of rows. Its products are with the transposed
// table then.
func (w *weights) lookups() error {
	for _, n := range w.graph.Nodes() {
		if !turned(n) || !inside(n) || !slices.ContainsFunc(n.Output(0).Uses(), lookup) {
			continue
		}
		stored := n.Input(0)
		if i := slices.IndexFunc(stored.Uses(), func(u ir.Use) bool { return u.Node != n && !(u.Index == 1 && u.Node.Is("", "MatMul")) }); i >= 0 {
			w.unit.Decline(passName, n.String(), fmt.Errorf("%q is read by %v as it is", stored.Name, stored.Uses()[i].Node))
			continue
		}
		rows, err := ir.Transpose(matrix(stored))
		if err != nil {
			return err
		}
		table := w.graph.AddInitializer(w.graph.Fresh(stored.Name+"/rows"), rows)
		if err := w.graph.Replace(n.Output(0), table); err != nil {
			return err
		}
		for _, u := range stored.Uses() {
			if u.Node != n {
				w.transposed(u, table)
			}
		}
		w.done(n)
		if err := w.graph.Remove(n); err != nil {
			return err
		}
	}
	return nil
}

// lookup reports whether u chooses rows of a matrix.
func lookup(u ir.Use) bool {
	return u.Index == 0 && u.Node.Is("", "Gather") && u.Node.Int("axis", 0) == 0
}

// transposed lets u read the transposed table.
func (w *weights) transposed(u ir.Use, table *ir.Value) {
	name := u.Node.Name + "/Transpose"
	u.Node.SetInput(u.Index, w.graph.Op("Transpose", name, []*ir.Value{table}, ir.Ints("perm", 1, 0)))
}

// transpositions folds those of weights that nothing reads as they are: products of tables stay.
func (w *weights) transpositions() error {
	for _, n := range w.graph.Nodes() {
		if !turned(n) || !inside(n) || n.Input(0).NumUses() > 1 {
			continue
		}
		t, err := ir.Transpose(matrix(n.Input(0)))
		if err != nil {
			return err
		}
		if err := w.fold(n, t); err != nil {
			return err
		}
	}
	return nil
}

// ties finds products with a table that is stored once more.
func (w *weights) ties() error {
	for _, n := range w.graph.Nodes() {
		if !n.Is("", "Gather") || n.Int("axis", 0) != 0 || matrix(n.Input(0)) == nil {
			continue
		}
		table := n.Input(0)
		for _, m := range w.graph.Nodes() {
			if !m.Is("", "MatMul") || m.Input(1) == nil {
				continue
			}
			other, view := m.Input(1), matrix(m.Input(1))
			if view != nil {
				var err error
				if view, err = ir.Transpose(view); err != nil {
					return err
				}
			} else if p := m.Input(1).Producer(); turned(p) {
				other, view = p.Input(0), matrix(p.Input(0))
			}
			if view == nil || other == table {
				continue
			}
			same, err := ir.Equal(w.unit.Context(), matrix(table), view)
			if err != nil {
				return err
			}
			if same {
				w.transposed(ir.Use{Node: m, Index: 1}, table)
				w.done(m)
			}
		}
	}
	return nil
}
