package ort

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	binding "github.com/yalue/onnxruntime_go"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// Environment says which library to load and how much it logs. The zero value
// takes the library that [Find] finds and lets it log nothing.
type Environment struct {
	// LibraryPath is the shared library, or a folder that holds it. Default: see Find.
	LibraryPath string
	// LogLevel is what ONNX Runtime writes to standard error. Default: LogNothing,
	// since what goes wrong comes back as an error.
	LogLevel LogLevel
}

// A LogLevel is the least severity that ONNX Runtime logs.
type LogLevel int

// Log levels, from the quiet to the noisy. LogNothing still lets messages through
// after which the process cannot go on.
const (
	LogNothing LogLevel = iota
	LogErrors
	LogWarnings
	LogInfo
	LogVerbose
)

func (l LogLevel) option() (binding.EnvironmentOption, error) {
	switch l {
	case LogNothing:
		return binding.WithLogLevelFatal(), nil
	case LogErrors:
		return binding.WithLogLevelError(), nil
	case LogWarnings:
		return binding.WithLogLevelWarning(), nil
	case LogInfo:
		return binding.WithLogLevelInfo(), nil
	case LogVerbose:
		return binding.WithLogLevelVerbose(), nil
	}
	return nil, invalid("log level %d", l)
}

// runtimeLibrary is the library that this process has loaded. ONNX Runtime has one
// environment a process, so there is one of these, and it stays.
type runtimeLibrary struct {
	path      string
	version   string
	providers []string
	env       *capi.Env
	cpu       *capi.MemoryInfo
	plugins   struct { // provider libraries that have been loaded, by name
		sync.Mutex
		paths map[string]string
	}
	hugePages bool // there is an allocator for them
}

var (
	initMutex sync.Mutex
	loaded    atomic.Pointer[runtimeLibrary]
)

// Init loads ONNX Runtime into the process. The first call that succeeds decides;
// later calls do nothing, but fail with ErrInitialized if they name another
// library. What needs the library and finds Init not called calls it with the zero
// Environment. Safe for concurrent use.
//
// Errors: ErrLibraryNotFound, ErrVersion, ErrInitialized, ErrRuntime.
func Init(e Environment) error {
	_, err := initialise(e)
	return err
}

func initialise(e Environment) (*runtimeLibrary, error) {
	initMutex.Lock()
	defer initMutex.Unlock()
	now := loaded.Load()
	if now != nil && e.LibraryPath == "" {
		return now, nil
	}
	path, err := Find(e.LibraryPath)
	if err != nil {
		return nil, err
	}
	if now != nil {
		if !sameFile(path, now.path) {
			return nil, fmt.Errorf("ort: %w: %s is loaded, %s was asked for", ErrInitialized, now.path, path)
		}
		return now, nil
	}
	lib, err := load(path, e.LogLevel)
	if err != nil {
		return nil, err
	}
	loaded.Store(lib)
	return lib, nil
}

// current returns the loaded library, loading it if need be.
func current() (*runtimeLibrary, error) {
	if lib := loaded.Load(); lib != nil {
		return lib, nil
	}
	return initialise(Environment{})
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// load opens the library twice, for the Go binding and for package capi: the
// loader gives both the same handle, and ONNX Runtime gives both the same
// environment.
func load(path string, level LogLevel) (*runtimeLibrary, error) {
	option, err := level.option()
	if err != nil {
		return nil, err
	}
	library, err := capi.Load(path)
	if err != nil {
		return nil, fmt.Errorf("ort: load %s: %w: %w", path, ErrRuntime, err)
	}
	version := library.Release()
	if !newEnough(version) || !library.Use() {
		library.Unload()
		return nil, fmt.Errorf("ort: %w: %s is release %s, needed is 1.%d or newer; %s",
			ErrVersion, path, version, capi.Version, remedy)
	}
	binding.SetSharedLibraryPath(path)
	if err := binding.InitializeEnvironment(option); err != nil {
		return nil, fmt.Errorf("ort: load %s: %w: %s", path, ErrRuntime, capi.OneLine(err.Error()))
	}
	lib := &runtimeLibrary{path: path, version: version}
	if lib.env, err = capi.NewEnv(); err != nil {
		return nil, wrap("load "+path, err)
	}
	if lib.cpu, err = capi.CPUMemory(); err != nil {
		return nil, wrap("load "+path, err)
	}
	lib.hugePages = capi.UseHugePages(lib.env, lib.cpu) == nil // not everywhere, and not beside somebody else's
	if lib.providers, err = capi.Providers(); err != nil {
		return nil, wrap("load "+path, err)
	}
	return lib, nil
}

// newEnough reports whether a release such as "1.32.0" has the API of package
// capi. Asking an older library for it would make it print.
func newEnough(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(minor)
	return err == nil && (major != "1" || n >= capi.Version)
}

// Version returns the release of the loaded library, such as "1.32.0", or "" before
// Init.
func Version() string {
	if lib := loaded.Load(); lib != nil {
		return lib.version
	}
	return ""
}

// LibraryPath returns the absolute path of the loaded library, or "" before Init.
func LibraryPath() string {
	if lib := loaded.Load(); lib != nil {
		return lib.path
	}
	return ""
}

// Providers names the execution providers that the loaded library was built with,
// such as "CPUExecutionProvider", in its order of preference; nil before Init.
// Whether the machine has the device is another question.
func Providers() []string {
	if lib := loaded.Load(); lib != nil {
		return append([]string(nil), lib.providers...)
	}
	return nil
}
