// Package modelfolder makes model folders for the tests of packages that must not know how models are
// made, such as runner's.
//
//	err := modelfolder.Export(ctx, "../models/tiny/qwen3-tiny", dir)
//
// It stands apart from reftest because the tests of models/qwen3 import that. Only tests import it.
package modelfolder
