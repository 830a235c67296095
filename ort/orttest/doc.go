// Package orttest has an execution provider for tests: a plug-in with a device of
// its own, on a machine that has none.
//
//	orttest.Register(t)
//	s, err := ort.NewSession(path, ort.SessionConfig{Providers: []ort.Provider{{Name: orttest.Provider}}})
//	...
//	before := orttest.Read(t)
//	... // runs
//	require.Zero(t, orttest.Read(t).Since(before).BytesIn, "nothing is copied to the device")
//
// The whole graph becomes one node on the device, which runs the model's file in a
// session of its own with the kernels of the CPU, so that any model runs there and
// gives what the CPU gives. Device memory is addresses that nobody may touch:
// reading a device tensor from the host crashes, and an ordinary pointer in a
// kernel is an error. What crosses between host and device is counted, and each
// run's addresses and shapes are kept.
//
// Allocated tells what C's heap holds, and ResidentAnonymous what the process does, for
// tests of what is left behind.
//
// The provider is written in C and compiled when a test first asks for it, with the
// compiler that cgo uses. Only tests import this package; it knows nothing of what
// a provider for real hardware does at the same time as others.
package orttest
