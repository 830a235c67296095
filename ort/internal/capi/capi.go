package capi

// #cgo CFLAGS: -O2
// #cgo linux LDFLAGS: -ldl
// #include "shim.h"
//
// // The functions that a decode step calls: without these lines each call would
// // put its arguments on Go's heap. None of them calls back into Go.
// #cgo noescape capi_session_run_binding
// #cgo nocallback capi_session_run_binding
// #cgo noescape capi_binding_input
// #cgo nocallback capi_binding_input
// #cgo noescape capi_binding_output
// #cgo nocallback capi_binding_output
// #cgo noescape capi_value_wrap
// #cgo nocallback capi_value_wrap
// #cgo noescape capi_value_release
// #cgo nocallback capi_value_release
// #cgo noescape capi_memory_copy
// #cgo nocallback capi_memory_copy
import "C"

import (
	"errors"
	"unsafe"
)

// Handles of the C API. They are opaque: only pointers to them exist.
type (
	Allocator      = C.OrtAllocator
	APIBase        = C.OrtApiBase
	Binding        = C.OrtIoBinding
	Device         = C.OrtEpDevice
	Env            = C.OrtEnv
	MemoryInfo     = C.OrtMemoryInfo
	RunOptions     = C.OrtRunOptions
	Session        = C.OrtSession
	SessionOptions = C.OrtSessionOptions
	Value          = C.OrtValue
)

// Version is the version of the C API that this package is written against. A
// library of release 1.N has the versions 1 to N.
const Version = C.ORT_API_VERSION

// A List is one of the three lists of named values that a session describes.
type List int

// The lists of a session.
const (
	Inputs      List = C.CAPI_INPUTS
	Outputs     List = C.CAPI_OUTPUTS
	Overridable List = C.CAPI_OVERRIDABLE
)

// A Library is a shared library that has an OrtApiBase.
type Library struct {
	handle unsafe.Pointer
	base   *APIBase
}

// Load opens the shared library at path.
func Load(path string) (Library, error) {
	var l Library
	p := nativePath(path)
	defer C.free(p)
	if text := C.capi_load(p, &l.handle, &l.base); text != nil {
		return Library{}, errors.New(OneLine(C.GoString(text)))
	}
	return l, nil
}

// Release returns the library's version, such as "1.32.0".
func (l Library) Release() string { return C.GoString(C.capi_base_version(l.base)) }

// Use makes l the library that all functions of this package call, and reports
// whether it has an API of version [Version]. A library that is older prints a
// line: look at its Release first.
func (l Library) Use() bool { return C.capi_use(l.base) != 0 }

// Unload closes the library.
func (l Library) Unload() { C.capi_unload(l.handle) }

// NewEnv returns the process's environment, creating it if there is none. ONNX
// Runtime keeps one and counts its users.
func NewEnv() (*Env, error) {
	var env *Env
	return env, take(C.capi_env_create(&env))
}

// CPUMemory describes ordinary memory.
func CPUMemory() (*MemoryInfo, error) {
	var info *MemoryInfo
	return info, take(C.capi_cpu_memory_info(&info))
}

// UseHugePages offers sessions that have the entry session.use_env_allocators an allocator that has packed weights on
// huge pages. It keeps info. Systems other than Linux have none, which is an error.
func UseHugePages(env *Env, info *MemoryInfo) error { return take(C.capi_use_huge_pages(env, info)) }

// HugePageBytes returns how much memory for packed weights is set aside.
func HugePageBytes() int { return int(C.capi_weights_reserved()) }

// SpareBytes returns how much memory is kept for large activations of runs to come.
func SpareBytes() int { return int(C.capi_weights_spare()) }

// DefaultAllocator returns the allocator that strings come from. It is never
// released.
func DefaultAllocator() (*Allocator, error) {
	var a *Allocator
	return a, take(C.capi_default_allocator(&a))
}

// Providers names the execution providers that the library was built with, in
// its order of preference.
func Providers() ([]string, error) {
	var (
		names **C.char
		count C.int
	)
	if err := take(C.capi_providers(&names, &count)); err != nil {
		return nil, err
	}
	list := goStrings(unsafe.Slice(names, count))
	return list, take(C.capi_providers_release(names, count))
}

// Devices returns the devices of the plug-in providers that have been registered.
func Devices(env *Env) ([]*Device, error) {
	var (
		devices **Device
		count   C.size_t
	)
	if err := take(C.capi_ep_devices(env, &devices, &count)); err != nil {
		return nil, err
	}
	return append([]*Device(nil), unsafe.Slice(devices, count)...), nil
}

// DeviceProvider returns the name of the execution provider that runs on d.
func DeviceProvider(d *Device) string { return C.GoString(C.capi_ep_device_name(d)) }

// DeviceOption returns the value that d has for an option of its provider, "" where
// it has none.
func DeviceOption(d *Device, key string) string {
	k := NewName(key)
	defer k.Free()
	return C.GoString(C.capi_ep_device_option(d, k.p))
}

// AppendDevices appends devices of one provider to options.
func AppendDevices(env *Env, options *SessionOptions, devices []*Device, keys, values []string) error {
	ks, vs := newCStrings(keys), newCStrings(values)
	defer ks.free()
	defer vs.free()
	return take(C.capi_append_provider_v2(options, env, unsafe.SliceData(devices), C.size_t(len(devices)),
		unsafe.SliceData(ks), unsafe.SliceData(vs), C.size_t(len(keys))))
}

// goStrings copies C strings.
func goStrings(list []*C.char) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = C.GoString(s)
	}
	return out
}

// cStrings are zero-terminated strings in C memory.
type cStrings []*C.char

func newCStrings(list []string) cStrings {
	out := make(cStrings, len(list))
	for i, s := range list {
		out[i] = C.CString(s)
	}
	return out
}

func (list cStrings) free() {
	for _, s := range list {
		C.free(unsafe.Pointer(s))
	}
}

// A Name is a zero-terminated string in C memory, for names that are passed
// again and again.
type Name struct{ p *C.char }

// NewName copies s to C memory.
func NewName(s string) Name { return Name{C.CString(s)} }

// Free releases the memory of n.
func (n Name) Free() { C.free(unsafe.Pointer(n.p)) }

// Alloc returns size bytes of zeroed memory that is aligned to 64 bytes or more,
// or nil. From a megabyte on it takes pages of the operating system, which cost
// nothing until they are touched.
func Alloc(size int) unsafe.Pointer { return C.capi_alloc(C.size_t(size)) }

// Free releases what Alloc(size) returned.
func Free(p unsafe.Pointer, size int) { C.capi_free(p, C.size_t(size)) }
