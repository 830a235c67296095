// Package shapes writes into the model what types its values have.
//
// Dimensions are fixed, or named as those of the inputs are, or open. Core ML's provider takes nodes whose
// shapes it finds, and tools that show a graph show them; ONNX Runtime itself infers shapes again when it
// loads a model, so for other targets this would only make the file larger.
package shapes

import (
	g "github.com/qwenrt/qwenrt/graphopt"
)

// Pass records types.
var Pass = &g.Pass{
	Name:    "shapes",
	Doc:     "types and shapes of all values are written into the model (value_info)",
	Needs:   "nothing; values behind operators that are not known stay without",
	After:   []string{"precision"},
	Targets: []g.Target{g.CoreML},
	Run:     run,
}

const passName = "shapes"

func run(u *g.Unit) (int, error) {
	recorded := 0
	for _, n := range u.Model.Graph.Nodes() {
		for _, v := range n.Outputs() {
			if v == nil || v.IsOutput() || v.Type.HasShape() {
				continue
			}
			if t := u.Type(v); t.HasShape() {
				v.Type = t
				u.Applied(passName, v.Name)
				recorded++
			}
		}
	}
	return recorded, nil
}
