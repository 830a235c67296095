package ort

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	binding "github.com/yalue/onnxruntime_go"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// RegisterProviderLibrary loads a plug-in execution provider from the shared
// library at path, under a name of the caller's choice. Sessions then take the
// provider by the name it gives itself. ONNX Runtime keeps it for the life of the process: registering
// the same again does nothing, and another library under a name that is taken is an error.
//
// Errors: ErrProvider, ErrInvalidArgument.
func RegisterProviderLibrary(name, path string) error {
	lib, err := current()
	if err != nil {
		return err
	}
	if name == "" || hasZero(name) || hasZero(path) {
		return invalid("provider library %q at %q", name, path)
	}
	lib.plugins.Lock()
	defer lib.plugins.Unlock()
	if known, ok := lib.plugins.paths[name]; ok {
		if known != path {
			return fmt.Errorf("ort: %w %s: loaded from %s already, not from %s", ErrProvider, name, known, path)
		}
		return nil
	}
	if err := binding.RegisterExecutionProviderLibrary(name, path); err != nil {
		return fmt.Errorf("ort: load provider %s from %s: %w: %s", name, path, ErrProvider, capi.OneLine(err.Error()))
	}
	if lib.plugins.paths == nil {
		lib.plugins.paths = map[string]string{}
	}
	lib.plugins.paths[name] = path
	return nil
}

// identity is a model of one node, y = Identity(x).
//
//go:embed identity.onnx
var identity []byte

// Probe reports whether a session with the execution provider can be created on this machine: whether the library has
// it, what it needs is installed, and the device is there. The error is ErrProvider, or one of those of NewSession.
func Probe(p Provider) error {
	s, err := NewSessionFromBytes(identity, SessionConfig{Providers: []Provider{p}, Threads: 1})
	if err != nil {
		return err
	}
	s.Close()
	return nil
}

// append adds p to o.
func (p Provider) append(lib *runtimeLibrary, o *binding.SessionOptions) error {
	if err := p.appendTo(lib, o); err != nil {
		return fmt.Errorf("ort: %w %s: %s (%s has %s)", ErrProvider, p.Name,
			capi.OneLine(err.Error()), lib.path, strings.Join(lib.providers, ", "))
	}
	return nil
}

func (p Provider) appendTo(lib *runtimeLibrary, o *binding.SessionOptions) error {
	switch strings.ToLower(p.Name) {
	case "cpu":
		if len(p.Options) > 0 {
			return errors.New("it has no options; see the fields of SessionConfig")
		}
		return nil
	case "cuda":
		return p.appendCUDA(o)
	case "tensorrt":
		return p.appendTensorRT(o)
	case "coreml":
		return o.AppendExecutionProviderCoreMLV2(p.Options)
	case "directml", "dml":
		device, err := strconv.Atoi(p.option("device_id", "0"))
		if err != nil {
			return err
		}
		return o.AppendExecutionProviderDirectML(device)
	case "openvino":
		return o.AppendExecutionProviderOpenVINO(p.Options)
	}
	return p.appendByName(lib, o)
}

func (p Provider) option(key, otherwise string) string {
	if value, ok := p.Options[key]; ok {
		return value
	}
	return otherwise
}

func (p Provider) appendCUDA(o *binding.SessionOptions) error {
	options, err := binding.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer options.Destroy()
	if err := options.Update(p.Options); err != nil {
		return err
	}
	return o.AppendExecutionProviderCUDA(options)
}

func (p Provider) appendTensorRT(o *binding.SessionOptions) error {
	options, err := binding.NewTensorRTProviderOptions()
	if err != nil {
		return err
	}
	defer options.Destroy()
	if err := options.Update(p.Options); err != nil {
		return err
	}
	return o.AppendExecutionProviderTensorRT(options)
}

// appendByName takes a plug-in of this name, or else a provider that the library
// was built with.
func (p Provider) appendByName(lib *runtimeLibrary, o *binding.SessionOptions) error {
	raw, err := rawOptions(o)
	if err != nil {
		return err
	}
	keys := slices.Sorted(maps.Keys(p.Options))
	values := make([]string, len(keys))
	for i, key := range keys {
		values[i] = p.Options[key]
	}
	if found, err := capi.AppendPlugin(lib.env, raw, p.Name, keys, values); found || err != nil {
		return err
	}
	return o.AppendExecutionProvider(p.Name, p.Options)
}
