// Qwenrt makes Qwen3 checkpoints run fast on ONNX Runtime, and runs them.
//
//	qwenrt run Qwen/Qwen3-0.6B -p "What is a harbor?"
//
// downloads a checkpoint, builds a model folder in the user's cache and answers; the second time it
// answers at once. The steps by hand:
//
//	qwenrt pull Qwen/Qwen3-0.6B               # prints the checkpoint's folder
//	qwenrt export CHECKPOINT -o onnx          # plain ONNX
//	qwenrt optimize onnx -o fused             # fused for ONNX Runtime
//	qwenrt quantize fused -o int4             # weights in 4 bits
//	qwenrt run int4 -p "What is a harbor?"
//
// The file app.go lists the commands; each has a file of its own. Results go to standard output,
// progress and errors to standard error. Exit codes: 0, 1 after an error (one line says what is
// wrong and what to do), 2 where the command line is wrong, 130 after an interrupt, 141 where nobody
// reads the output any more; those of qwenrt diff are diff(1)'s.
package main
