package ort

import (
	"errors"
	"fmt"
	"strings"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// What callers branch on with errors.Is. Errors of this package are one line long
// and begin with "ort: ".
var (
	// ErrLibraryNotFound: ONNX Runtime's shared library is not where Find looks.
	ErrLibraryNotFound = errors.New("ONNX Runtime's shared library was not found")
	// ErrVersion: the shared library is older than the C API this package needs.
	ErrVersion = errors.New("ONNX Runtime is too old")
	// ErrInitialized: Init was called before, with another shared library.
	ErrInitialized = errors.New("already initialised with another library")
	// ErrClosed: the session, binding, control or tensor has been closed.
	ErrClosed = errors.New("closed")
	// ErrCancelled: the run was stopped by RunControl.Terminate or by its context.
	// In the second case the error is the context's error too.
	ErrCancelled = errors.New("cancelled")
	// ErrInvalidModel: the file is no ONNX model, or one that does not hold together.
	ErrInvalidModel = errors.New("invalid model")
	// ErrNotImplemented: the model wants an operator or a type that the execution
	// providers of the session do not have.
	ErrNotImplemented = errors.New("not implemented")
	// ErrProvider: an execution provider is missing, or failed.
	ErrProvider = errors.New("execution provider")
	// ErrNoSuchFile: the model or one of its data files is not there.
	ErrNoSuchFile = errors.New("no such file")
	// ErrInvalidArgument: a name, type, shape or option that does not fit.
	ErrInvalidArgument = errors.New("invalid argument")
	// ErrRuntime: anything else that went wrong inside ONNX Runtime.
	ErrRuntime = errors.New("ONNX Runtime failed")
)

// classify returns the sentinel for an error of the C API.
func classify(status *capi.Status) error {
	switch status.Code {
	case capi.InvalidArgument, capi.NotFound:
		return ErrInvalidArgument
	case capi.NoSuchFile:
		return ErrNoSuchFile
	case capi.NoModel, capi.InvalidProtobuf, capi.InvalidGraph, capi.ModelRequiresCompilation:
		return ErrInvalidModel
	case capi.NotImplemented:
		return ErrNotImplemented
	case capi.EngineError, capi.ProviderFail:
		return ErrProvider
	case capi.ModelLoadCanceled:
		return ErrCancelled
	}
	return ErrRuntime
}

// classifyLoad is classify for errors of creating a session, where ONNX Runtime
// gives most of them the one code ORT_FAIL.
func classifyLoad(status *capi.Status) error {
	switch {
	case status.Code != capi.Fail:
		return classify(status)
	case strings.Contains(status.Message, "External data path does not exist"):
		return ErrNoSuchFile
	case strings.Contains(status.Message, "CUDA failure"), strings.Contains(status.Message, "providers_"),
		strings.Contains(status.Message, "creating execution provider"):
		return ErrProvider
	}
	return ErrInvalidModel
}

// wrap prefixes an error of the C API with what was tried and with its sentinel.
func wrap(what string, err error) error { return wrapAs(what, err, classify) }

func wrapAs(what string, err error, sentinel func(*capi.Status) error) error {
	if err == nil {
		return nil
	}
	if status, ok := errors.AsType[*capi.Status](err); ok {
		return fmt.Errorf("ort: %s: %w: %w", what, sentinel(status), err)
	}
	return fmt.Errorf("ort: %s: %w", what, err)
}

// invalid returns an ErrInvalidArgument.
func invalid(format string, args ...any) error {
	return fmt.Errorf("ort: %w: %s", ErrInvalidArgument, fmt.Sprintf(format, args...))
}
