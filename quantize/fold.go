package quantize

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// A fold is a place in the graph where channels can be given other sizes without changing what the graph
// computes: what produces them is divided by a scale, and the weights that they are multiplied with take
// it in.
type fold struct {
	x       *ir.Value
	weights []*weight // all that x is multiplied with
	// share says for each channel of x which scale it has: several share one where what produces them
	// is one channel, as query heads share the values of their KV head.
	share  []int
	scales int
	// divide takes the scales out of what produces x.
	divide func(scale []float32)
	kind   foldKind
}

// foldKind is what takes the inverse of the scales.
type foldKind string

const (
	foldNorm    foldKind = "norm"
	foldValues  foldKind = "values"  // of attention
	foldProduct foldKind = "product" // the one before
)

// folder finds folds, and makes them.
type folder struct {
	plan  *Plan
	sites map[*ir.Node]*weight
	// rows and columns are what the weights are to be multiplied with, all ones where nil.
	rows, columns map[*weight][]float32
	vectors       map[*ir.Node]map[int][]float32 // by operand: what a constant vector of a node is to be divided by
}

func newFolder(p *Plan) *folder {
	f := &folder{plan: p, sites: map[*ir.Node]*weight{}, rows: map[*weight][]float32{}, columns: map[*weight][]float32{}, vectors: map[*ir.Node]map[int][]float32{}}
	for _, s := range p.sites {
		f.sites[s.node] = s.w
	}
	return f
}

// folds lists the places, in graph order.
func (f *folder) folds() []fold {
	var all []fold
	seen := map[*ir.Value]bool{}
	for _, s := range f.plan.sites {
		if s.node.Is("", "Gather") || seen[s.node.Input(0)] {
			continue
		}
		x := s.node.Input(0)
		seen[x] = true
		weights := f.readers(x)
		if weights == nil {
			continue
		}
		k := int(weights[0].k())
		c, ok := f.producer(x, k)
		if !ok {
			continue
		}
		c.x, c.weights = x, weights
		all = append(all, c)
	}
	return all
}

// readers are the weights that x is multiplied with; nil if something else reads x, or if one of them is
// multiplied with something else too.
func (f *folder) readers(x *ir.Value) []*weight {
	if x.IsOutput() {
		return nil
	}
	var all []*weight
	for _, u := range x.Uses() {
		w := f.sites[u.Node]
		if w == nil || u.Index != 0 || w.lookup || w.rows.DType != ir.Float32 || !foldable(u.Node) {
			return nil
		}
		if !slices.Contains(all, w) {
			all = append(all, w)
		}
	}
	for _, s := range f.plan.sites {
		if slices.Contains(all, s.w) && s.node.Input(0) != x {
			return nil
		}
	}
	return all
}

// foldable reports whether the constant that a product reads is an initializer of its own, through
// nothing but nodes that only this product reads.
func foldable(n *ir.Node) bool {
	v := n.Input(1)
	for range maxChain {
		if v == nil || v.SoleUse() == nil {
			return false
		}
		if v.Constant() != nil {
			return true
		}
		if v.Producer() == nil {
			return false
		}
		v = v.Producer().Input(0)
	}
	return false
}

// producer says how the k channels of x can be scaled where they come from.
func (f *folder) producer(x *ir.Value, k int) (fold, bool) {
	n := x.Producer()
	switch {
	case n == nil || n.Output(0) != x:
	case n.Is("", "SimplifiedLayerNormalization"), n.Is(microsoft, "SimplifiedLayerNormalization"), n.Is("", "RMSNormalization"):
		return f.vector(n, 1, k)
	case n.Is(microsoft, "SkipSimplifiedLayerNormalization"):
		return f.vector(n, 2, k)
	case n.Is("", "Mul"):
		for i := range 2 {
			if c, ok := f.vector(n, i, k); ok {
				return c, true
			}
		}
		for i := range 2 {
			if c, ok := f.product(n.Input(i), k, foldProduct); ok {
				return c, true
			}
		}
	case n.Is(microsoft, "GroupQueryAttention"):
		return f.attention(n, k)
	case n.Is("", "Slice"): // graphs whose last layer computes only the rows that logits are wanted of
		all := n.Input(0)
		if a := all.Producer(); all.SoleUse() != nil && !all.IsOutput() && a.Is(microsoft, "GroupQueryAttention") && a.Output(0) == all && alongRows(n) {
			return f.attention(a, k)
		}
	}
	return fold{}, false
}

// alongRows reports whether a Slice of a tensor of rank 3 leaves its last axis whole.
func alongRows(n *ir.Node) bool {
	t := n.Input(3).Constant()
	if t == nil {
		return false
	}
	axes, err := t.Int64s()
	return err == nil && !slices.ContainsFunc(axes, func(a int64) bool { return a == -1 || a == 2 })
}

// vector is a fold into operand i of n, a constant of k numbers.
func (f *folder) vector(n *ir.Node, i, k int) (fold, bool) {
	v := n.Input(i)
	t := v.Constant()
	if t == nil || !t.DType.Float() || t.Len() != int64(k) || t.Shape[len(t.Shape)-1] != int64(k) {
		return fold{}, false
	}
	return fold{kind: foldNorm, share: identity(k), scales: k, divide: func(s []float32) {
		if f.vectors[n] == nil {
			f.vectors[n] = map[int][]float32{}
		}
		f.vectors[n][i] = s
	}}, true
}

// product is a fold into the outputs of a product that v is, or is a part of.
func (f *folder) product(v *ir.Value, k int, kind foldKind) (fold, bool) {
	w, first, ok := f.outputs(v, k)
	if !ok {
		return fold{}, false
	}
	return fold{kind: kind, share: identity(k), scales: k, divide: func(s []float32) {
		if f.rows[w] == nil {
			f.rows[w] = ones(int(w.n()))
		}
		for i, c := range s {
			f.rows[w][first+i] /= c
		}
	}}, true
}

// attention is a fold into the values of an attention: each KV head gives one channel to all of its
// query heads.
func (f *folder) attention(n *ir.Node, k int) (fold, bool) {
	heads, kv := int(n.Int("num_heads", 0)), int(n.Int("kv_num_heads", 0))
	if heads < 1 || kv < 1 || heads%kv != 0 || k%heads != 0 {
		return fold{}, false
	}
	size := k / heads
	c, ok := f.product(n.Input(2), kv*size, foldValues)
	if !ok {
		return fold{}, false
	}
	c.share = make([]int, k)
	for i := range c.share {
		c.share[i] = i/size/(heads/kv)*size + i%size
	}
	return c, true
}

// outputs finds the product that computes v, [..., k], alone or as one of the parts that a Split makes
// of it; first is its first output that is v's.
func (f *folder) outputs(v *ir.Value, k int) (w *weight, first int, ok bool) {
	if v == nil || v.SoleUse() == nil {
		return nil, 0, false
	}
	n := v.Producer()
	if n.Is("", "Split") {
		if axis := n.Int("axis", 0); axis != -1 || n.Input(0).SoleUse() == nil {
			return nil, 0, false
		}
		sizes := splitSizes(n)
		for i, o := range n.Outputs() {
			if i >= len(sizes) {
				return nil, 0, false
			}
			if o == v {
				break
			}
			first += int(sizes[i])
		}
		n = n.Input(0).Producer()
	}
	w = f.sites[n]
	if w == nil || n.Is("", "Gather") || w.lookup || w.rows.DType != ir.Float32 || !foldable(n) || first+k > int(w.n()) {
		return nil, 0, false
	}
	return w, first, true
}

// splitSizes are the sizes of the parts of a Split, nil if they are computed.
func splitSizes(n *ir.Node) []int64 {
	t := n.Input(1).Constant()
	if t == nil {
		return nil
	}
	sizes, err := t.Int64s()
	if err != nil {
		return nil
	}
	return sizes
}

func identity(k int) []int {
	s := make([]int, k)
	for i := range s {
		s[i] = i
	}
	return s
}

func ones(n int) []float32 {
	s := make([]float32, n)
	for i := range s {
		s[i] = 1
	}
	return s
}

// scale makes a fold: channel i of x is divided by s[share[i]].
func (f *folder) scale(c fold, s []float32) {
	for _, w := range c.weights {
		if f.columns[w] == nil {
			f.columns[w] = ones(int(w.k()))
		}
		for i, at := range c.share {
			f.columns[w][i] *= s[at]
		}
	}
	c.divide(s)
}

// commit changes the graph. The plan is of no use afterwards.
func (f *folder) commit() error {
	for _, w := range f.plan.weights {
		if f.rows[w] == nil && f.columns[w] == nil {
			continue
		}
		if err := f.rescale(w); err != nil {
			return fmt.Errorf("quantize: %s: %w", w.name, err)
		}
	}
	for _, n := range f.plan.model.Graph.Nodes() {
		for i := range n.Inputs() {
			if s := f.vectors[n][i]; s != nil {
				if err := divideVector(n, i, s); err != nil {
					return fmt.Errorf("quantize: %v: %w", n, err)
				}
			}
		}
	}
	return nil
}

// rescale replaces the initializer below a weight.
func (f *folder) rescale(w *weight) error {
	t := &ir.Tensor{DType: w.rows.DType, Shape: w.rows.Shape, Data: &scaledData{
		src: w.rows, k: w.k(), rows: f.rows[w], columns: f.columns[w],
	}}
	turned, err := ir.Transpose(t)
	if err != nil {
		return err
	}
	for _, s := range f.plan.sites {
		if s.w != w {
			continue
		}
		c := resolve(s.node.Input(1))
		content := turned // of [K, N], as a MatMul reads it
		if s.node.Is(microsoft, "FusedMatMul") && s.node.Int("transB", 0) != 0 {
			content = t
		}
		if c.flipped {
			if content, err = ir.Transpose(content); err != nil {
				return err
			}
		}
		c.rootVal.Const = content
		c.rootVal.Type = ir.TensorType(content.DType, ir.Fixed(content.Shape[0]), ir.Fixed(content.Shape[1]))
	}
	return nil
}

// divideVector divides operand i of n, a constant.
func divideVector(n *ir.Node, i int, s []float32) error {
	v := n.Input(i)
	old := v.Constant()
	values, err := old.Float32s()
	if err != nil {
		return err
	}
	for c := range values {
		values[c] /= s[c]
	}
	t, err := ir.Cast(ir.Float32Tensor(values, old.Shape...), old.DType)
	if err != nil {
		return err
	}
	if v.SoleUse() != nil {
		v.Const = t
		return nil
	}
	n.SetInput(i, n.Graph().AddInitializer(n.Graph().Fresh(v.Name), t))
	return nil
}

// scaledData is a matrix [n, k] of float32 whose rows and columns are multiplied with vectors, computed
// while it is read.
type scaledData struct {
	src           *ir.Tensor
	k             int64
	rows, columns []float32 // nil: ones
}

func (d *scaledData) Len() int64 { return d.src.ByteLen() }

// Granule is some rows: what is below may be transposed.
func (d *scaledData) Granule() int64 { return 4 * d.k * rowTile }

var floatBuffers = sync.Pool{New: func() any { return new([]float32) }}

func (d *scaledData) ReadAt(p []byte, off int64) (int, error) {
	n, first := int64(len(p))/4, off/4
	if off < 0 || off > d.Len()-int64(len(p)) || (off|int64(len(p)))%4 != 0 {
		return 0, fmt.Errorf("quantize: read of %d bytes at %d of a weight of %d", len(p), off, d.Len())
	}
	buf := floatBuffers.Get().(*[]float32)
	defer floatBuffers.Put(buf)
	if int64(cap(*buf)) < n {
		*buf = make([]float32, n)
	}
	values := (*buf)[:n]
	if err := d.src.ReadFloat32(values, first); err != nil {
		return 0, err
	}
	for at := int64(0); at < n; {
		row, column := (first+at)/d.k, (first+at)%d.k
		part := values[at:min(n, at+d.k-column)]
		d.scale(part, row, column)
		at += int64(len(part))
	}
	for i, v := range values {
		binary.LittleEndian.PutUint32(p[4*i:], math.Float32bits(v))
	}
	return len(p), nil
}

// scale multiplies the part of a row that begins at a column.
func (d *scaledData) scale(part []float32, row, column int64) {
	if d.columns != nil {
		for i, c := range d.columns[column:][:len(part)] {
			part[i] *= c
		}
	}
	if d.rows != nil {
		r := d.rows[row]
		for i := range part {
			part[i] *= r
		}
	}
}
