package ort

import (
	"fmt"
	"reflect"
	"strings"
	"unsafe"

	binding "github.com/yalue/onnxruntime_go"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// rawOptions returns the OrtSessionOptions that the Go binding keeps in an
// unexported field. A test holds the layout against the version in go.mod.
func rawOptions(o *binding.SessionOptions) (*capi.SessionOptions, error) {
	p, err := handleIn(o, "o", "OrtSessionOptions")
	return (*capi.SessionOptions)(p), err
}

// handleIn returns the pointer to the C type called name that the struct owner
// points to keeps in its field called field.
func handleIn(owner any, field, name string) (unsafe.Pointer, error) {
	v := reflect.ValueOf(owner).Elem().FieldByName(field)
	if v.Kind() != reflect.Pointer || !strings.HasSuffix(v.Type().Elem().Name(), "_"+name) || v.IsNil() {
		return nil, fmt.Errorf("ort: %w: %T has no %s in its field %s; build with the version of onnxruntime_go in go.mod",
			ErrRuntime, owner, name, field)
	}
	return v.UnsafePointer(), nil
}
