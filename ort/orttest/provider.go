//go:build unix

package orttest

// #cgo linux LDFLAGS: -ldl
// #include <dlfcn.h>
// #include <stdint.h>
// #include <stdlib.h>
//
// // As in provider/provider.c.
// typedef struct {
//   int64_t faults, blocks, bytes, allocations, frees;
//   int64_t copies_in, bytes_in, copies_out, bytes_out, copies_within, bytes_within, transfers;
//   int64_t runs, running, copied_outputs;
//   int64_t allocators, transfer_objects, eps;
// } counters;
//
// static void call_counters(void *f, counters *out) { ((void (*)(counters *))f)(out); }
// static char *call_calls(void *f, int64_t from, int64_t *total) { return ((char *(*)(int64_t, int64_t *))f)(from, total); }
import "C"

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/qwenrt/qwenrt/ort"
)

// Provider is the name of the execution provider, and of its memory.
const Provider = "TestDevice"

// Library returns the path of the provider's shared library, compiling it if need
// be. It is kept in the user's cache folder under a name made of its source.
func Library(tb testing.TB) string {
	tb.Helper()
	path, err := compiled()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Register makes the provider known to ONNX Runtime, for the life of the process.
func Register(tb testing.TB) {
	tb.Helper()
	if err := ort.RegisterProviderLibrary(Provider, Library(tb)); err != nil {
		tb.Fatal(err)
	}
}

var compiled = sync.OnceValues(func() (string, error) {
	source, headers, err := sources("provider.c")
	if err != nil {
		return "", err
	}
	folder, err := cacheFolder()
	if err != nil {
		return "", err
	}
	name, err := contentName(source, filepath.Join(headers, "onnxruntime_c_api.h"), filepath.Join(headers, "onnxruntime_ep_c_api.h"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(folder, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("orttest: %w", err)
	}
	return path, compileLibrary(source, headers, path)
})

// sources returns the paths of one of the C files and of the folder with ONNX
// Runtime's headers.
func sources(name string) (source, headers string, err error) {
	_, here, _, ok := runtime.Caller(0)
	if _, err := os.Stat(here); !ok || err != nil {
		return "", "", fmt.Errorf("orttest: the sources of this package are not at %s: do not build tests with -trimpath", here)
	}
	return filepath.Join(filepath.Dir(here), "provider", name), filepath.Join(filepath.Dir(here), "..", "internal", "capi"), nil
}

func cacheFolder() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	folder := filepath.Join(cache, "qwenrt", "orttest")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("orttest: %w", err)
	}
	return folder, nil
}

// contentName makes a name of what is in files, and of the system.
func contentName(files ...string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOOS, runtime.GOARCH, compiler())
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("orttest: %w", err)
		}
		h.Write(data)
	}
	return "provider-" + hex.EncodeToString(h.Sum(nil)[:8]) + ".so", nil
}

func compiler() string {
	if cc := os.Getenv("CC"); cc != "" {
		return cc
	}
	return "cc"
}

// compileLibrary writes the library under another name and renames it: tests of
// several packages run at the same time.
func compileLibrary(source, headers, path string) error {
	out, err := os.CreateTemp(filepath.Dir(path), "*.tmp")
	if err != nil {
		return fmt.Errorf("orttest: %w", err)
	}
	defer os.Remove(out.Name())
	if err := out.Close(); err != nil {
		return fmt.Errorf("orttest: %w", err)
	}
	if err := compile(source, headers, out.Name(), "-fPIC", "-shared", "-fvisibility=hidden", "-lpthread"); err != nil {
		return err
	}
	if err := os.Rename(out.Name(), path); err != nil {
		return fmt.Errorf("orttest: %w", err)
	}
	return nil
}

func compile(source, headers, path string, flags ...string) error {
	words := append(strings.Fields(compiler()), "-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-I", headers, source, "-o", path)
	words = append(words, flags...)
	cmd := exec.Command(words[0], words[1:]...)
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("orttest: %s: %w: %s", strings.Join(words, " "), err, text)
	}
	return nil
}

// functions are what the library has for tests.
type functions struct{ counters, calls unsafe.Pointer }

var opened = sync.OnceValues(func() (functions, error) {
	path, err := compiled()
	if err != nil {
		return functions{}, err
	}
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	library := C.dlopen(p, C.RTLD_NOW|C.RTLD_LOCAL) // the same that ONNX Runtime has
	if library == nil {
		return functions{}, fmt.Errorf("orttest: %s", C.GoString(C.dlerror()))
	}
	f := functions{symbol(library, "testdevice_counters"), symbol(library, "testdevice_calls")}
	if f.counters == nil || f.calls == nil {
		return functions{}, fmt.Errorf("orttest: %s: %s", path, C.GoString(C.dlerror()))
	}
	return f, nil
})

func symbol(library unsafe.Pointer, name string) unsafe.Pointer {
	n := C.CString(name)
	defer C.free(unsafe.Pointer(n))
	return C.dlsym(library, n)
}

func library(tb testing.TB) functions {
	tb.Helper()
	f, err := opened()
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// Counters tell what the device and its provider have done since they were loaded,
// and what there is of them.
type Counters struct {
	Blocks, Bytes             int64 // device memory in use
	Allocations, Frees        int64
	CopiesIn, BytesIn         int64 // tensors copied from the host to the device
	CopiesOut, BytesOut       int64 // from the device to the host
	CopiesWithin, BytesWithin int64 // from one place of the device to another
	Transfers                 int64 // calls that copied, each any number of tensors
	Runs                      int64 // of models on the device that came to their end
	Running                   int64 // runs under way
	CopiedOutputs             int64 // outputs that a run did not write in place: all, but those that are an input's memory
	Allocators, DataTransfers int64 // objects that ONNX Runtime holds
	Providers                 int64 // sessions
	Faults                    int64 // of memory that was none, or was freed twice
}

// Read returns the counters as they are now.
func Read(tb testing.TB) Counters {
	tb.Helper()
	var c C.counters
	C.call_counters(library(tb).counters, &c)
	return Counters{
		Blocks: int64(c.blocks), Bytes: int64(c.bytes), Allocations: int64(c.allocations), Frees: int64(c.frees),
		CopiesIn: int64(c.copies_in), BytesIn: int64(c.bytes_in),
		CopiesOut: int64(c.copies_out), BytesOut: int64(c.bytes_out),
		CopiesWithin: int64(c.copies_within), BytesWithin: int64(c.bytes_within), Transfers: int64(c.transfers),
		Runs: int64(c.runs), Running: int64(c.running), CopiedOutputs: int64(c.copied_outputs),
		Allocators: int64(c.allocators), DataTransfers: int64(c.transfer_objects), Providers: int64(c.eps),
		Faults: int64(c.faults),
	}
}

// Since returns what has come to c since before.
func (c Counters) Since(before Counters) Counters {
	return Counters{
		Blocks: c.Blocks - before.Blocks, Bytes: c.Bytes - before.Bytes,
		Allocations: c.Allocations - before.Allocations, Frees: c.Frees - before.Frees,
		CopiesIn: c.CopiesIn - before.CopiesIn, BytesIn: c.BytesIn - before.BytesIn,
		CopiesOut: c.CopiesOut - before.CopiesOut, BytesOut: c.BytesOut - before.BytesOut,
		CopiesWithin: c.CopiesWithin - before.CopiesWithin, BytesWithin: c.BytesWithin - before.BytesWithin,
		Transfers: c.Transfers - before.Transfers, Runs: c.Runs - before.Runs, Running: c.Running - before.Running, CopiedOutputs: c.CopiedOutputs - before.CopiedOutputs,
		Allocators: c.Allocators - before.Allocators, DataTransfers: c.DataTransfers - before.DataTransfers,
		Providers: c.Providers - before.Providers, Faults: c.Faults - before.Faults,
	}
}

// A Run is what one run of a model on the device was given.
type Run struct {
	Inputs, Outputs map[string]Value
	Graph           string // the run configuration entry gpu_graph_id, "" where there is none
}

// A Value is where a tensor lies on the device, and its shape.
type Value struct {
	Address uintptr
	Shape   []int64
}

// Runs returns the runs from the n-th of the process on, of which the latest 4,096
// are kept. Counters.Runs is the n of the next one.
func Runs(tb testing.TB, n int64) []Run {
	tb.Helper()
	var total C.int64_t
	text := C.call_calls(library(tb).calls, C.int64_t(n), &total)
	defer C.free(unsafe.Pointer(text))
	runs, err := parse(C.GoString(text))
	if err != nil {
		tb.Fatal(err)
	}
	return runs
}

// parse reads lines such as "in x 4096 1 4", and "end" behind each run.
func parse(text string) ([]Run, error) {
	var runs []Run
	next := Run{Inputs: map[string]Value{}, Outputs: map[string]Value{}}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch words[0] {
		case "end":
			runs = append(runs, next)
			next = Run{Inputs: map[string]Value{}, Outputs: map[string]Value{}}
		case "graph":
			next.Graph = words[1]
		default:
			v, err := parseValue(words[2:])
			if err != nil {
				return nil, fmt.Errorf("orttest: %q: %w", line, err)
			}
			if words[0] == "in" {
				next.Inputs[words[1]] = v
			} else {
				next.Outputs[words[1]] = v
			}
		}
	}
	return runs, nil
}

func parseValue(words []string) (Value, error) {
	address, err := strconv.ParseUint(words[0], 10, 64)
	if err != nil {
		return Value{}, err
	}
	v := Value{Address: uintptr(address), Shape: []int64{}}
	for _, word := range words[1:] {
		d, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			return Value{}, err
		}
		v.Shape = append(v.Shape, d)
	}
	return v, nil
}
