// Package qwen3 turns a Qwen3 checkpoint into an ONNX model: it reads config.json, finds and checks
// the weights, and builds the graph with ONNX's own operators and a KV cache as inputs and outputs.
//
//	src, err := qwen3.Open("Qwen3-0.6B")
//	if err != nil {
//		return err
//	}
//	defer src.Close()
//	model, err := src.Model(qwen3.Options{DType: ir.Float32})
//	if err != nil {
//		return err
//	}
//	err = ir.Save(ctx, model, "out/model.onnx", ir.SaveOptions{})
//
// All dense Qwen3 models are supported: tied and untied embeddings, a head_dim of its own, grouped
// queries, yarn scaling, config.json as transformers 4 and 5 write it, weights in F32, F16 and BF16.
// Weights are views of mapped files that are converted while ir.Save streams them, so memory does
// not grow with the model.
//
// The graph computes what transformers' Qwen3ForCausalLM computes with eager attention, operator by
// operator, and names its nodes and weights as transformers does. It is the plain form: fusing it is
// the work of graphopt, making it small the work of quantize. The package never runs a model, and
// never guesses: what it does not know (mixture of experts, quantised weights, sliding windows,
// other kinds of rope scaling) it refuses.
package qwen3
