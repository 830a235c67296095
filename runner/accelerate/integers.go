package accelerate

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// checkIntegers lists the products of a model in StaticInt8 that ONNX Runtime does not compute in integers: it has the model
// optimised as it is before it runs, and looks at what comes out.
func (w *work) checkIntegers(file string) (err error) {
	if w.set.Precision != StaticInt8 {
		return nil
	}
	dir, err := os.MkdirTemp(filepath.Dir(file), "optimized")
	if err != nil {
		return fmt.Errorf("accelerate: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	optimized := filepath.Join(dir, "model.onnx")
	s, err := ort.NewSession(file, ort.SessionConfig{
		Threads: ort.DefaultThreads(), OptimizedModelPath: optimized,
		ConfigEntries: map[string]string{
			"session.disable_prepacking":                              "1", // it is not to run
			"session.optimized_model_external_initializers_file_name": "model.onnx.data",
		},
	})
	if err != nil {
		return fmt.Errorf("accelerate: %w", err)
	}
	s.Close()
	m, err := ir.Load(optimized)
	if err != nil {
		return err
	}
	w.report.FloatProducts = floatProducts(m, w.plan.Integers())
	return m.Close()
}

// floatProducts are the weights, given by the initializers of their levels, that no operator on integers reads.
func floatProducts(m *ir.Model, weights map[string]string) []string {
	integers := map[string]bool{}
	m.Graph.Walk(func(n *ir.Node) {
		switch n.OpType {
		case "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul", "MatMulInteger":
			for _, v := range n.Inputs() {
				if v != nil { // the suffix is that of weights made unsigned, on CPUs that want them so
					integers[strings.TrimSuffix(v.Name, "_s8_2_u8")] = true
				}
			}
		}
	})
	var float []string
	for initializer, tensor := range weights {
		if !integers[initializer] {
			float = append(float, tensor)
		}
	}
	slices.Sort(float)
	return float
}
