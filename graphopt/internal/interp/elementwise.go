package interp

import (
	"errors"
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

var errDivision = errors.New("division by zero")

func sameType(in []*Tensor) error {
	for _, t := range in {
		if t == nil || t.DType != in[0].DType {
			return errors.New("operands of different types")
		}
	}
	return nil
}

// arith makes an operator of least to most numbers, which are joined one after the other.
func arith(least, most int, f func(a, b float64) float64, g func(a, b int64) (int64, error)) operator {
	return operator{min: least, max: most, plan: func(_ *ir.Node, in []*Tensor) ([]result, error) {
		if err := sameType(in); err != nil {
			return nil, err
		}
		d := in[0].DType
		if !d.Float() && (!integer(d) || d == ir.Bool) {
			return nil, unsupported("arithmetic on %v", d)
		}
		shapes := make([][]int64, len(in))
		for i, t := range in {
			shapes[i] = t.Shape
		}
		shape, err := broadcast(shapes...)
		if err != nil {
			return nil, err
		}
		return one(d, shape, func(out *Tensor) error {
			var failed error
			index(shape, func(i int, at []int) {
				if d.Float() {
					acc := in[0].F[at[0]]
					for k, t := range in[1:] {
						acc = round(d, f(acc, t.F[at[k+1]]))
					}
					out.F[i] = acc
					return
				}
				acc := in[0].I[at[0]]
				for k, t := range in[1:] {
					v, err := g(acc, t.I[at[k+1]])
					if err != nil {
						failed = err
					}
					acc = wrap(d, v)
				}
				out.I[i] = acc
			}, shapes...)
			return failed
		})
	}}
}

// pow takes an exponent of any type; the result has the type of the base.
func pow(n *ir.Node, in []*Tensor) ([]result, error) {
	a, b := in[0], in[1]
	shape, err := broadcast(a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	number := func(t *Tensor, i int) float64 {
		if t.float() {
			return t.F[i]
		}
		return float64(t.I[i])
	}
	return one(a.DType, shape, func(out *Tensor) error {
		var failed error
		index(shape, func(i int, at []int) {
			x := math.Pow(number(a, at[0]), number(b, at[1]))
			switch {
			case out.float():
				out.F[i] = round(out.DType, x)
			case math.Abs(x) <= 1<<53:
				out.I[i] = wrap(out.DType, int64(x))
			default:
				failed = unsupported("an integer power of %g", x)
			}
		}, a.Shape, b.Shape)
		return failed
	})
}

func mod(n *ir.Node, in []*Tensor) ([]result, error) {
	c := n.Int("fmod", 0) == 1 // the sign is the dividend's, not the divisor's
	if in[0].float() && !c {
		return nil, errors.New("floating point needs fmod")
	}
	return arith(2, 2, math.Mod, func(a, b int64) (int64, error) {
		if b == 0 {
			return 0, errDivision
		}
		r := a % b
		if !c && r != 0 && (r < 0) != (b < 0) {
			r += b
		}
		return r, nil
	}).plan(n, in)
}

func compare(f func(a, b float64) bool, g func(a, b int64) bool) operator {
	return operator{min: 2, max: 2, plan: func(_ *ir.Node, in []*Tensor) ([]result, error) {
		a, b := in[0], in[1]
		if err := sameType(in); err != nil {
			return nil, err
		}
		if f == nil && a.DType != ir.Bool {
			return nil, fmt.Errorf("not defined for %v", a.DType)
		}
		shape, err := broadcast(a.Shape, b.Shape)
		if err != nil {
			return nil, err
		}
		return one(ir.Bool, shape, func(out *Tensor) error {
			index(shape, func(i int, at []int) {
				var yes bool
				if a.float() {
					yes = f(a.F[at[0]], b.F[at[1]])
				} else {
					yes = g(a.I[at[0]], b.I[at[1]])
				}
				if yes {
					out.I[i] = 1
				}
			}, a.Shape, b.Shape)
			return nil
		})
	}}
}

func unary(f func(float64) float64, g func(int64) int64) operator {
	return operator{min: 1, max: 1, plan: func(_ *ir.Node, in []*Tensor) ([]result, error) {
		a := in[0]
		if !a.float() && (g == nil || a.DType == ir.Bool) {
			return nil, fmt.Errorf("not defined for %v", a.DType)
		}
		return one(a.DType, a.Shape, func(out *Tensor) error {
			for i, x := range a.F {
				out.F[i] = round(a.DType, f(x))
			}
			for i, x := range a.I {
				out.I[i] = wrap(a.DType, g(x))
			}
			return nil
		})
	}}
}

func not(_ *ir.Node, in []*Tensor) ([]result, error) {
	if in[0].DType != ir.Bool {
		return nil, fmt.Errorf("not defined for %v", in[0].DType)
	}
	return one(ir.Bool, in[0].Shape, func(out *Tensor) error {
		for i, x := range in[0].I {
			if x == 0 {
				out.I[i] = 1
			}
		}
		return nil
	})
}

func isNaN(_ *ir.Node, in []*Tensor) ([]result, error) {
	if !in[0].float() {
		return nil, fmt.Errorf("not defined for %v", in[0].DType)
	}
	return one(ir.Bool, in[0].Shape, func(out *Tensor) error {
		for i, x := range in[0].F {
			if math.IsNaN(x) {
				out.I[i] = 1
			}
		}
		return nil
	})
}

func castTo(a *Tensor, to ir.DType) ([]result, error) {
	if !to.Float() && !integer(to) {
		return nil, unsupported("a cast to %v", to)
	}
	return one(to, a.Shape, func(out *Tensor) error {
		for i, x := range a.F {
			switch {
			case to.Float():
				out.F[i] = round(to, x)
			case to == ir.Bool:
				if x != 0 {
					out.I[i] = 1
				}
			case math.IsNaN(x) || math.Abs(x) >= 1<<62 || wrap(to, int64(x)) != int64(x):
				return unsupported("a cast of %g to %v, where it does not fit", x, to)
			default:
				out.I[i] = int64(x)
			}
		}
		for i, x := range a.I {
			switch {
			case to.Float():
				out.F[i] = round(to, float64(x))
			case to == ir.Bool:
				if x != 0 {
					out.I[i] = 1
				}
			default:
				out.I[i] = wrap(to, x)
			}
		}
		return nil
	})
}

func where(_ *ir.Node, in []*Tensor) ([]result, error) {
	c, a, b := in[0], in[1], in[2]
	if c.DType != ir.Bool || a.DType != b.DType {
		return nil, fmt.Errorf("a condition of %v, choices of %v and %v", c.DType, a.DType, b.DType)
	}
	shape, err := broadcast(c.Shape, a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	return one(a.DType, shape, func(out *Tensor) error {
		index(shape, func(i int, at []int) {
			if c.I[at[0]] != 0 {
				out.move(i, a, at[1])
			} else {
				out.move(i, b, at[2])
			}
		}, c.Shape, a.Shape, b.Shape)
		return nil
	})
}
