// Package runner runs language models in ONNX form: it opens a model folder, keeps the KV cache, and
// generates text.
//
//	r, err := runner.Open(ctx, "qwen3-0.6b-int4", runner.Options{})
//	if err != nil {
//		return err
//	}
//	defer r.Close()
//	req := runner.Request{Messages: []chat.Message{{Role: "user", Content: "What is a harbor?"}}}
//	for ev, err := range r.Generate(ctx, req) {
//		if err != nil {
//			return err
//		}
//		fmt.Print(ev.Text)
//	}
//
// A model folder holds model.onnx, its data, the tokenizer and config files. What the model takes and
// gives is read from the graph, so folders made by other tools open as well, if inputs and outputs have
// the names that transformers' exports give them: input_ids, attention_mask, position_ids,
// past_key_values.N.key and .value; logits, present.N.key and .value.
//
// [Runner.Generate] is for text. [Sequence] is the level below: tokens in, logits out, with a KV
// cache that grows with the tokens in use, can be cut back, and lies outside Go's heap. Where attention
// is GroupQueryAttention, which writes a token's keys and values in place, decoding a token allocates
// nothing on Go's heap and copies neither cache nor logits.
//
// The package never changes a model, never downloads one and never prints; package accelerate,
// below it, makes model folders from checkpoints.
package runner
