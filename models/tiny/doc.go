// Package tiny carries a small trained Qwen3 checkpoint, so that the whole chain from checkpoint
// to tokens can be tried and tested with nothing downloaded.
//
// The model has 10 million parameters: 8 layers, hidden size 256, 8 query heads on 4 KV heads of
// size 64, an MLP of 768, a vocabulary of 8,192 with Qwen3's special tokens and chat template, tied
// embeddings, bf16. It knows dictionary entries, the documentation of PostgreSQL and Python, and the
// King James Bible; asked `What does "harbor" mean?` it answers in form.
//
// Only cmd/qwenrt may import this package: it adds 20 MB to a binary.
package tiny
