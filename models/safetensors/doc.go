// Package safetensors reads model checkpoints in the safetensors format, one file or sharded with an
// index, and writes single files.
//
//	ckpt, err := safetensors.Open("Qwen3-0.6B")
//	if err != nil {
//		return err
//	}
//	defer ckpt.Close()
//	embed, ok := ckpt.Tensor("model.embed_tokens.weight")
//	fmt.Println(ok, embed.DType, embed.Shape, len(embed.Bytes())) // true BF16 [151936 1024] 311164928
//
// A file is an 8-byte little-endian header length, a JSON header that gives each tensor's dtype, shape
// and place, and the tensors' bytes, little-endian and row-major, without gaps
// (https://github.com/huggingface/safetensors#format). Files are mapped: opening reads headers only, and a
// tensor costs memory while its pages are in use.
//
// Checkpoints come from strangers. Before a single weight can be read, every length, offset, shape and
// file name has been checked: after Open, a Tensor's bytes lie inside its file and agree with its shape.
//
// The package never converts values, never judges whether a dtype or a shape suits a model, and never
// reads other formats (PyTorch pickles, GGUF).
package safetensors
