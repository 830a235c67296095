// Package ir holds an ONNX model in memory in a form that is easy to rewrite and cheap to keep.
//
// A [Graph] is nodes joined by values: a [Value] knows the node that produces it and every place
// that reads it, so a rewrite never searches by name. Weights stay where they are: the [Data] of a
// [Tensor] is a window on a mapped file, or a function of other data (a cast, a transposition, a
// concatenation, a quantised form) that is computed piece by piece while [Save] streams it to disk.
// A model of any size is loaded, rewritten and saved with memory bounded by the write buffers.
//
//	m, err := ir.Load("model.onnx")
//	if err != nil { ... }
//	defer m.Close()
//	for _, n := range m.Graph.Nodes() {
//		fmt.Println(n.OpType, n.Name)
//	}
//	err = ir.Save(ctx, m, "out/model.onnx", ir.SaveOptions{})
//
// The file format is ONNX's protobuf (onnx.proto of IR version 13 and earlier), read and written
// field by field with protowire (docs/adr/0005-onnx-protobuf.md): nothing is copied that need not
// be, and the output is the same for the same model. Fields of models, graphs, nodes, attributes and
// values that this package does not model are carried through as bytes; doc strings of tensors are
// not. Files are treated as hostile: every length, offset, count and path is checked before use.
//
// The package never runs a model, never prints, and knows nothing of any operator's meaning.
package ir
