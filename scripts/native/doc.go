// Native obtains the two native libraries that qwenrt needs and tells the shell where they are.
//
//   - ONNX Runtime, a shared library loaded when a program starts, taken from the onnxruntime Python wheel with pip.
//   - libtokenizers.a, a static library linked when a program is built, compiled with cargo from the Rust source in
//     the Go module github.com/daulet/tokenizers.
//
// Every download is pinned by version and by SHA-256. Libraries lie in the user's cache, one folder for each name,
// version and platform, and are installed once: a second run fetches nothing.
//
// In a shell, before building a program that imports github.com/qwenrt/qwenrt/runner:
//
//	eval "$(go run github.com/qwenrt/qwenrt/scripts/native@latest env)"
//	go build ./...
//
// Commands:
//
//	native install [--cuda]   install what is missing
//	native env [--cuda]       the same, then print export lines for a POSIX shell
//	native status [--cuda]    check every installed file against its recorded hash
//
// With --cuda, ONNX Runtime is the build with the CUDA provider; CUDA 13 and cuDNN 9 themselves must be on the machine.
//
// Environment:
//
//	QWENRT_NATIVE_DIR       folder for the libraries (default: qwenrt/native in the user's cache folder)
//	QWENRT_ORT_LIB          an ONNX Runtime library, or its folder, to use instead of the pinned one
//	QWENRT_TOKENIZERS_LIB   a folder that holds libtokenizers.a, to use instead of building one
//
// Native needs no cgo and nothing outside the standard library, so that go run can start it on a machine that has
// none of the libraries yet. It never writes outside its folder and the temporary folder inside it, never installs
// Python packages or Rust tools, and never needs administrator's rights.
package main
