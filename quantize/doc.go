// Package quantize stores the weights of an ONNX model in few bits.
//
// It works in two steps. [NewPlan] looks at the graph, reads no weight, and decides everything:
// which tensors are quantised, by which method and to which format, and which are left alone and
// why; whatever cannot be done is an error here. [Plan.Apply] then rewrites the graph, and the
// packed weights are computed while [ir.Save] streams the model to disk, in one pass over each
// weight, on all cores, in memory bounded by a few buffers:
//
//	m, err := ir.Load("model.onnx")
//	if err != nil { ... }
//	defer m.Close()
//	plan, err := quantize.NewPlan(m, quantize.Options{Precision: quantize.Int4, BlockSize: 32})
//	if err != nil { ... }
//	if err := plan.Apply(m); err != nil { ... }
//	if err := ir.Save(ctx, m, "int4/model.onnx", ir.SaveOptions{}); err != nil { ... }
//	fmt.Println(plan.Report().BitsPerWeight())
//
// The formats are those of ONNX Runtime's operators MatMulNBits and GatherBlockQuantized
// (com.microsoft, version 1): each row of a weight is cut into blocks of 16 to 256 neighbours that
// share a scale and, unless symmetric, a zero point. A table that is both embedding and output head
// is quantised once and lies in the file once.
//
// The package never runs a model, never prints, and never changes a weight's meaning beyond the
// rounding that the format asks for.
package quantize
