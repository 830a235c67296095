package quantize

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// microsoft is the domain of ONNX Runtime's own operators.
const microsoft = "com.microsoft"

// Apply rewrites m, which must be the model that the plan was made for, unchanged since. No weight is
// read: the new tensors compute theirs while the model is saved.
func (p *Plan) Apply(m *ir.Model) error {
	if m != p.model {
		return errors.New("quantize: the plan is for another model")
	}
	if p.applied {
		return errors.New("quantize: the plan has been applied already")
	}
	for _, t := range p.Targets() {
		if err := t.supplied(); err != nil {
			return err
		}
	}
	p.applied = true
	operands := map[*weight]*operands{}
	for _, w := range p.weights {
		o, err := newOperands(m.Graph, w)
		if err != nil {
			return fmt.Errorf("quantize: %s: %w", w.name, err)
		}
		operands[w] = o
	}
	for _, s := range p.sites {
		if err := p.replace(s, operands[s.w]); err != nil {
			return fmt.Errorf("quantize: %v: %w", s.node, err)
		}
	}
	m.RequireOpset(microsoft, 1)
	if err := m.Graph.Sort(); err != nil {
		return fmt.Errorf("quantize: %w", err)
	}
	m.Graph.Prune()
	p.rest = floats(m.Graph)
	for _, o := range operands { // scales are part of the quantised weights
		if v := cmp.Or(o.stored, o.scales); !scale(v) {
			p.rest.bytes -= v.Const.ByteLen()
		}
	}
	return nil
}

// operands are a weight's new initializers; those that no node reads are nil.
type operands struct {
	product, lookup, scales, zeros *ir.Value

	stored *ir.Value // the initializer behind scales, where that is another
}

// newOperands adds a weight's initializers to g. The packed weights are three-dimensional for
// MatMulNBits and two-dimensional for GatherBlockQuantized: two initializers, one Data, and so one range
// of the file, which ONNX Runtime maps for both.
func newOperands(g *ir.Graph, w *weight) (*operands, error) {
	if w.c != nil {
		return newChannelOperands(g, w)
	}
	data, f, n, k := w.p.data(), w.format, w.p.n, w.p.k
	var errs []error
	add := func(suffix string, dtype ir.DType, d ir.Data, shape ...int64) *ir.Value {
		t, err := ir.NewTensor(dtype, shape, d)
		if err != nil {
			errs = append(errs, err)
			return nil
		}
		return g.AddInitializer(g.Fresh(w.name+suffix), t)
	}
	var o operands
	packed := fmt.Sprintf("_Q%d", f.Bits)
	if w.match {
		o.product = add(packed, ir.Uint8, data[outPadded], n, f.Blocks(k), f.BlockBytes())
	}
	if w.lookup {
		o.lookup = add(packed+"_rows", ir.Uint8, data[outDense], n, w.p.denseRow())
	}
	o.scales = add("_scales", w.scales, data[outScales], n, f.Blocks(k))
	if w.scales != w.rows.DType && len(errs) == 0 {
		o.stored = o.scales
		o.scales = g.Op("Cast", w.name+"_scales/Cast", []*ir.Value{o.stored}, ir.Int("to", int64(w.rows.DType)))
	}
	if !f.Symmetric {
		o.zeros = add("_zero_points", ir.Uint8, data[outZeroPoints], n, f.ZeroPointBytes(k))
	}
	return &o, errors.Join(errs...)
}

// replace puts the quantised operator in the place of a node.
func (p *Plan) replace(s site, o *operands) error {
	if s.w.c != nil {
		return p.integerProduct(s, o)
	}
	f := s.w.format
	spec := ir.NodeSpec{Domain: microsoft}
	if s.node.OpType == "Gather" {
		spec.Op = "GatherBlockQuantized"
		spec.Inputs = []*ir.Value{o.lookup, s.node.Input(1), o.scales}
		spec.Attrs = []*ir.Attr{
			ir.Int("gather_axis", 0), ir.Int("quantize_axis", 1),
			ir.Int("block_size", int64(f.BlockSize)), ir.Int("bits", int64(f.Bits)),
		}
	} else {
		spec.Op = "MatMulNBits"
		spec.Inputs = []*ir.Value{s.node.Input(0), o.product, o.scales}
		spec.Attrs = []*ir.Attr{
			ir.Int("K", s.w.p.k), ir.Int("N", s.w.p.n),
			ir.Int("bits", int64(f.Bits)), ir.Int("block_size", int64(f.BlockSize)),
			ir.Int("accuracy_level", int64(s.level)),
		}
	}
	if o.zeros != nil {
		spec.Inputs = append(spec.Inputs, o.zeros)
	}
	spec.Name = renamed(s.node, spec.Op)
	g := s.node.Graph()
	if err := g.Replace(s.node.Output(0), g.Add(spec).Output(0)); err != nil {
		return err
	}
	return g.Remove(s.node)
}

// renamed is the name of node n for an operator in its place.
func renamed(n *ir.Node, op string) string { return strings.TrimSuffix(n.Name, n.OpType) + op }
