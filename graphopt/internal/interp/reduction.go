package interp

import (
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func cumSum(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	if !a.float() && (!integer(a.DType) || a.DType == ir.Bool) {
		return nil, unsupported("a sum of %v", a.DType)
	}
	exclusive, reverse := n.Int("exclusive", 0) == 1, n.Int("reverse", 0) == 1
	return one(a.DType, a.Shape, func(out *Tensor) error {
		if len(in[1].I) != 1 {
			return errors.New("the axis is not one integer")
		}
		axis, err := axisOf(in[1].I[0], len(a.Shape))
		if err != nil {
			return err
		}
		outer, inner := around(a.Shape, axis)
		d := int(a.Shape[axis])
		for line := range outer * inner {
			f, i := 0.0, int64(0)
			for j := range d {
				if reverse {
					j = d - 1 - j
				}
				at := (line/inner*d+j)*inner + line%inner
				if a.float() {
					before := f
					f = round(a.DType, f+a.F[at])
					out.F[at] = f
					if exclusive {
						out.F[at] = before
					}
					continue
				}
				before := i
				i = wrap(a.DType, i+a.I[at])
				out.I[at] = i
				if exclusive {
					out.I[at] = before
				}
			}
		}
		return nil
	})
}

// maxProduct bounds the multiplications of one MatMul.
const maxProduct = 1 << 28

func matMulShape(a, b *Tensor) ([]int64, error) {
	ra, rb := len(a.Shape), len(b.Shape)
	if ra < 2 || rb < 2 {
		return nil, unsupported("a product with a vector")
	}
	if a.Shape[ra-1] != b.Shape[rb-2] || a.DType != b.DType || !a.float() {
		return nil, fmt.Errorf("%v%v times %v%v", a.DType, a.Shape, b.DType, b.Shape)
	}
	batch, err := broadcast(a.Shape[:ra-2], b.Shape[:rb-2])
	if err != nil {
		return nil, err
	}
	return append(batch, a.Shape[ra-2], b.Shape[rb-1]), nil
}

func matMul(_ *ir.Node, in []*Tensor) ([]result, error) {
	a, b := in[0], in[1]
	shape, err := matMulShape(a, b)
	if err != nil {
		return nil, err
	}
	ra, rb := len(a.Shape), len(b.Shape)
	return one(a.DType, shape, func(out *Tensor) error {
		m, k, n := int(a.Shape[ra-2]), int(a.Shape[ra-1]), int(b.Shape[rb-1])
		if int64(out.Len())*int64(k) > maxProduct {
			return unsupported("a product of this size")
		}
		index(shape[:len(shape)-2], func(i int, at []int) {
			for r := range m {
				row := out.F[(i*m+r)*n : (i*m+r+1)*n]
				for j := range k {
					x := a.F[(at[0]*m+r)*k+j]
					for c, y := range b.F[(at[1]*k+j)*n : (at[1]*k+j+1)*n] {
						row[c] += x * y
					}
				}
				for c := range row {
					row[c] = round(a.DType, row[c])
				}
			}
		}, a.Shape[:ra-2], b.Shape[:rb-2])
		return nil
	})
}

// reduced finds the axes that a reduction drops.
func reduced(n *ir.Node, in []*Tensor) (drop []bool, none bool, err error) {
	list, _, err := intsOr(n, in, 1, "axes")
	if err != nil {
		return nil, false, err
	}
	if len(list) == 0 && n.Int("noop_with_empty_axes", 0) == 1 {
		return nil, true, nil
	}
	drop, err = axisSet(list, len(in[0].Shape))
	for i := range drop {
		drop[i] = drop[i] || len(list) == 0
	}
	return drop, false, err
}

// reduce makes a reduction that begins with start; over no elements, integers have no maximum.
func reduce(start float64, f func(acc, x float64) float64, g func(acc, x int64) int64) operator {
	return operator{min: 1, max: 2, content: 2, plan: func(n *ir.Node, in []*Tensor) ([]result, error) {
		a := in[0]
		if !a.float() && (!integer(a.DType) || a.DType == ir.Bool) {
			return nil, unsupported("a reduction of %v", a.DType)
		}
		drop, none, err := reduced(n, in)
		if err != nil {
			return nil, err
		}
		if none {
			return viewed(a, a.Shape)
		}
		full, shape := []int64{}, []int64{}
		for i, d := range a.Shape {
			switch {
			case !drop[i]:
				full, shape = append(full, d), append(shape, d)
			case n.Int("keepdims", 1) == 1:
				full, shape = append(full, 1), append(shape, 1)
			default:
				full = append(full, 1)
			}
		}
		return one(a.DType, shape, func(out *Tensor) error {
			if !a.float() && math.IsInf(start, 0) && a.Len() == 0 && out.Len() > 0 {
				return unsupported("the extreme of no integers")
			}
			seen := make([]bool, out.Len())
			acc := make([]float64, len(out.F)) // rounded at the end, as wide accumulators are
			for i := range acc {
				acc[i] = start
			}
			if !math.IsInf(start, 0) {
				for i := range out.I {
					out.I[i] = int64(start)
				}
			}
			index(a.Shape, func(i int, at []int) {
				k := at[0]
				switch {
				case a.float() && !seen[k]:
					acc[k] = a.F[i]
				case a.float():
					acc[k] = f(acc[k], a.F[i])
				case !seen[k]:
					out.I[k] = a.I[i]
				default:
					out.I[k] = wrap(a.DType, g(out.I[k], a.I[i]))
				}
				seen[k] = true
			}, full)
			for i, x := range acc {
				out.F[i] = round(a.DType, x)
			}
			return nil
		})
	}}
}

var sum = reduce(0, func(a, x float64) float64 { return a + x }, func(a, x int64) int64 { return a + x })

func mean(n *ir.Node, in []*Tensor) ([]result, error) {
	out, err := sum.plan(n, in)
	if err != nil || out[0].same != nil {
		return out, err
	}
	wide := *in[0] // divides before it rounds
	total := out[0]
	out[0].fill = func(t *Tensor) error {
		if t.float() {
			wide.DType = ir.Float64
			r, err := sum.plan(n, append([]*Tensor{&wide}, in[1:]...))
			if err != nil {
				return err
			}
			total = r[0]
		}
		tmp := &Tensor{DType: wide.DType, Shape: t.Shape, F: t.F, I: t.I}
		if err := total.fill(tmp); err != nil {
			return err
		}
		if t.Len() == 0 {
			return nil
		}
		count := wide.Len() / t.Len()
		for i := range t.F {
			t.F[i] = round(t.DType, t.F[i]/float64(count))
		}
		if count == 0 && !t.float() {
			return errDivision
		}
		for i := range t.I {
			t.I[i] /= int64(count)
		}
		return nil
	}
	return out, nil
}

// softmax runs over the last axis. Over another one, opsets below 13 mean something else by it.
func softmax(n *ir.Node, in []*Tensor) ([]result, error) {
	a := in[0]
	if !a.float() {
		return nil, fmt.Errorf("not defined for %v", a.DType)
	}
	axis, err := axisOf(n.Int("axis", -1), len(a.Shape))
	if err != nil {
		return nil, err
	}
	if axis != len(a.Shape)-1 {
		return nil, unsupported("a softmax over axis %d of %d", axis, len(a.Shape))
	}
	return one(a.DType, a.Shape, func(out *Tensor) error {
		d := int(a.Shape[axis])
		for at := 0; at < len(a.F); at += d {
			x, y := a.F[at:at+d], out.F[at:at+d]
			top, total := math.Inf(-1), 0.0
			for _, v := range x {
				top = math.Max(top, v)
			}
			for i, v := range x {
				y[i] = math.Exp(v - top)
				total += y[i]
			}
			for i := range y {
				y[i] = round(a.DType, y[i]/total)
			}
		}
		return nil
	})
}
