// Package packed reads weights that a checkpoint stores quantised, in the formats of GPTQ and AWQ, as tensors of ONNX
// Runtime's MatMulNBits.
//
//	c, err := packed.ParseConfig(member) // quantization_config in config.json
//	...
//	m, err := c.Open(weights, "model.layers.0.self_attn.q_proj", outputs, inputs)
//	...
//	fmt.Println(m.Bits, m.BlockSize, m.Order != nil) // 4 128 false
//
// What a checkpoint means by a weight is (q - z) * s, with integers q and z and a float s, and so does MatMulNBits: the
// numbers are moved, never rounded, and each weight is the same real number before and after. The formats:
//
//	GPTQ  qweight int32 [K/8, N]  eight (of 8 bits: four) levels of neighbouring inputs in a word, the first lowest
//	      qzeros  int32 [G, N/8]  zero points of neighbouring outputs; version 1 stores z - 1
//	      scales  float [G, N]
//	      g_idx   int32 [K]       the group of each input; absent, or in order unless act-order was used
//	AWQ   qweight int32 [K, N/8]  levels of neighbouring outputs in a word, in the order 0 2 4 6 1 3 5 7 from the lowest
//	      qzeros  int32 [G, N/8]  in the same order; z as it is
//	      scales  float [G, N]
//
// where a layer has K inputs in G groups and N outputs. Data is decoded while it is read; opening a layer reads its zero
// points and its g_idx alone.
//
// The package never quantises, never multiplies, and never guesses: what it does not know it refuses.
package packed
