package ort

import (
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
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
	if name == "" || path == "" || hasZero(name) || hasZero(path) {
		return invalid("provider library %q at %q", name, path)
	}
	if path, err = filepath.Abs(path); err != nil { // ONNX Runtime looks beside its own library
		return fmt.Errorf("ort: load provider %s: %w", name, err)
	}
	if err := lib.register(name, path); err != nil {
		return fmt.Errorf("ort: %w", err)
	}
	return nil
}

func (l *runtimeLibrary) register(name, path string) error {
	l.plugins.Lock()
	defer l.plugins.Unlock()
	if known, ok := l.plugins.paths[name]; ok {
		if known != path {
			return fmt.Errorf("%w %s: loaded from %s already, not from %s", ErrProvider, name, known, path)
		}
		return nil
	}
	if err := binding.RegisterExecutionProviderLibrary(name, path); err != nil {
		return fmt.Errorf("load provider %s from %s: %w: %s (%s has %s)", name, path, ErrProvider,
			capi.OneLine(err.Error()), l.path, strings.Join(l.providers, ", "))
	}
	if l.plugins.paths == nil {
		l.plugins.paths = map[string]string{}
	}
	l.plugins.paths[name] = path
	return nil
}

const cudaProvider = "CUDAExecutionProvider"

// registerCUDA registers the CUDA library that comes with ONNX Runtime's, where that
// was built for CUDA: one of another build crashes, and so it does without the library
// that all providers share. Older releases than 1.28 are left out: their sources do
// not check that CUDA has the GPUs that the system lists.
func (l *runtimeLibrary) registerCUDA() error {
	if !slices.Contains(l.providers, cudaProvider) || !atLeast(l.version, 28) {
		return fmt.Errorf("%s, release %s, has no plug-in for it", l.path, l.version)
	}
	for _, name := range []string{"onnxruntime_providers_shared", "onnxruntime_providers_cuda"} {
		if path := l.bundled(name); !isFile(path) {
			return fmt.Errorf("there is no %s", path)
		}
	}
	return l.register(cudaProvider, l.bundled("onnxruntime_providers_cuda"))
}

// bundled is the path of a library that comes with ONNX Runtime's.
func (l *runtimeLibrary) bundled(name string) string {
	switch runtime.GOOS {
	case "windows":
		name += ".dll"
	case "darwin":
		name = "lib" + name + ".dylib"
	default:
		name = "lib" + name + ".so"
	}
	return filepath.Join(filepath.Dir(l.path), name)
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
			capi.OneLine(err.Error()), lib.path, strings.Join(lib.allProviders(), ", "))
	}
	return nil
}

// allProviders names the providers that the library was built with, and then those
// of the plug-ins that have been registered.
func (l *runtimeLibrary) allProviders() []string {
	names := slices.Clone(l.providers)
	devices, err := capi.Devices(l.env)
	if err != nil {
		return names
	}
	for _, d := range devices {
		if name := capi.DeviceProvider(d); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

func (p Provider) appendTo(lib *runtimeLibrary, o *binding.SessionOptions) error {
	switch strings.ToLower(ShortName(p.Name)) {
	case "cpu":
		if len(p.Options) > 0 {
			return errors.New("it has no options; see the fields of SessionConfig")
		}
		return nil
	case "cuda":
		return p.appendCUDA(lib, o)
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

// appendCUDA takes CUDA as a plug-in, which brings the copies between host and device
// that [Copy] needs. It is the same provider as the one that is built in, and that
// one is taken where CUDA's library cannot be registered, or does not find the
// device that CUDA itself may find.
func (p Provider) appendCUDA(lib *runtimeLibrary, o *binding.SessionOptions) error {
	unregistered := lib.registerCUDA()
	plugin := Provider{Name: cudaProvider, Options: p.Options}
	if found, err := plugin.appendDevices(lib, o); found {
		return err
	}
	options, err := binding.NewCUDAProviderOptions()
	if err != nil {
		return err
	}
	defer options.Destroy()
	if err := options.Update(p.Options); err != nil {
		return err
	}
	if err := o.AppendExecutionProviderCUDA(options); err != nil {
		if unregistered != nil { // it may name the library that is missing
			err = fmt.Errorf("%w; %w", err, unregistered)
		}
		return err
	}
	return nil
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
	if found, err := p.appendDevices(lib, o); found || err != nil {
		return err
	}
	unknown := o.AppendExecutionProvider(p.Name, p.Options)
	if unknown == nil {
		return nil
	}
	if name := strings.ToUpper(ShortName(p.Name)); name != p.Name && o.AppendExecutionProvider(name, p.Options) == nil {
		return nil
	}
	return unknown
}

// ShortName returns a provider's name without what full names end in: CUDA for
// CUDAExecutionProvider.
func ShortName(name string) string {
	const suffix = "executionprovider"
	if n := len(name) - len(suffix); n > 0 && strings.EqualFold(name[n:], suffix) {
		return name[:n]
	}
	return name
}

// appendDevices takes the devices of the plug-in of this name, and reports whether
// there are any.
func (p Provider) appendDevices(lib *runtimeLibrary, o *binding.SessionOptions) (bool, error) {
	devices, err := p.devices(lib)
	if err != nil || len(devices) == 0 {
		return false, err
	}
	raw, err := rawOptions(o)
	if err != nil {
		return false, err
	}
	keys := slices.Sorted(maps.Keys(p.Options))
	values := make([]string, len(keys))
	for i, key := range keys {
		values[i] = p.Options[key]
	}
	return true, capi.AppendDevices(lib.env, raw, devices, keys, values)
}

// devices returns those of a plug-in that p is for: all, unless they have a
// device_id. Then it is the one that p's options name, or the first.
func (p Provider) devices(lib *runtimeLibrary) ([]*capi.Device, error) {
	mine, err := capi.Devices(lib.env)
	if err != nil {
		return nil, err
	}
	mine = slices.DeleteFunc(mine, func(d *capi.Device) bool { return capi.DeviceProvider(d) != p.Name })
	number := func(d *capi.Device) string { return capi.DeviceOption(d, "device_id") }
	if len(mine) == 0 || number(mine[0]) == "" {
		return mine, nil
	}
	wanted := p.option("device_id", number(mine[0]))
	for _, d := range mine {
		if number(d) == wanted {
			return []*capi.Device{d}, nil
		}
	}
	return nil, fmt.Errorf("there is no device_id %s among its %d", wanted, len(mine))
}
