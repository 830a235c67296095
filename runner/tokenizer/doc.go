// Package tokenizer turns text into token ids and back, by the tokenizer.json of a
// model folder.
//
//	tok, err := tokenizer.Open("Qwen3-0.6B")
//	if err != nil {
//		return err
//	}
//	defer tok.Close()
//	ids, err := tok.Encode("<|im_start|>user\nHello<|im_end|>\n")
//
//	stream := tok.NewStream(tokenizer.DecodeOptions{})
//	for _, id := range ids {
//		text, err := stream.Next(id) // whole characters only
//		...
//	}
//	text := stream.Flush()
//
// The reference for encoding is the Hugging Face tokenizers library, through
// github.com/daulet/tokenizers and its static library. For a tokenizer.json of the
// form that Qwen2 and Qwen3 have, texts are encoded here where that is known to give
// the same ids: the text is in Unicode's normal form C, and Go's version of Unicode
// knows its characters. The library is loaded when another text first comes; for
// tokenizers of other forms, by Open. Decoding is done here for
// byte-level BPE, which Qwen3 and most current models use: each token stands for
// fixed bytes, so a table of them gives the text exactly, without a call to the
// library and without an allocation for a token of whole characters. Tokenizers of
// other kinds are decoded by the library, in a window of a few tokens.
//
// The package adds no tokens of its own (no BOS, no EOS: a chat template writes
// what it wants), downloads nothing, trains nothing, and never truncates or pads,
// whatever tokenizer.json says.
package tokenizer
