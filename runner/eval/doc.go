// Package eval measures how good a model's predictions are: its perplexity, and how far it is from a
// reference, by the conventions of llama.cpp's llama-perplexity, so that the figures stand beside others.
//
//	r, err := runner.Open(ctx, "qwen3-0.6b-int4", runner.Options{})
//	...
//	ref, err := runner.Open(ctx, "qwen3-0.6b-fp32", runner.Options{})
//	...
//	tokens, err := eval.Tokenize(r, text)
//	...
//	result, err := eval.Measure(ctx, r, tokens, eval.Options{Reference: eval.ModelReference(ref)})
//	...
//	fmt.Println(result.Perplexity, result.Divergence.KLD.Mean)
//
// The text is cut into chunks of n_ctx tokens that know nothing of each other. In each, the second half
// is scored: positions n_ctx/2 to n_ctx-2 predict the token behind them. What is left over at the end of
// the text is not used. Nothing is put before the text or a chunk, unless the tokenizer's configuration
// asks for a BOS token, which then takes the place of each chunk's first.
//
// [Graphs] compares two graphs of one model, as an optimiser needs it: the largest difference of logits,
// in prefill and in decoding.
//
// The package downloads no text and holds none but the few lines that [Graphs] falls back on, and it never
// judges which figures are good.
package eval
