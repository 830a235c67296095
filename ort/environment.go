package ort

import (
	"fmt"
	"os"
	"runtime"
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
	// Telemetry lets ONNX Runtime report what it does to those who make it, as its packages do unless they are told not to (1.32,
	// docs/Privacy.md). Default: it does not, unless ORT_DISABLE_TELEMETRY is set in the process's environment, which then decides.
	Telemetry bool
}

// keyTelemetry is the variable that ONNX Runtime reads when its environment is created: with 1 it collects nothing, and
// writes no identifier of the machine and no events into the user's cache.
const keyTelemetry = "ORT_DISABLE_TELEMETRY"

// quiet turns telemetry off for this process.
func (e Environment) quiet() error {
	if _, set := os.LookupEnv(keyTelemetry); set || e.Telemetry {
		return nil
	}
	return os.Setenv(keyTelemetry, "1")
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
	plugins   struct { // provider libraries that have been loaded, by name
		sync.Mutex
		paths map[string]string
	}

	// environment makes what is below, once. ONNX Runtime registers its operators then, which takes 20 ms.
	environment func() error
	env         *capi.Env
	cpu         *capi.MemoryInfo
	hugePages   bool // there is an allocator for them
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
// ONNX Runtime's environment is made in the background on Linux, and elsewhere when it is first needed: what needs it, such as
// NewSession, waits for it, and has its error.
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
	if err := e.quiet(); err != nil {
		return nil, fmt.Errorf("ort: %w", err)
	}
	lib, err := load(path, e.LogLevel)
	if err != nil {
		return nil, err
	}
	loaded.Store(lib)
	if runtime.GOOS == "linux" { // elsewhere a process that ends runs the library's destructors, under a thread that is at work in it
		go lib.environment() // who needs it has its error
	}
	return lib, nil
}

// current returns the loaded library with its environment, loading it if need be.
func current() (lib *runtimeLibrary, err error) {
	if lib = loaded.Load(); lib == nil {
		if lib, err = initialise(Environment{}); err != nil {
			return nil, err
		}
	}
	return lib, lib.environment()
}

func sameFile(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

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
	lib := &runtimeLibrary{path: path, version: version}
	if lib.providers, err = capi.Providers(); err != nil {
		return nil, wrap("load "+path, err)
	}
	lib.environment = sync.OnceValue(func() error { return lib.createEnvironment(option) })
	return lib, nil
}

// createEnvironment opens the library a second time, for the Go binding: the loader
// gives it the handle that package capi has, and ONNX Runtime the same environment.
func (l *runtimeLibrary) createEnvironment(option binding.EnvironmentOption) (err error) {
	binding.SetSharedLibraryPath(l.path)
	if err := binding.InitializeEnvironment(option); err != nil {
		return fmt.Errorf("ort: load %s: %w: %s", l.path, ErrRuntime, capi.OneLine(err.Error()))
	}
	if os.Getenv(keyTelemetry) == "1" { // which Windows does not read
		if err := binding.DisableTelemetry(); err != nil {
			return fmt.Errorf("ort: load %s: %w: %s", l.path, ErrRuntime, capi.OneLine(err.Error()))
		}
	}
	if l.env, err = capi.NewEnv(); err != nil {
		return wrap("load "+l.path, err)
	}
	if l.cpu, err = capi.CPUMemory(); err != nil {
		return wrap("load "+l.path, err)
	}
	l.hugePages = capi.UseHugePages(l.env, l.cpu) == nil // not everywhere, and not beside somebody else's
	return nil
}

// newEnough reports whether a release such as "1.32.0" has the API of package
// capi. Asking an older library for it would make it print.
func newEnough(version string) bool { return atLeast(version, capi.Version) }

// atLeast reports whether a release is 1.minor or newer.
func atLeast(release string, minor int) bool {
	major, rest, _ := strings.Cut(release, ".")
	second, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(second)
	return err == nil && (major != "1" || n >= minor)
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
