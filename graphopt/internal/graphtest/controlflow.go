package graphtest

import (
	_ "embed"

	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

//go:embed testdata/control_flow.onnx
var controlFlow []byte

// ControlFlow is a model with If, Loop and a function, see testdata/control_flow.py.
func ControlFlow() []byte { return controlFlow }

// ControlFlowInputs are inputs with which its else branch and three rounds of its loop run.
func ControlFlowInputs() Tensors {
	return Tensors{
		"x":    interp.Floats([]int64{2, 3}, -1, 0.5, 2, -3, 0.25, 1),
		"cond": {DType: ir.Bool, Shape: []int64{}, I: []int64{0}},
		"n":    interp.Ints([]int64{}, 3),
	}
}
