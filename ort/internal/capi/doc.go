// Package capi calls those parts of ONNX Runtime's C API that package ort needs
// and that the Go binding it stands on does not reach: sessions with overridable
// initializers, device memory, an I/O binding that runs with run options, and
// error codes.
//
// It looks up the OrtApi of the same shared library that the binding has loaded
// (the dynamic loader returns one handle for one path) through the official
// header onnxruntime_c_api.h, kept here unchanged with its licence notice. The
// functions are those of the header with Go types; the header is their
// documentation. Nothing here keeps track of lifetimes or of goroutines: that is
// what package ort is for. Nothing here is called before [Use] has returned true.
package capi
