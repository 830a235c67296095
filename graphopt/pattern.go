package graphopt

import (
	"fmt"
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pattern describes a value by what produces it. Patterns are immutable once built and may be
// shared between rules and goroutines.
//
//	x := graphopt.Any("x")
//	silu := graphopt.Op("Mul", x, graphopt.Op("Sigmoid", x))
//
// A name that occurs twice must stand for the same value both times.
type Pattern struct {
	kind     patternKind
	op       string
	domain   string
	operands []*Pattern // of Op; the choices of Or
	name     string
	shared   bool
	test     func(*ir.Node) error
	constant func(*ir.Tensor) error
}

type patternKind uint8

const (
	anyValue patternKind = iota
	constValue
	opValue
	orValue
	optional
	rest
)

// Any matches any value and binds it to name ("" binds nothing).
func Any(name string) *Pattern { return &Pattern{kind: anyValue, name: name} }

// Const matches a constant: an initializer that no caller can override.
func Const(name string) *Pattern { return &Pattern{kind: constValue, name: name} }

// Scalar matches a constant of one element that is within one part in a million of v.
func Scalar(v float64) *Pattern {
	p := Const("")
	p.constant = func(t *ir.Tensor) error {
		got, err := ScalarValue(t)
		if err != nil {
			return err
		}
		if math.Abs(got-v) > 1e-6*math.Abs(v) {
			return fmt.Errorf("the constant is %g, not %g", got, v)
		}
		return nil
	}
	return p
}

// Ints matches a constant that holds exactly these integers.
func Ints(want ...int64) *Pattern {
	p := Const("")
	p.constant = func(t *ir.Tensor) error {
		if t.Len() != int64(len(want)) {
			return fmt.Errorf("the constant has shape %v, not %d elements", t.Shape, len(want))
		}
		got, err := t.Int64s()
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("the constant is %v, not %v", got, want)
		}
		return err
	}
	return p
}

// Op matches the first result of an operator of ONNX's own domain. Operands that the node has
// beyond those named may only be left-out ones. The operands of Add, Mul, And, Or, Max, Min and
// Equal match in either order.
func Op(op string, operands ...*Pattern) *Pattern {
	return &Pattern{kind: opValue, op: op, operands: operands}
}

// MSOp is Op for the domain com.microsoft.
func MSOp(op string, operands ...*Pattern) *Pattern {
	return &Pattern{kind: opValue, op: op, domain: Microsoft, operands: operands}
}

// Microsoft is the domain of ONNX Runtime's own operators.
const Microsoft = "com.microsoft"

// Or matches what one of its choices matches, and prefers those that come first. It goes on to the next
// where a choice fits but the rest of the pattern does not.
func Or(choices ...*Pattern) *Pattern { return &Pattern{kind: orValue, operands: choices} }

// Opt matches, as an operand, p or an operand that is left out.
func Opt(p *Pattern) *Pattern { return &Pattern{kind: optional, operands: []*Pattern{p}} }

// Rest matches, as the last operand, any number of further operands.
func Rest() *Pattern { return &Pattern{kind: rest} }

// As binds the value that p matches to name.
func (p *Pattern) As(name string) *Pattern {
	return p.with(func(q *Pattern) { q.name = name })
}

// with makes a copy of p with a change. A change of alternatives, or of what may be left out, is one of
// each pattern among them.
func (p *Pattern) with(change func(q *Pattern)) *Pattern {
	q := *p
	if p.kind == orValue || p.kind == optional {
		q.operands = make([]*Pattern, len(p.operands))
		for i, o := range p.operands {
			q.operands[i] = o.with(change)
		}
		return &q
	}
	change(&q)
	return &q
}

// Shared lets the value be read from outside of the match as well. Without it a match is
// declined when a value inside it has readers outside, since its node could not go.
func (p *Pattern) Shared() *Pattern {
	return p.with(func(q *Pattern) { q.shared = true })
}

// Where adds a test of the node, of its attributes for example.
func (p *Pattern) Where(test func(*ir.Node) error) *Pattern {
	return p.with(func(q *Pattern) {
		before := q.test
		q.test = func(n *ir.Node) error {
			if before != nil {
				if err := before(n); err != nil {
					return err
				}
			}
			return test(n)
		}
	})
}

// Perm requires the perm attribute of a Transpose.
func (p *Pattern) Perm(perm ...int64) *Pattern {
	return p.Where(func(n *ir.Node) error {
		got := n.Ints("perm")
		if !slices.Equal(got, perm) {
			return fmt.Errorf("perm is %v, not %v", got, perm)
		}
		return nil
	})
}

// Attr requires an integer attribute, with def where the node does not give it.
func (p *Pattern) Attr(name string, def int64, want ...int64) *Pattern {
	return p.Where(func(n *ir.Node) error {
		got := n.Int(name, def)
		if slices.Contains(want, got) {
			return nil
		}
		return fmt.Errorf("%s is %d, not %v", name, got, want)
	})
}

// ScalarValue is the only element of a constant.
func ScalarValue(t *ir.Tensor) (float64, error) {
	if t.Len() != 1 {
		return 0, fmt.Errorf("the constant has shape %v, not one element", t.Shape)
	}
	if t.DType.Float() {
		v, err := t.Float32s()
		if err != nil {
			return 0, err
		}
		return float64(v[0]), nil
	}
	v, err := t.Int64s()
	if err != nil {
		return 0, err
	}
	return float64(v[0]), nil
}

func commutative(p *Pattern) bool {
	if p.domain != "" || len(p.operands) != 2 {
		return false
	}
	switch p.op {
	case "Add", "Mul", "And", "Or", "Max", "Min", "Equal":
		return true
	}
	return false
}

// roots are the operators in which a match of p can end.
func (p *Pattern) roots() []string {
	switch p.kind {
	case opValue:
		return []string{p.op}
	case orValue:
		var ops []string
		for _, c := range p.operands {
			ops = append(ops, c.roots()...)
		}
		slices.Sort(ops)
		return slices.Compact(ops)
	}
	return nil
}
