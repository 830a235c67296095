// Package inspect describes ONNX graphs to people: what is in one, what differs between two, and how one
// layer of a model hangs together.
//
//	m, err := ir.Load("model.onnx")
//	...
//	s := inspect.Summarize(m)
//	fmt.Println(s.Nodes, s.BitsPerWeight, s.Quantization)
//
//	changes, err := inspect.Diff(ctx, before, m)
//	...
//	err = inspect.WriteHTML(w, m, "model.onnx", inspect.Layer(m, 0))
//
// Graphs of any origin are read. What is known of operators is a table of those that ONNX Runtime's CPU
// provider runs; others are counted by name.
//
// The package changes no graph, runs none, and reads weights only to compare them.
package inspect
