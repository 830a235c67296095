package interp

import (
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// headed is a tensor of queries, keys or values, seen as [batch, heads, rows, size] whichever way it is stored.
type headed struct {
	*Tensor
	batch, heads, rows, size int64
	byHead                   bool // [B,H,S,D]; otherwise [B,S,H·D]
}

func newHeaded(t *Tensor, heads int64) (headed, error) {
	s := t.Shape
	if !t.float() {
		return headed{}, fmt.Errorf("not defined for %v", t.DType)
	}
	switch {
	case len(s) == 4:
		return headed{t, s[0], s[1], s[2], s[3], true}, nil
	case len(s) == 3 && heads > 0 && s[2]%heads == 0:
		return headed{t, s[0], heads, s[1], s[2] / heads, false}, nil
	}
	return headed{}, fmt.Errorf("operand %v for %d heads", s, heads)
}

// row is where the numbers of one row begin.
func (h headed) row(b, head, r int) int {
	if h.byHead {
		return ((b*int(h.heads)+head)*int(h.rows) + r) * int(h.size)
	}
	return ((b*int(h.rows)+r)*int(h.heads) + head) * int(h.size)
}

// shape is that of n rows of a size, stored as h is.
func (h headed) shape(rows, size int64) []int64 {
	if h.byHead {
		return []int64{h.batch, h.heads, rows, size}
	}
	return []int64{h.batch, rows, h.heads * size}
}

// attend is what the attention operators have in common. Keys and values, behind those of the past if
// there is one, may have fewer heads than queries; mask is added to the scores, or hides where it is false.
type attend struct {
	q, k, v          headed
	pastKey, pastVal *Tensor // [B,H,P,D]
	mask             *Tensor
	scale            float64
	other            string // what the node does that is not computed here
}

func (a attend) results() ([]result, error) {
	q, k, v := a.q, a.k, a.v
	if k.batch != q.batch || v.batch != q.batch || k.rows != v.rows || k.heads != v.heads || k.size != q.size || k.heads == 0 || q.heads%k.heads != 0 ||
		k.DType != q.DType || v.DType != q.DType {
		return nil, fmt.Errorf("queries %v, keys %v, values %v", q.Shape, k.Shape, v.Shape)
	}
	past := int64(0)
	for _, p := range []struct {
		t *Tensor
		h headed
	}{{a.pastKey, k}, {a.pastVal, v}} {
		if p.t == nil {
			continue
		}
		s := p.t.Shape
		if len(s) != 4 || s[0] != p.h.batch || s[1] != p.h.heads || s[3] != p.h.size || p.t.DType != p.h.DType {
			return nil, fmt.Errorf("a past %v before %v", s, p.h.Shape)
		}
		past = s[2]
	}
	present := func(t *Tensor, h headed) result {
		return result{dtype: h.DType, shape: []int64{h.batch, h.heads, past + h.rows, h.size}, fill: func(out *Tensor) error {
			join(out, t, h, past)
			return nil
		}}
	}
	keys, vals := present(a.pastKey, k), present(a.pastVal, v)
	total := past + k.rows
	var steps []int // of the mask in [B,H,S,T]; 0 where it is broadcast
	if a.mask != nil {
		if a.mask.DType != ir.Bool && a.mask.DType != q.DType {
			return nil, fmt.Errorf("a mask of %v", a.mask.DType)
		}
		full := []int64{q.batch, q.heads, q.rows, total}
		if s, err := broadcast(a.mask.Shape, full); err != nil || fmt.Sprint(s) != fmt.Sprint(full) {
			return nil, fmt.Errorf("a mask %v for scores %v", a.mask.Shape, full)
		}
		steps = make([]int, 4)
		own := strides(a.mask.Shape)
		for i, d := range a.mask.Shape {
			if d != 1 {
				steps[4-len(own)+i] = own[i]
			}
		}
	}
	out := result{dtype: q.DType, shape: q.shape(q.rows, v.size), fill: func(out *Tensor) error {
		if a.other != "" {
			return unsupported("%s", a.other)
		}
		if int64(q.Len())*total > maxProduct {
			return unsupported("attention of this size")
		}
		k, v := &Tensor{F: make([]float64, product(keys.shape))}, &Tensor{F: make([]float64, product(vals.shape))}
		join(k, a.pastKey, a.k, past)
		join(v, a.pastVal, a.v, past)
		y := headed{out, q.batch, q.heads, q.rows, a.v.size, q.byHead}
		weight := make([]float64, total)
		for b := range int(q.batch) {
			for h := range int(q.heads) {
				group := b*int(a.k.heads) + h/int(q.heads/a.k.heads)
				keys, vals := k.F[group*int(total*q.size):], v.F[group*int(total*y.size):]
				for r := range int(q.rows) {
					at := q.row(b, h, r)
					scores(weight, q.F[at:at+int(q.size)], keys, a.scale)
					for j := range weight {
						if a.mask == nil {
							break
						}
						m := b*steps[0] + h*steps[1] + r*steps[2] + j*steps[3]
						if a.mask.float() {
							weight[j] += a.mask.F[m]
						} else if a.mask.I[m] == 0 {
							weight[j] = math.Inf(-1)
						}
					}
					normalise(weight)
					row := y.F[y.row(b, h, r):][:y.size]
					for d := range row {
						sum := 0.0
						for j, w := range weight {
							sum += w * vals[j*len(row)+d]
						}
						row[d] = round(q.DType, sum)
					}
				}
			}
		}
		return nil
	}}
	return []result{out, keys, vals}, nil
}

// join writes the past and h into out [B,H,P+S,D].
func join(out, pastRows *Tensor, h headed, past int64) {
	n, old := int(h.size), int(past*h.size)
	for b := range int(h.batch) {
		for head := range int(h.heads) {
			group := b*int(h.heads) + head
			to := out.F[group*(old+int(h.rows)*n):]
			if pastRows != nil {
				copy(to[:old], pastRows.F[group*old:])
			}
			for r := range int(h.rows) {
				from := h.row(b, head, r)
				copy(to[old+r*n:old+(r+1)*n], h.F[from:from+n])
			}
		}
	}
}

func scores(out, query, keys []float64, scale float64) {
	for j := range out {
		out[j] = 0
		for d, x := range query {
			out[j] += x * keys[j*len(query)+d]
		}
		out[j] *= scale
	}
}

// normalise makes scores a softmax. A row without any visible key is NaN.
func normalise(w []float64) {
	top, total := math.Inf(-1), 0.0
	for _, x := range w {
		top = math.Max(top, x)
	}
	for i, x := range w {
		w[i] = math.Exp(x - top)
		total += w[i]
	}
	for i := range w {
		w[i] /= total
	}
}

func operand(in []*Tensor, i int) *Tensor {
	if i < len(in) {
		return in[i]
	}
	return nil
}

// attention is ONNX's operator of opset 23 and 24.
func attention(n *ir.Node, in []*Tensor) ([]result, error) {
	var a attend
	var err error
	if a.q, err = newHeaded(in[0], n.Int("q_num_heads", 0)); err != nil {
		return nil, err
	}
	if a.k, err = newHeaded(in[1], n.Int("kv_num_heads", 0)); err != nil {
		return nil, err
	}
	if a.v, err = newHeaded(in[2], n.Int("kv_num_heads", 0)); err != nil {
		return nil, err
	}
	a.mask, a.pastKey, a.pastVal = operand(in, 3), operand(in, 4), operand(in, 5)
	a.scale = scaleOf(n, a.q.size)
	switch {
	case n.Int("is_causal", 0) != 0: // with a past, versions differ in what it means
		a.other = "is_causal"
	case n.Float("softcap", 0) != 0:
		a.other = "softcap"
	case operand(in, 6) != nil:
		a.other = "nonpad_kv_seqlen"
	}
	return a.results()
}

// multiHeadAttention is ONNX Runtime's operator with queries, keys and values apart.
func multiHeadAttention(n *ir.Node, in []*Tensor) ([]result, error) {
	if operand(in, 1) == nil || operand(in, 2) == nil {
		return nil, unsupported("packed operands")
	}
	if len(in[0].Shape) != 3 {
		return nil, fmt.Errorf("queries %v", in[0].Shape)
	}
	heads := n.Int("num_heads", 0)
	var a attend
	var err error
	for i, h := range []*headed{&a.q, &a.k, &a.v} {
		if *h, err = newHeaded(in[i], heads); err != nil {
			return nil, err
		}
	}
	a.mask, a.pastKey, a.pastVal = operand(in, 5), operand(in, 6), operand(in, 7)
	a.scale = scaleOf(n, a.q.size)
	switch {
	case operand(in, 3) != nil:
		a.other = "bias"
	case operand(in, 4) != nil:
		a.other = "key_padding_mask"
	case len(in) > 8:
		a.other = "operands behind past_value"
	case n.Int("unidirectional", 0) != 0:
		a.other = "unidirectional"
	}
	return a.results()
}

// scaleOf is 1/√size unless the node says otherwise; 0 stands for that too.
func scaleOf(n *ir.Node, size int64) float64 {
	if s := n.Float("scale", 0); s != 0 {
		return float64(s)
	}
	return 1 / math.Sqrt(float64(size))
}

// rotation finds the operands of a RotaryEmbedding: ONNX's has positions last, where there are any, and
// ONNX Runtime's has them behind x.
func rotation(n *ir.Node, in []*Tensor) (x, cos, sin, positions *Tensor) {
	if n.Is("", "RotaryEmbedding") {
		return in[0], in[1], in[2], operand(in, 3)
	}
	return in[0], in[2], in[3], in[1]
}

// rotaryEmbedding is that of ONNX's opset 23, and of com.microsoft.
func rotaryEmbedding(n *ir.Node, in []*Tensor) ([]result, error) {
	t, cos, sin, positions := rotation(n, in)
	if len(cos.Shape) == 0 || fmt.Sprint(cos.Shape) != fmt.Sprint(sin.Shape) {
		return nil, fmt.Errorf("cosines %v, sines %v", cos.Shape, sin.Shape)
	}
	half := cos.Shape[len(cos.Shape)-1]
	heads := n.Int("num_heads", 0)
	if heads == 0 && len(t.Shape) == 3 && half > 0 && t.Shape[2]%(2*half) == 0 {
		heads = t.Shape[2] / (2 * half)
	}
	x, err := newHeaded(t, heads)
	if err != nil {
		return nil, err
	}
	if cos.DType != t.DType || sin.DType != t.DType {
		return nil, fmt.Errorf("tables of %v and %v for %v", cos.DType, sin.DType, t.DType)
	}
	if n.Int("interleaved", 0) != 0 || n.Int("is_packed_batching", 0) != 0 || n.Float("scale", 1) != 1 || 2*half != x.size {
		return []result{{dtype: t.DType, shape: t.Shape}}, nil
	}
	return one(t.DType, t.Shape, func(out *Tensor) error {
		angle, err := angles(cos, positions, x)
		if err != nil {
			return err
		}
		n, D := int(half), t.DType
		for b := range int(x.batch) {
			for r := range int(x.rows) {
				at, err := angle(b, r)
				if err != nil {
					return err
				}
				for h := range int(x.heads) {
					from := x.row(b, h, r)
					for d := range n {
						u, v, c, s := x.F[from+d], x.F[from+n+d], cos.F[at*n+d], sin.F[at*n+d]
						out.F[from+d] = round(D, round(D, u*c)-round(D, v*s))
						out.F[from+n+d] = round(D, round(D, u*s)+round(D, v*c))
					}
				}
			}
		}
		return nil
	})
}

// angles gives the row of the table for a row of x: by position, or row by row.
func angles(table, positions *Tensor, x headed) (func(b, r int) (int, error), error) {
	rows := int64(product(table.Shape[:len(table.Shape)-1]))
	S := int(x.rows)
	if positions == nil {
		if len(table.Shape) != 3 || rows != x.batch*x.rows && rows != x.rows {
			return nil, fmt.Errorf("a table %v for %v", table.Shape, x.Shape)
		}
		return func(b, r int) (int, error) { return (b*S + r) % int(rows), nil }, nil
	}
	if positions.DType != ir.Int64 && positions.DType != ir.Int32 || len(table.Shape) != 2 {
		return nil, fmt.Errorf("positions of %v in a table %v", positions.DType, table.Shape)
	}
	ids := positions.I
	switch int64(len(ids)) {
	case x.batch * x.rows:
		return func(b, r int) (int, error) { return element(ids[b*S+r], rows) }, nil
	case 1: // where the first row is
		return func(_, r int) (int, error) { return element(ids[0]+int64(r), rows) }, nil
	}
	return nil, errors.New("positions that are not of batch and sequence")
}
