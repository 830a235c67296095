package interp

import (
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ints is the content of an operand that holds a shape, axes or positions.
func ints(t *Tensor) ([]int64, error) {
	if t.DType != ir.Int64 && t.DType != ir.Int32 || len(t.Shape) > 1 {
		return nil, fmt.Errorf("%v%v where integers belong", t.DType, t.Shape)
	}
	return t.I, nil
}

// intsOr is operand i where it is there, the attribute where it is not, as before opset 10 or 13.
func intsOr(n *ir.Node, in []*Tensor, i int, attr string) (v []int64, given bool, err error) {
	if i < len(in) && in[i] != nil {
		v, err = ints(in[i])
		return v, true, err
	}
	return n.Ints(attr), n.Attr(attr) != nil, nil
}

func clampAxis(a, rank int64) int64 {
	if a < 0 {
		a += rank
	}
	return min(max(a, 0), rank)
}

func axisOf(a int64, rank int) (int, error) {
	if a < 0 {
		a += int64(rank)
	}
	if a < 0 || a >= int64(rank) {
		return 0, fmt.Errorf("axis %d of %d dimensions", a, rank)
	}
	return int(a), nil
}

// axisSet reads a list of axes without repetitions.
func axisSet(list []int64, rank int) ([]bool, error) {
	set := make([]bool, rank)
	for _, a := range list {
		ax, err := axisOf(a, rank)
		if err != nil {
			return nil, err
		}
		if set[ax] {
			return nil, fmt.Errorf("axis %d occurs twice", ax)
		}
		set[ax] = true
	}
	return set, nil
}

func product(dims []int64) int {
	n := 1
	for _, d := range dims {
		n *= int(d)
	}
	return n
}

// around gives the product of the dimensions before and after axis.
func around(shape []int64, axis int) (outer, inner int) {
	return product(shape[:axis]), product(shape[axis+1:])
}

func shapeOf(n *ir.Node, in []*Tensor) ([]result, error) {
	dims := in[0].Shape
	r := int64(len(dims))
	start, end := clampAxis(n.Int("start", 0), r), clampAxis(n.Int("end", r), r)
	dims = dims[start:max(start, end)]
	return one(ir.Int64, []int64{int64(len(dims))}, func(out *Tensor) error {
		copy(out.I, dims)
		return nil
	})
}

func sizeOf(_ *ir.Node, in []*Tensor) ([]result, error) {
	return one(ir.Int64, []int64{}, func(out *Tensor) (err error) {
		out.I[0], err = ir.NumElements(in[0].Shape)
		return err
	})
}

func constant(n *ir.Node, _ []*Tensor) ([]result, error) {
	var t *Tensor
	for _, a := range n.Attrs {
		switch a.Name {
		case "value":
			if a.T == nil {
				break
			}
			if c, err := FromIR(a.T); err != nil {
				return nil, err
			} else {
				t = c
			}
		case "value_int":
			t = Ints([]int64{}, a.I)
		case "value_ints":
			t = Ints([]int64{int64(len(a.Ints))}, a.Ints...)
		case "value_float":
			t = Floats([]int64{}, float64(a.F))
		case "value_floats":
			t = Floats([]int64{int64(len(a.Floats))})
			for _, f := range a.Floats {
				t.F = append(t.F, float64(f))
			}
		}
	}
	if t == nil {
		return nil, unsupported("this kind of constant")
	}
	return viewed(t, t.Shape)
}

func constantOfShape(n *ir.Node, in []*Tensor) ([]result, error) {
	fill := Floats([]int64{1}, 0)
	if a := n.Attr("value"); a != nil && a.T != nil {
		t, err := FromIR(a.T)
		if err != nil {
			return nil, err
		}
		if t.Len() != 1 {
			return nil, errors.New("the value is not one element")
		}
		fill = t
	}
	shape, err := ints(in[0])
	if err != nil {
		return nil, err
	}
	return one(fill.DType, shape, func(out *Tensor) error {
		for i := range out.Len() {
			out.move(i, fill, 0)
		}
		return nil
	})
}

func rangeOf(_ *ir.Node, in []*Tensor) ([]result, error) {
	if err := sameType(in); err != nil {
		return nil, err
	}
	d := in[0].DType
	var v [3]float64
	for i, t := range in {
		switch {
		case t.Len() != 1:
			return nil, errors.New("bounds must be scalars")
		case d.Float():
			v[i] = t.F[0]
		default:
			v[i] = float64(t.I[0])
		}
	}
	count := math.Max(0, math.Ceil((v[1]-v[0])/v[2]))
	if !(count <= MaxElements) {
		return nil, unsupported("a range of %g elements", count)
	}
	return one(d, []int64{int64(count)}, func(out *Tensor) error {
		for i := range out.F {
			out.F[i] = round(d, v[0]+float64(i)*v[2])
		}
		for i := range out.I {
			out.I[i] = wrap(d, in[0].I[0]+int64(i)*in[2].I[0])
		}
		return nil
	})
}

func reshape(n *ir.Node, in []*Tensor) ([]result, error) {
	want, err := ints(in[1])
	if err != nil {
		return nil, err
	}
	have, err := ir.NumElements(in[0].Shape)
	if err != nil {
		return nil, err
	}
	shape := append([]int64{}, want...)
	rest := -1
	for i, d := range want {
		switch {
		case d == 0 && n.Int("allowzero", 0) == 0:
			if i >= len(in[0].Shape) {
				return nil, fmt.Errorf("shape %v copies a dimension that %v lacks", want, in[0].Shape)
			}
			shape[i] = in[0].Shape[i]
		case d == -1 && rest < 0:
			rest, shape[i] = i, 1
		}
	}
	if rest >= 0 {
		known, err := ir.NumElements(shape)
		if err != nil {
			return nil, err
		}
		if known == 0 {
			return nil, fmt.Errorf("shape %v is not determined", want)
		}
		shape[rest] = have / known
	}
	return viewed(in[0], shape)
}

func flatten(n *ir.Node, in []*Tensor) ([]result, error) {
	s := in[0].Shape
	axis := clampAxis(n.Int("axis", 1), int64(len(s)))
	return viewed(in[0], []int64{int64(product(s[:axis])), int64(product(s[axis:]))})
}

func squeeze(n *ir.Node, in []*Tensor) ([]result, error) {
	list, given, err := intsOr(n, in, 1, "axes")
	if err != nil {
		return nil, err
	}
	drop, err := axisSet(list, len(in[0].Shape))
	if err != nil {
		return nil, err
	}
	shape := []int64{}
	for i, d := range in[0].Shape {
		if given && !drop[i] || !given && d != 1 {
			shape = append(shape, d)
		}
	}
	return viewed(in[0], shape)
}

func unsqueeze(n *ir.Node, in []*Tensor) ([]result, error) {
	list, _, err := intsOr(n, in, 1, "axes")
	if err != nil {
		return nil, err
	}
	if len(list) > maxRank {
		return nil, unsupported("%d axes", len(list))
	}
	add, err := axisSet(list, len(in[0].Shape)+len(list))
	if err != nil {
		return nil, err
	}
	shape, next := []int64{}, in[0].Shape
	for _, fresh := range add {
		if fresh {
			shape = append(shape, 1)
			continue
		}
		shape, next = append(shape, next[0]), next[1:]
	}
	return viewed(in[0], shape)
}

func expand(_ *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	want, err := ints(in[1])
	if err != nil {
		return nil, err
	}
	shape, err := broadcast(a.Shape, want)
	if err != nil {
		return nil, err
	}
	return one(a.DType, shape, func(out *Tensor) error {
		index(shape, func(i int, at []int) { out.move(i, a, at[0]) }, a.Shape)
		return nil
	})
}

func tile(_ *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	repeats, err := ints(in[1])
	if err != nil {
		return nil, err
	}
	if len(repeats) != len(a.Shape) {
		return nil, fmt.Errorf("repeats %v of %v", repeats, a.Shape)
	}
	shape := make([]int64, len(a.Shape))
	for i, d := range a.Shape {
		if repeats[i] < 0 || repeats[i] > MaxElements || d > MaxElements {
			return nil, fmt.Errorf("repeats %v of %v", repeats, a.Shape)
		}
		shape[i] = d * repeats[i]
	}
	return one(a.DType, shape, func(out *Tensor) error {
		scatter(shape, func(d, at int) int { return at % int(a.Shape[d]) }, a, out)
		return nil
	})
}

// scatter fills out, element by element, with those of a: from says which position along dimension
// d of a goes to position at of out.
func scatter(shape []int64, from func(d, at int) int, a, out *Tensor) {
	have, to := strides(a.Shape), strides(shape)
	for i := range out.Len() {
		j := 0
		for d, rest := 0, i; d < len(shape); d++ {
			j += from(d, rest/to[d]) * have[d]
			rest %= to[d]
		}
		out.move(i, a, j)
	}
}

func transpose(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	rank := len(a.Shape)
	perm := n.Ints("perm")
	if perm == nil {
		for i := rank - 1; i >= 0; i-- {
			perm = append(perm, int64(i))
		}
	}
	seen, err := axisSet(perm, rank)
	if err != nil {
		return nil, err
	}
	if len(perm) != len(seen) {
		return nil, fmt.Errorf("perm %v of %v", perm, a.Shape)
	}
	shape := make([]int64, rank)
	have, step := strides(a.Shape), make([]int, rank)
	for i, p := range perm {
		p := clampAxis(p, int64(rank))
		shape[i], step[i] = a.Shape[p], have[p]
	}
	return one(a.DType, shape, func(out *Tensor) error {
		to := strides(shape)
		for i := range out.Len() {
			j := 0
			for d, rest := 0, i; d < rank; d++ {
				j += rest / to[d] * step[d]
				rest %= to[d]
			}
			out.move(i, a, j)
		}
		return nil
	})
}

func concat(n *ir.Node, in []*Tensor) ([]result, error) {
	if err := sameType(in); err != nil {
		return nil, err
	}
	axis, err := axisOf(n.Int("axis", 0), len(in[0].Shape))
	if err != nil {
		return nil, err
	}
	shape := append([]int64{}, in[0].Shape...)
	shape[axis] = 0
	for _, t := range in {
		if len(t.Shape) != len(shape) {
			return nil, fmt.Errorf("%v beside %v", t.Shape, in[0].Shape)
		}
		for d := range shape {
			if d != axis && t.Shape[d] != shape[d] {
				return nil, fmt.Errorf("%v beside %v", t.Shape, in[0].Shape)
			}
		}
		if shape[axis] += t.Shape[axis]; shape[axis] > math.MaxInt32 {
			return nil, unsupported("a dimension of %d", shape[axis])
		}
	}
	return one(in[0].DType, shape, func(out *Tensor) error {
		outer, inner := around(shape, axis)
		at := 0
		for o := range outer {
			for _, t := range in {
				w := int(t.Shape[axis]) * inner
				for i := range w {
					out.move(at+i, t, o*w+i)
				}
				at += w
			}
		}
		return nil
	})
}

func split(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	axis, err := axisOf(n.Int("axis", 0), len(a.Shape))
	if err != nil {
		return nil, err
	}
	sizes, given, err := intsOr(n, in, 1, "split")
	if err != nil {
		return nil, err
	}
	parts := int64(len(n.Outputs()))
	if !given {
		each := (a.Shape[axis] + parts - 1) / parts // the last one may be smaller
		for left := a.Shape[axis]; len(sizes) < int(parts); left -= each {
			sizes = append(sizes, max(0, min(each, left)))
		}
	}
	sum := int64(0)
	for _, s := range sizes {
		if s < 0 || s > a.Shape[axis] {
			return nil, fmt.Errorf("sizes %v of %v", sizes, a.Shape)
		}
		sum += s
	}
	if sum != a.Shape[axis] || int64(len(sizes)) != parts {
		return nil, fmt.Errorf("sizes %v of %v for %d results", sizes, a.Shape, parts)
	}
	var out []result
	first := 0
	for _, size := range sizes {
		shape := append([]int64{}, a.Shape...)
		shape[axis] = size
		from := first
		out = append(out, result{dtype: a.DType, shape: shape, fill: func(t *Tensor) error {
			outer, inner := around(shape, axis)
			w := int(size) * inner
			for o := range outer {
				for i := range w {
					t.move(o*w+i, a, (o*int(a.Shape[axis])+from)*inner+i)
				}
			}
			return nil
		}})
		first += int(size)
	}
	return out, nil
}

func slice(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	rank := len(a.Shape)
	starts, _, err := intsOr(n, in, 1, "starts")
	if err != nil {
		return nil, err
	}
	ends, _, err := intsOr(n, in, 2, "ends")
	if err != nil {
		return nil, err
	}
	axes, given, err := intsOr(n, in, 3, "axes")
	if err != nil {
		return nil, err
	}
	steps, stepped, err := intsOr(n, in, 4, "steps")
	if err != nil {
		return nil, err
	}
	if len(ends) != len(starts) || given && len(axes) != len(starts) || stepped && len(steps) != len(starts) {
		return nil, fmt.Errorf("%d starts, %d ends, %d axes, %d steps", len(starts), len(ends), len(axes), len(steps))
	}
	if !given {
		for i := range starts {
			axes = append(axes, int64(i))
		}
	}
	if _, err := axisSet(axes, rank); err != nil {
		return nil, err
	}
	first, step, shape := make([]int, rank), make([]int, rank), append([]int64{}, a.Shape...)
	for i := range step {
		step[i] = 1
	}
	for i := range starts {
		ax := clampAxis(axes[i], int64(rank))
		s := int64(1)
		if stepped {
			s = steps[i]
		}
		if s == 0 {
			return nil, errors.New("step 0")
		}
		lo, count, s := slicing(a.Shape[ax], starts[i], ends[i], s)
		first[ax], step[ax], shape[ax] = int(lo), int(s), count
	}
	return one(a.DType, shape, func(out *Tensor) error {
		scatter(shape, func(d, at int) int { return first[d] + at*step[d] }, a, out)
		return nil
	})
}

// slicing gives the first element, the number of elements and the step of a slice of d elements.
func slicing(d, lo, hi, step int64) (first, count, s int64) {
	s = min(max(step, -d-1), d+1) // a longer step takes one element all the same
	if lo < 0 {
		lo += d
	}
	if hi < 0 {
		hi = max(hi, -d-1) + d
	}
	if s > 0 {
		lo, hi = min(max(lo, 0), d), min(max(hi, 0), d)
		return lo, max(0, (hi-lo+s-1)/s), s
	}
	lo, hi = min(max(lo, 0), d-1), min(max(hi, -1), d-1)
	return lo, max(0, (hi-lo+s+1)/s), s
}

func gather(n *ir.Node, in []*Tensor) ([]result, error) {
	a, idx := in[0], in[1]
	axis, err := axisOf(n.Int("axis", 0), len(a.Shape))
	if err != nil {
		return nil, err
	}
	if idx.DType != ir.Int64 && idx.DType != ir.Int32 {
		return nil, fmt.Errorf("indices of %v", idx.DType)
	}
	shape := append([]int64{}, a.Shape[:axis]...)
	shape = append(shape, idx.Shape...)
	shape = append(shape, a.Shape[axis+1:]...)
	return one(a.DType, shape, func(out *Tensor) error {
		outer, inner := around(a.Shape, axis)
		d := int(a.Shape[axis])
		at := 0
		for o := range outer {
			for _, i := range idx.I {
				i, err := element(i, a.Shape[axis])
				if err != nil {
					return err
				}
				for k := range inner {
					out.move(at+k, a, (o*d+i)*inner+k)
				}
				at += inner
			}
		}
		return nil
	})
}

func element(i, d int64) (int, error) {
	if i < 0 {
		i += d
	}
	if i < 0 || i >= d {
		return 0, fmt.Errorf("index %d of %d", i, d)
	}
	return int(i), nil
}

// windows are the places that the indices of GatherND and ScatterND point to.
type windows struct {
	depth int
	inner int // elements of one window
	outer []int64
	tail  []int64
}

func windowsOf(a, idx *Tensor) (w windows, err error) {
	if len(idx.Shape) == 0 || idx.DType != ir.Int64 {
		return w, fmt.Errorf("indices %v%v", idx.DType, idx.Shape)
	}
	last := len(idx.Shape) - 1
	if idx.Shape[last] > int64(len(a.Shape)) {
		return w, fmt.Errorf("indices of depth %d into %v", idx.Shape[last], a.Shape)
	}
	w.depth = int(idx.Shape[last])
	w.outer, w.tail = idx.Shape[:last], a.Shape[w.depth:]
	w.inner = product(w.tail)
	return w, nil
}

// each calls f with the number of each window and the place in a where it begins.
func (w windows) each(a, idx *Tensor, f func(r, at int)) error {
	st := strides(a.Shape)
	for r := range product(w.outer) {
		at := 0
		for d := range w.depth {
			i, err := element(idx.I[r*w.depth+d], a.Shape[d])
			if err != nil {
				return err
			}
			at += i * st[d]
		}
		f(r, at)
	}
	return nil
}

func gatherND(n *ir.Node, in []*Tensor) ([]result, error) {
	a, idx := in[0], in[1]
	if n.Int("batch_dims", 0) != 0 {
		return nil, unsupported("GatherND with batch dimensions")
	}
	w, err := windowsOf(a, idx)
	if err != nil {
		return nil, err
	}
	return one(a.DType, append(append([]int64{}, w.outer...), w.tail...), func(out *Tensor) error {
		return w.each(a, idx, func(r, at int) {
			for k := range w.inner {
				out.move(r*w.inner+k, a, at+k)
			}
		})
	})
}

func scatterND(n *ir.Node, in []*Tensor) ([]result, error) {
	a, idx, upd := in[0], in[1], in[2]
	if n.Str("reduction", "none") != "none" {
		return nil, unsupported("ScatterND with a reduction")
	}
	w, err := windowsOf(a, idx)
	if err != nil {
		return nil, err
	}
	if want := append(append([]int64{}, w.outer...), w.tail...); fmt.Sprint(want) != fmt.Sprint(upd.Shape) || upd.DType != a.DType {
		return nil, fmt.Errorf("updates %v%v where %v%v belong", upd.DType, upd.Shape, a.DType, want)
	}
	return one(a.DType, a.Shape, func(out *Tensor) error {
		copy(out.F, a.F)
		copy(out.I, a.I)
		return w.each(a, idx, func(r, at int) {
			for k := range w.inner {
				out.move(at+k, upd, r*w.inner+k)
			}
		})
	})
}

func trilu(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	if len(a.Shape) < 2 {
		return nil, fmt.Errorf("not defined for %v", a.Shape)
	}
	upper := n.Int("upper", 1) == 1
	return one(a.DType, a.Shape, func(out *Tensor) error {
		k := int64(0)
		if len(in) > 1 && in[1] != nil {
			if len(in[1].I) != 1 {
				return errors.New("k is not one integer")
			}
			k = min(max(in[1].I[0], -MaxElements), MaxElements)
		}
		rows, cols := a.Shape[len(a.Shape)-2], a.Shape[len(a.Shape)-1]
		for i := range out.Len() {
			r, c := int64(i)/cols%rows, int64(i)%cols
			if upper && c >= r+k || !upper && c <= r+k {
				out.move(i, a, i)
			}
		}
		return nil
	})
}
