package graphopt

import (
	"fmt"
	"math"

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
		got, err := t.Int64s()
		if err != nil {
			return err
		}
		if len(got) != len(want) {
			return fmt.Errorf("the constant is %v, not %v", got, want)
		}
		for i := range got {
			if got[i] != want[i] {
				return fmt.Errorf("the constant is %v, not %v", got, want)
			}
		}
		return nil
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

// Or matches what the first of its choices matches.
func Or(choices ...*Pattern) *Pattern { return &Pattern{kind: orValue, operands: choices} }

// Opt, as an operand, matches p or an operand that is left out.
func Opt(p *Pattern) *Pattern { return &Pattern{kind: optional, operands: []*Pattern{p}} }

// Rest, as the last operand, matches any number of further operands.
func Rest() *Pattern { return &Pattern{kind: rest} }

// As binds the value that p matches to name.
func (p *Pattern) As(name string) *Pattern {
	q := *p
	q.name = name
	return &q
}

// Shared lets the value be read from outside of the match as well. Without it a match is
// declined when a value inside it has readers outside, since its node could not go.
func (p *Pattern) Shared() *Pattern {
	q := *p
	q.shared = true
	return &q
}

// Where adds a test of the node's attributes.
func (p *Pattern) Where(test func(*ir.Node) error) *Pattern {
	q := *p
	q.test = test
	return &q
}

// Perm requires the perm attribute of a Transpose.
func (p *Pattern) Perm(perm ...int64) *Pattern {
	return p.Where(func(n *ir.Node) error {
		got := n.Ints("perm")
		if fmt.Sprint(got) != fmt.Sprint(perm) {
			return fmt.Errorf("perm is %v, not %v", got, perm)
		}
		return nil
	})
}

// Attr requires an integer attribute, with def where the node does not give it.
func (p *Pattern) Attr(name string, def int64, want ...int64) *Pattern {
	return p.Where(func(n *ir.Node) error {
		got := n.Int(name, def)
		for _, w := range want {
			if got == w {
				return nil
			}
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
		return ops
	}
	return nil
}
