package capi

// #include "shim.h"
import "C"

import "strings"

// Code is an OrtErrorCode.
type Code int

// The codes of OrtErrorCode.
const (
	Fail                     Code = C.ORT_FAIL
	InvalidArgument          Code = C.ORT_INVALID_ARGUMENT
	NoSuchFile               Code = C.ORT_NO_SUCHFILE
	NoModel                  Code = C.ORT_NO_MODEL
	EngineError              Code = C.ORT_ENGINE_ERROR
	RuntimeException         Code = C.ORT_RUNTIME_EXCEPTION
	InvalidProtobuf          Code = C.ORT_INVALID_PROTOBUF
	ModelLoaded              Code = C.ORT_MODEL_LOADED
	NotImplemented           Code = C.ORT_NOT_IMPLEMENTED
	InvalidGraph             Code = C.ORT_INVALID_GRAPH
	ProviderFail             Code = C.ORT_EP_FAIL
	ModelLoadCanceled        Code = C.ORT_MODEL_LOAD_CANCELED
	ModelRequiresCompilation Code = C.ORT_MODEL_REQUIRES_COMPILATION
	NotFound                 Code = C.ORT_NOT_FOUND
)

// A Status is what an OrtStatus says, on one line.
type Status struct {
	Code    Code
	Message string
}

func (s *Status) Error() string { return s.Message }

// OneLine returns text with all runs of white space made one blank.
func OneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// take turns status into an error, and releases it.
func take(status *C.OrtStatus) error {
	if status == nil {
		return nil
	}
	defer C.capi_status_release(status)
	return &Status{
		Code:    Code(C.capi_status_code(status)),
		Message: OneLine(C.GoString(C.capi_status_message(status))),
	}
}
