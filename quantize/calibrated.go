package quantize

import (
	"errors"
	"fmt"
	"io"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrNotCalibrated is reported for a plan that is applied before its targets have been supplied.
var ErrNotCalibrated = errors.New("the method needs calibration data")

// Methods that need calibration data.
const (
	// GPTQ rounds the inputs of a weight one after the other and lets the later ones make good what the earlier
	// ones have cost.
	GPTQ Method = "gptq"
	// AWQ gives inputs that matter more a larger part of the levels: it rescales activations, which norms and
	// products before them take in, and then rounds to the scales with the smallest error of the product.
	AWQ Method = "awq"
	// AWQGPTQ rescales as AWQ does and then rounds as GPTQ does.
	AWQGPTQ Method = "awq+gptq"
)

// Calibrated reports whether the method needs calibration data.
func (m Method) Calibrated() bool { return m.Rescales() || m.Compensates() }

// Rescales reports whether the method begins with FoldAWQ.
func (m Method) Rescales() bool { return m == AWQ || m == AWQGPTQ }

// Compensates reports whether the levels are found by Factor.Round.
func (m Method) Compensates() bool { return m == GPTQ || m == AWQGPTQ }

// supplied is nil for a target that has what it needs.
func (t Target) supplied() error {
	p := t.weight.p
	if t.Method.Compensates() && p.ready == nil || !t.Method.Compensates() && p.counts == nil {
		return fmt.Errorf("quantize: %s of %s: %w", t.Method, t.Tensor, ErrNotCalibrated)
	}
	return nil
}

// Target is a weight of a plan whose levels depend on what it is multiplied with: they are found by
// running the model on calibration data, and given to the plan by Supply before it is applied.
type Target struct {
	Tensor string
	Method Method
	Format Format
	Nodes  []*ir.Node  // the products
	Inputs []*ir.Value // what they multiply the weight with, [..., K]: each once
	Lookup bool        // its rows are embeddings too

	matrix *ir.Tensor // [N, K]
	weight *weight
}

// Rows is N, the number of outputs.
func (t Target) Rows() int64 { return t.matrix.Shape[0] }

// Columns is K, the number of inputs.
func (t Target) Columns() int64 { return t.matrix.Shape[1] }

func (t Target) scaleType() ir.DType {
	if t.weight == nil { // of no plan
		return t.matrix.DType
	}
	return t.weight.scales
}

// Values is the weight before quantisation, [N, K].
func (t Target) Values() *ir.Tensor { return t.matrix }

// Targets lists the weights that need calibration, in the order in which the graph reads them. Weights that are
// looked up and never multiplied are not among them: they are rounded to nearest.
func (p *Plan) Targets() []Target {
	var all []Target
	for _, w := range p.weights {
		if !w.match || !w.method.Calibrated() {
			continue
		}
		t := Target{Tensor: w.name, Method: w.method, Format: w.format, Lookup: w.lookup, matrix: w.rows, weight: w}
		seen := map[*ir.Value]bool{}
		for _, s := range p.sites {
			if s.w != w || s.node.Is("", "Gather") {
				continue
			}
			t.Nodes = append(t.Nodes, s.node)
			if x := s.node.Input(0); !seen[x] {
				seen[x] = true
				t.Inputs = append(t.Inputs, x)
			}
		}
		all = append(all, t)
	}
	return all
}

// Levels is a weight in its format, found ahead. The parts are laid out as Format says; ZeroPoints is nil in
// symmetric formats. They are read while the model is saved.
type Levels struct {
	Packed, Scales, ZeroPoints ir.Data
	Compensated
}

// LevelSizes are the sizes of a target's packed weights, scales and zero points in bytes.
func (t Target) LevelSizes() [3]int64 {
	f, n, k := t.Format, t.Rows(), t.Columns()
	return [3]int64{n * f.RowBytes(k), n * f.Blocks(k) * int64(t.scaleType().Bits()/8), n * f.ZeroPointBytes(k)}
}

// Supply gives a target of the plan its levels.
func (p *Plan) Supply(t Target, l Levels) error {
	for i, part := range []struct {
		what string
		d    ir.Data
	}{{"packed weights", l.Packed}, {"scales", l.Scales}, {"zero points", l.ZeroPoints}} {
		if want := t.LevelSizes()[i]; want > 0 && (part.d == nil || part.d.Len() != want) {
			return fmt.Errorf("quantize: %s of %s are not of %d bytes", part.what, t.Tensor, want)
		}
	}
	t.weight.p.supply(l)
	return nil
}

// Weigh tells a target of the plan how much an error counts at each input, [K]: its scales are then those with the
// smallest weighted error. Targets of AWQ need it, and Statistics have it: the mean of x².
func (p *Plan) Weigh(t Target, counts []float32) error {
	if int64(len(counts)) != t.Columns() {
		return fmt.Errorf("quantize: %s has %d inputs, the statistics %d", t.Tensor, t.Columns(), len(counts))
	}
	t.weight.p.counts = normalised(counts)
	return nil
}

// supply lets p copy what has been found ahead.
func (p *producer) supply(l Levels) { p.ready = &l }

// copyReady is Produce for levels that have been found ahead.
func (p *producer) copyReady(first, rows int64, out []io.WriterAt) error {
	ws := workspaces.Get().(*workspace)
	defer workspaces.Put(ws)
	copyRows := func(i int, d ir.Data, width int64) ([]byte, error) {
		if width == 0 {
			return nil, nil
		}
		b := resize(&ws.out[i], rows*width)
		if n, err := d.ReadAt(b, first*width); n < len(b) {
			return nil, fmt.Errorf("quantize: read levels of %s: %w", p.name, err)
		}
		_, err := out[i].WriteAt(b, first*width)
		return b, err
	}
	packed, err := copyRows(outPadded, p.ready.Packed, p.RowBytes(p.k))
	if err != nil {
		return err
	}
	if p.padded() {
		width := p.denseRow()
		dense := resize(&ws.out[outDense], rows*width)
		for r := range rows {
			copy(dense[r*width:][:width], packed[r*p.RowBytes(p.k):])
		}
		if _, err := out[outDense].WriteAt(dense, first*width); err != nil {
			return err
		}
	}
	if _, err := copyRows(outScales, p.ready.Scales, p.Blocks(p.k)*int64(p.scaleType.Bits()/8)); err != nil {
		return err
	}
	_, err = copyRows(outZeroPoints, p.ready.ZeroPoints, p.ZeroPointBytes(p.k))
	return err
}

// Use is a node that reads a weight of a plan.
type Use struct {
	Node    *ir.Node
	Product bool       // the weight is operand 1 of a product; otherwise it is the table of a Gather
	Values  *ir.Tensor // the weight before quantisation, [N, K]

	weight *weight
}

// Uses lists the nodes that read the plan's weights, in graph order.
func (p *Plan) Uses() []Use {
	all := make([]Use, len(p.sites))
	for i, s := range p.sites {
		all[i] = Use{s.node, !s.node.Is("", "Gather"), s.w.rows, s.w}
	}
	return all
}

// Embedding is the table [vocabulary, K] of a Gather that looks up the tokens that the model is given.
func Embedding(n *ir.Node) (table *ir.Tensor, ok bool) {
	if !n.Is("", "Gather") || !fromInputIDs(n.Input(1)) {
		return nil, false
	}
	axis := n.Int("axis", 0)
	c := resolve(n.Input(0))
	if c == nil || !c.view.DType.Float() || c.view.Rank() != 2 || axis != 0 && axis != -2 {
		return nil, false
	}
	return c.view, true
}

// Rounded is the weight as the plan quantises it. Of targets it is what rounding to nearest gives. Its
// levels are computed with the first row that is read, and kept in memory.
func (u Use) Rounded() (*Matrix, error) {
	w := u.weight
	data, n, k := w.p.data(), w.p.n, w.p.k
	m := &Matrix{
		Format: w.format, N: n, K: k, stride: w.format.RowBytes(k),
		packed: &ir.Tensor{DType: ir.Uint8, Shape: []int64{n, w.format.RowBytes(k)}, Data: data[outPadded]},
		scales: &ir.Tensor{DType: w.scales, Shape: []int64{n, w.format.Blocks(k)}, Data: data[outScales]},
	}
	if !w.format.Symmetric {
		m.zeros = &ir.Tensor{DType: ir.Uint8, Shape: []int64{n, w.format.ZeroPointBytes(k)}, Data: data[outZeroPoints]}
	}
	return m, nil
}

// notFiniteRow names what cannot be quantised in row n of a weight.
func notFiniteRow(name string, row []float32, n int64) error {
	for i, v := range row {
		if v-v != 0 {
			return fmt.Errorf("quantize: %w: %s has %v at output %d, input %d", ErrNotFinite, name, v, n, i)
		}
	}
	return fmt.Errorf("quantize: %w: the range of %s at output %d exceeds float32", ErrNotFinite, name, n)
}
