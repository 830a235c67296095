// Package kernels knows what execution providers of ONNX Runtime can compute: operators, versions and
// element types.
//
//	missing, err := kernels.Check(model, graphopt.CPU)
//	for _, m := range missing {
//		fmt.Println(m.Node, m.Types, m.Effect) // MatMul(/lm_head/MatMul) float16 runs in float32, between casts
//	}
//
// It answers from tables, so a graph for a GPU can be checked on a machine without one. The tables of the
// CPU and of CUDA are read from the registry of the library by scripts/kernels/tables.py, which is how
// they are brought up to date; Core ML's provider has no registry, and its table is written by hand. Each
// table says of which version it is.
//
// The package never runs ONNX Runtime. It does not know what a kernel demands of shapes, attributes or
// hardware: a model without a missing kernel may still be refused by a session.
package kernels
