package calib

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// observer sees the activations of a model.
type observer interface {
	// begin is called before a point's first batch, with the width of its activations.
	begin(p *point, width int) error
	// observe is called with the point's activations [..., width] in one batch after the other.
	observe(ctx context.Context, p *point, x *ort.Tensor) error
	// finish is called after the last batch. What it returns is what the point's products are computed with from here
	// on, [K, N]; nil for the weights that the model has. The walk closes the tensors.
	finish(ctx context.Context, p *point, needed func(*ir.Node) bool) (map[*ir.Node]*ort.Tensor, error)
}

// walk takes all samples through the graph, part by part.
type walk struct {
	cutter
	model    *ir.Model
	uses     map[*ir.Node]quantize.Use
	points   []*point
	samples  [][]int64
	batch    int // samples that run at once
	spool    *spool
	dir      string
	threads  int
	rounded  bool // weights that are no targets are computed with as they will be quantised
	weights  map[*ir.Node]*ort.Tensor
	tables   map[*ir.Value]*ort.Tensor
	needed   map[*ir.Node]bool
	progress func(p *point, done, total int)
}

// batchTokens is about how many tokens run at once: enough for products to be as fast as they get.
const batchTokens = 2048

func newWalk(m *ir.Model, p *quantize.Plan, targets []quantize.Target, samples [][]int64, dir string, threads int) (*walk, error) {
	w := &walk{
		cutter: cutter{products: map[*ir.Node]bool{}, given: map[*ir.Value]bool{}, place: map[*ir.Node]int{}},
		model:  m, uses: map[*ir.Node]quantize.Use{}, samples: samples,
		batch: max(1, batchTokens/len(samples[0])), dir: dir, threads: threads,
		spool: newSpool(dir), weights: map[*ir.Node]*ort.Tensor{}, tables: map[*ir.Value]*ort.Tensor{}, needed: map[*ir.Node]bool{},
	}
	for i, n := range m.Graph.Nodes() {
		w.place[n] = i
	}
	if p != nil {
		for _, u := range p.Uses() {
			w.uses[u.Node] = u
			w.products[u.Node] = u.Product
		}
	}
	for _, n := range m.Graph.Nodes() {
		if _, ok := quantize.Embedding(n); ok {
			w.given[n.Output(0)] = true
		}
	}
	for _, v := range m.Graph.Inputs() {
		w.given[v] = v.Const == nil
	}
	w.points = points(targets, w.place)
	if err := w.cut(w.points); err != nil {
		return nil, err
	}
	for _, p := range w.points {
		for _, n := range p.before.nodes {
			w.needed[n] = true
		}
	}
	return w, nil
}

func (w *walk) close() {
	w.spool.close()
	for _, t := range w.weights {
		t.Close()
	}
	for _, t := range w.tables {
		t.Close()
	}
}

// batches is how many runs it takes.
func (w *walk) batches() int { return (len(w.samples) + w.batch - 1) / w.batch }

// ids are the samples of a batch, as one.
func (w *walk) ids(batch int) (ids []int64, rows, length int64) {
	some := w.samples[batch*w.batch : min((batch+1)*w.batch, len(w.samples))]
	for _, s := range some {
		ids = append(ids, s...)
	}
	return ids, int64(len(some)), int64(len(some[0]))
}

// run goes through all points.
func (w *walk) run(ctx context.Context, o observer) error {
	if err := w.feed(); err != nil {
		return err
	}
	for i, p := range w.points {
		if err := w.reach(ctx, i, p, o); err != nil {
			return err
		}
		found, err := o.finish(ctx, p, func(n *ir.Node) bool { return w.needed[n] })
		for n, t := range found {
			w.weights[n] = t
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// feed gives the spool what the graph reads: its inputs and the embeddings.
func (w *walk) feed() error {
	read := map[*ir.Value]bool{}
	for _, p := range w.points {
		for _, v := range p.before.inputs {
			read[v] = w.given[v]
		}
	}
	for _, v := range w.model.Graph.Inputs() { // in this order, for errors to be the same each time
		if read[v] {
			if err := w.feedInput(v); err != nil {
				return err
			}
		}
	}
	for _, n := range w.model.Graph.Nodes() {
		if v := n.Output(0); v != nil && read[v] {
			if err := w.feedEmbedding(n); err != nil {
				return err
			}
		}
	}
	return nil
}

// feedInput makes up an input: the tokens at their positions, none of them masked, nothing cached.
func (w *walk) feedInput(v *ir.Value) error {
	for b := range w.batches() {
		ids, rows, length := w.ids(b)
		var t *ort.Tensor
		var err error
		switch {
		case v.Name == "input_ids", v.Name == "attention_mask", v.Name == "position_ids":
			if v.Type == nil || v.Type.DType != ir.Int64 {
				return fmt.Errorf("calib: input %s is not int64", v.Name)
			}
			if t, err = ort.NewTensor(ort.Int64, rows, length); err != nil {
				return fmt.Errorf("calib: %w", err)
			}
			for i, id := range ids {
				switch v.Name {
				case "attention_mask":
					id = 1
				case "position_ids":
					id = int64(i) % length
				}
				ort.Data[int64](t)[i] = id
			}
		case strings.HasPrefix(v.Name, "past_key_values.") && v.Type.HasShape() && len(v.Type.Shape) == 4:
			shape := []int64{rows, v.Type.Shape[1].Size, 0, v.Type.Shape[3].Size}
			if t, err = ort.NewTensor(ort.DType(v.Type.DType), shape...); err != nil {
				return fmt.Errorf("calib: input %s: %w", v.Name, err)
			}
		default:
			return fmt.Errorf("calib: input %q is not known: calibration gives input_ids, attention_mask, position_ids and an empty cache", v.Name)
		}
		err = w.spool.put(v, t)
		t.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// feedEmbedding looks the tokens up, in the table as it will be quantised.
func (w *walk) feedEmbedding(n *ir.Node) error {
	table, _ := quantize.Embedding(n)
	vocabulary, width := table.Shape[0], table.Shape[1]
	row := func(dst []float32, id int64) error { return table.ReadFloat32(dst, id*width) }
	if u, ok := w.uses[n]; ok && w.rounded {
		m, err := u.Rounded()
		if err != nil {
			return err
		}
		row = m.Row
	}
	for b := range w.batches() {
		ids, rows, length := w.ids(b)
		t, err := ort.NewTensor(ort.Float32, rows, length, width)
		if err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		for i, id := range ids {
			if id < 0 || id >= vocabulary {
				err = fmt.Errorf("calib: token %d is not among the %d that the model knows", id, vocabulary)
			} else {
				err = row(ort.Data[float32](t)[int64(i)*width:][:width], id)
			}
			if err != nil {
				break
			}
		}
		if err == nil {
			err = w.spool.put(n.Output(0), t)
		}
		t.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// reach runs the part that leads to a point and shows the observer what arrives there.
func (w *walk) reach(ctx context.Context, i int, p *point, o observer) error {
	r, err := w.open(p)
	if err != nil {
		return err
	}
	defer r.close()
	for b := range w.batches() {
		if err := w.step(ctx, r, p, b, o); err != nil {
			return err
		}
		if w.progress != nil {
			w.progress(p, i*w.batches()+b+1, len(w.points)*w.batches())
		}
	}
	for _, v := range p.before.done {
		w.spool.drop(v)
	}
	for _, n := range p.before.nodes {
		if t := w.weights[n]; t != nil {
			t.Close()
			delete(w.weights, n)
		}
	}
	return nil
}

// runner is a part that can be run.
type runner struct {
	session *ort.Session // nil for a part without nodes
	inputs  map[string]*ort.Tensor
	outputs []string
	values  []*ort.Tensor // of the part's inputs, in the batch that runs
	own     []*ort.Tensor
}

func (r *runner) close() {
	if r.session != nil {
		r.session.Close()
	}
	for _, t := range append(r.values, r.own...) {
		if t != nil {
			t.Close()
		}
	}
}

// open makes a part ready.
func (w *walk) open(p *point) (*runner, error) {
	r := &runner{inputs: map[string]*ort.Tensor{}, values: make([]*ort.Tensor, len(p.before.inputs))}
	if len(p.before.nodes) == 0 {
		return r, nil
	}
	types := map[*ir.Value]*ir.Type{}
	for _, v := range p.before.inputs {
		t, err := w.spool.get(v, 0, nil)
		if err != nil {
			return nil, err
		}
		types[v] = typeOf(t, v.Name)
		t.Close()
	}
	m, constants := w.cutter.model(&p.before, w.model.Opsets, w.model.IRVersion, types)
	for _, c := range constants {
		t, own, err := w.constant(c)
		if err != nil {
			r.close()
			return nil, err
		}
		if own {
			r.own = append(r.own, t)
		}
		r.inputs[c.name] = t
	}
	for _, v := range p.before.outputs {
		r.outputs = append(r.outputs, v.Name)
	}
	var err error
	if r.session, err = openModel(m, w.dir, w.threads); err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

// constant is what a part is given for an operand. own says that the caller closes it.
func (w *walk) constant(c operand) (t *ort.Tensor, own bool, err error) {
	if c.table != nil {
		return w.table(c.table)
	}
	return w.weight(c.product)
}

// weight is what a product is computed with, [K, N].
func (w *walk) weight(n *ir.Node) (t *ort.Tensor, own bool, err error) {
	if t := w.weights[n]; t != nil {
		return t, false, nil
	}
	u := w.uses[n]
	if t, err = ort.NewTensor(ort.Float32, u.Values.Shape[1], u.Values.Shape[0]); err != nil {
		return nil, false, fmt.Errorf("calib: %w", err)
	}
	if err := w.fill(ort.Data[float32](t), u); err != nil {
		t.Close()
		return nil, false, err
	}
	return t, true, nil
}

// fill writes a weight to dst, turned to [K, N].
func (w *walk) fill(dst []float32, u quantize.Use) error {
	n, k := u.Values.Shape[0], u.Values.Shape[1]
	if !w.rounded {
		turned, err := ir.Transpose(u.Values)
		if err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		if err := turned.ReadFloat32(dst, 0); err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		return nil
	}
	m, err := u.Rounded()
	if err != nil {
		return err
	}
	row := make([]float32, k)
	for r := range n {
		if err := m.Row(row, r); err != nil {
			return err
		}
		for i, v := range row {
			dst[int64(i)*n+r] = v
		}
	}
	return nil
}

// table is a large constant as a tensor. Those that several nodes read, as all layers do the tables of the rotary
// embedding, stay to the end.
func (w *walk) table(v *ir.Value) (t *ort.Tensor, own bool, err error) {
	if t := w.tables[v]; t != nil {
		return t, false, nil
	}
	t, err = ort.NewTensor(ort.DType(v.Const.DType), v.Const.Shape...)
	if err != nil {
		return nil, false, fmt.Errorf("calib: %s: %w", v.Name, err)
	}
	if _, err := v.Const.Data.ReadAt(t.Bytes(), 0); err != nil {
		t.Close()
		return nil, false, fmt.Errorf("calib: %s: %w", v.Name, err)
	}
	if v.SoleUse() != nil {
		return t, true, nil
	}
	w.tables[v] = t
	return t, false, nil
}

// step takes one batch to a point.
func (w *walk) step(ctx context.Context, r *runner, p *point, batch int, o observer) error {
	var x *ort.Tensor
	for i, v := range p.before.inputs {
		t, err := w.spool.get(v, batch, r.values[i])
		r.values[i] = t
		if err != nil {
			return err
		}
		r.inputs[v.Name] = t
		if v == p.x {
			x = t
		}
	}
	if r.session != nil {
		out, err := r.session.Run(ctx, r.inputs, r.outputs)
		if err != nil {
			return fmt.Errorf("calib: %w", err)
		}
		defer func() {
			for _, t := range out {
				t.Close()
			}
		}()
		for _, v := range p.before.outputs {
			if slices.Contains(p.before.done, v) {
				continue
			}
			if err := w.spool.put(v, out[v.Name]); err != nil {
				return err
			}
		}
		if t := out[p.x.Name]; t != nil {
			x = t
		}
	}
	shape := x.Shape()
	if x.DType() != ort.Float32 || len(shape) == 0 {
		return fmt.Errorf("calib: activations %s are %v%v: calibration wants a model in float32", p.x.Name, x.DType(), shape)
	}
	if batch == 0 {
		if err := o.begin(p, int(shape[len(shape)-1])); err != nil {
			return err
		}
	}
	return o.observe(ctx, p, x)
}

// workFolder makes the folder for temporary files.
func workFolder(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, "calibration")
	if err != nil {
		return "", fmt.Errorf("calib: %w", err)
	}
	return dir, nil
}
