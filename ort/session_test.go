package ort_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

func TestSessionDescribesItself(t *testing.T) {
	add := open(t, "add", ort.SessionConfig{})
	require.Equal(t, []ort.ValueInfo{
		{Name: "x", DType: ort.Float32, Shape: []int64{-1, 4}, SymbolicDims: []string{"rows", ""}},
		{Name: "y", DType: ort.Float32, Shape: []int64{-1, 4}, SymbolicDims: []string{"rows", ""}},
	}, add.Inputs())
	require.Equal(t, "z float32[rows,4]", add.Outputs()[0].String())
	require.Empty(t, add.Initializers())

	bias := open(t, "bias", ort.SessionConfig{})
	require.Equal(t, "x", bias.Inputs()[0].Name)
	require.Len(t, bias.Inputs(), 1, "an initializer is no input, though the graph lists it as one")
	require.Equal(t, []ort.ValueInfo{
		{Name: "bias", DType: ort.Float32, Shape: []int64{2}, SymbolicDims: []string{""}},
	}, bias.Initializers())

	sequence := open(t, "sequence", ort.SessionConfig{})
	require.Equal(t, ort.Undefined, sequence.Outputs()[0].DType)
}

func TestRun(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	x := floats(t, []float32{1, 2, 3, 4, 5, 6, 7, 8}, 2, 4)
	z := run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]
	require.Equal(t, []int64{2, 4}, z.Shape())
	require.Equal(t, []float32{2, 4, 6, 8, 10, 12, 14, 16}, ort.Data[float32](z))
}

func TestRunOnNothing(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	x := floats(t, nil, 0, 4)
	z := run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]
	require.Equal(t, []int64{0, 4}, z.Shape())
	require.Empty(t, ort.Data[float32](z))
}

func TestOverridableInitializer(t *testing.T) {
	s := open(t, "bias", ort.SessionConfig{})
	x := floats(t, []float32{1, 2}, 2)
	inputs := map[string]*ort.Tensor{"x": x}
	require.Equal(t, []float32{11, 22}, ort.Data[float32](run(t, s, inputs)["y"]), "the default")
	inputs["bias"] = floats(t, []float32{-1, -2}, 2)
	require.Equal(t, []float32{0, 0}, ort.Data[float32](run(t, s, inputs)["y"]), "overridden")

	b := bind(t, s)
	y := floats(t, []float32{0, 0}, 2)
	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("bias", inputs["bias"]))
	require.NoError(t, b.BindOutput("y", y))
	require.NoError(t, b.Run(nil))
	require.Equal(t, []float32{0, 0}, ort.Data[float32](y), "overridden in a binding")
}

func TestSessionFromBytes(t *testing.T) {
	needLibrary(t)
	model, err := os.ReadFile(graph("add"))
	require.NoError(t, err)
	s, err := ort.NewSessionFromBytes(model, ort.SessionConfig{})
	require.NoError(t, err)
	defer s.Close()
	clear(model)
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]))
}

func TestRunErrors(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	x := floats(t, make([]float32, 4), 1, 4)
	closed, err := ort.NewTensor(ort.Float32, 1, 4)
	require.NoError(t, err)
	closed.Close()
	for name, test := range map[string]struct {
		inputs  map[string]*ort.Tensor
		outputs []string
		want    error
		says    string
	}{
		"an input is missing":     {map[string]*ort.Tensor{"x": x}, nil, ort.ErrInvalidArgument, "y"},
		"an input is unknown":     {map[string]*ort.Tensor{"x": x, "y": x, "w": x}, nil, ort.ErrInvalidArgument, `no input "w"; it has x, y`},
		"an input is nil":         {map[string]*ort.Tensor{"x": x, "y": nil}, nil, ort.ErrInvalidArgument, "input y"},
		"an input is closed":      {map[string]*ort.Tensor{"x": x, "y": closed}, nil, ort.ErrClosed, "input y"},
		"an input has other type": {map[string]*ort.Tensor{"x": x, "y": tensor(t, ort.Int64, make([]int64, 4), 1, 4)}, nil, ort.ErrInvalidArgument, "int64"},
		"an input has other rank": {map[string]*ort.Tensor{"x": x, "y": floats(t, make([]float32, 4), 4)}, nil, ort.ErrInvalidArgument, "rank"},
		"shapes do not go together": {map[string]*ort.Tensor{"x": floats(t, make([]float32, 8), 2, 4), "y": floats(t, make([]float32, 12), 3, 4)},
			nil, ort.ErrRuntime, ""},
		"an output is unknown": {map[string]*ort.Tensor{"x": x, "y": x}, []string{"w"}, ort.ErrInvalidArgument, `no output "w"; it has z`},
		"an output comes twice": {map[string]*ort.Tensor{"x": x, "y": x}, []string{"z", "z"}, ort.ErrInvalidArgument,
			"twice"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Run(context.Background(), test.inputs, test.outputs)
			requireError(t, err, test.want, test.says)
		})
	}

	sequence := open(t, "sequence", ort.SessionConfig{})
	_, err = sequence.Run(context.Background(), map[string]*ort.Tensor{"x": floats(t, []float32{1}, 1)}, nil)
	requireError(t, err, ort.ErrInvalidArgument, "output y: invalid argument: the value is no tensor")
}

// requireError checks what all errors of the package have in common, too.
func requireError(t *testing.T, err, want error, says string) {
	t.Helper()
	require.ErrorIs(t, err, want)
	require.ErrorContains(t, err, says)
	require.True(t, strings.HasPrefix(err.Error(), "ort: "), err)
	require.Equal(t, 1, strings.Count(err.Error(), "ort: "), err)
	require.NotContains(t, err.Error(), "\n")
}

func TestLoadErrors(t *testing.T) {
	needLibrary(t)
	dir := t.TempDir()
	garbage, truncated := filepath.Join(dir, "garbage.onnx"), filepath.Join(dir, "truncated.onnx")
	require.NoError(t, os.WriteFile(garbage, []byte("this is no model\n"), 0o600))
	model, err := os.ReadFile(graph("add"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(truncated, model[:len(model)/2], 0o600))
	for name, test := range map[string]struct {
		path string
		want error
		says string
	}{
		"no file":          {filepath.Join(dir, "none.onnx"), ort.ErrNoSuchFile, "none.onnx"},
		"no file for fs":   {filepath.Join(dir, "none.onnx"), fs.ErrNotExist, ""},
		"a folder":         {dir, ort.ErrInvalidArgument, "is a folder"},
		"not a model":      {garbage, ort.ErrInvalidModel, ""},
		"half a model":     {truncated, ort.ErrInvalidModel, ""},
		"unknown operator": {graph("unknown_op"), ort.ErrInvalidModel, "NoSuchOperator"},
		"no weights":       {graph("missing_weights"), ort.ErrNoSuchFile, "missing.data"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ort.NewSession(test.path, ort.SessionConfig{})
			requireError(t, err, test.want, test.says)
		})
	}
	_, err = ort.NewSessionFromBytes(nil, ort.SessionConfig{})
	requireError(t, err, ort.ErrInvalidModel, "no bytes")
}

func TestConfigFaultsComeAtOnce(t *testing.T) {
	needLibrary(t)
	_, err := ort.NewSession(graph("add"), ort.SessionConfig{
		Threads:            -1,
		InterOpThreads:     -2,
		Spin:               7,
		Optimization:       -1,
		DisabledOptimizers: []string{"A;B"},
		ProfilePrefix:      "a\x00b",
		ConfigEntries:      map[string]string{"": "x"},
		Providers:          []ort.Provider{{}},
	})
	for _, says := range []string{"Threads is -1", "InterOpThreads is -2", "Spin is 7", "Optimization is -1", `"A;B"`,
		"ProfilePrefix", "ConfigEntries", "Providers[0]"} {
		requireError(t, err, ort.ErrInvalidArgument, says)
	}
}

func TestProviders(t *testing.T) {
	needLibrary(t)
	require.Contains(t, ort.Providers(), "CPUExecutionProvider")
	for why, name := range map[string]string{
		"the short name":            "CPU",
		"the full name":             "CPUExecutionProvider",
		"of one that has a library": "AzureExecutionProvider",
	} {
		t.Run(why, func(t *testing.T) {
			if !slices.Contains(ort.Providers(), name) && name != "CPU" {
				t.Skip("the library is built without it")
			}
			s := open(t, "add", ort.SessionConfig{Providers: []ort.Provider{{Name: name}}})
			x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
			require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]))
		})
	}
	for name, test := range map[string]struct {
		provider ort.Provider
		says     string
	}{
		"no such provider":     {ort.Provider{Name: "abacus", Options: map[string]string{"beads": "10"}}, "abacus"},
		"the CPU has no knobs": {ort.Provider{Name: "cpu", Options: map[string]string{"x": "y"}}, "SessionConfig"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ort.NewSession(graph("add"), ort.SessionConfig{Providers: []ort.Provider{test.provider}})
			requireError(t, err, ort.ErrProvider, test.says)
			requireError(t, err, ort.ErrProvider, "CPUExecutionProvider")
		})
	}
	for provider, name := range map[string]string{
		"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "tensorrt", "CoreMLExecutionProvider": "coreml",
		"DmlExecutionProvider": "directml", "OpenVINOExecutionProvider": "openvino", "QNNExecutionProvider": "QNN",
	} {
		if slices.Contains(ort.Providers(), provider) {
			continue // a library for that accelerator
		}
		_, err := ort.NewSession(graph("add"), ort.SessionConfig{
			Providers: []ort.Provider{{Name: name, Options: map[string]string{"device_id": "0"}}}})
		requireError(t, err, ort.ErrProvider, name)
	}
	err := ort.RegisterProviderLibrary("mine", filepath.Join(t.TempDir(), "none.so"))
	requireError(t, err, ort.ErrProvider, "none.so")
}

// Without the optimizer that is named the constant stays a node; with all of them
// it goes.
func TestOptimizationFields(t *testing.T) {
	for name, test := range map[string]struct {
		config ort.SessionConfig
		stays  bool
	}{
		"all":             {ort.SessionConfig{}, false},
		"basic":           {ort.SessionConfig{Optimization: ort.OptimizeBasic}, false},
		"none":            {ort.SessionConfig{Optimization: ort.OptimizeNone}, true},
		"one is left out": {ort.SessionConfig{DisabledOptimizers: []string{"ConstantFolding", "NoSuchOptimizer"}}, true},
		"by its entry": {ort.SessionConfig{ConfigEntries: map[string]string{
			"optimization.disable_specified_optimizers": "ConstantFolding"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			test.config.OptimizedModelPath = filepath.Join(t.TempDir(), "optimized.onnx")
			s := open(t, "fold", test.config)
			written, err := os.ReadFile(test.config.OptimizedModelPath)
			require.NoError(t, err)
			require.Equal(t, test.stays, bytes.Contains(written, []byte("fold_me")))
			y := run(t, s, map[string]*ort.Tensor{"x": floats(t, []float32{4}, 1)})["y"]
			require.Equal(t, []float32{7}, ort.Data[float32](y))
		})
	}
}

// Sessions run with each of them; what they do is in TestThreads, TestNoArena and TestEntriesOfFields.
func TestOtherFieldsAreTaken(t *testing.T) {
	for name, config := range map[string]ort.SessionConfig{
		"threads":   {Threads: 2, InterOpThreads: 2},
		"no spin":   {Spin: ort.SpinOff},
		"spin":      {Spin: ort.SpinOn},
		"in a run":  {Spin: ort.SpinInRun},
		"no arena":  {NoArena: true, NoMemPattern: true},
		"extended":  {Optimization: ort.OptimizeExtended},
		"an entry":  {ConfigEntries: map[string]string{"session.set_denormal_as_zero": "1"}},
		"one of us": {Threads: 1},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, "add", config)
			x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
			z := run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]
			require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](z))
		})
	}
}

// Packed weights lie on slabs of their own, which go with the sessions that use them.
func TestHugePages(t *testing.T) {
	x := floats(t, []float32{31: 1, 32: 2, 95: 0}, 3, 32)
	product := func(s *ort.Session) []float32 {
		y := run(t, s, map[string]*ort.Tensor{"x": x})["y"]
		return ort.Data[float32](y)
	}
	before := capi.HugePageBytes()
	want := product(open(t, "product", ort.SessionConfig{}))
	require.Equal(t, before, capi.HugePageBytes(), "they are asked for")

	first := open(t, "product", ort.SessionConfig{HugePages: true})
	second := open(t, "product", ort.SessionConfig{HugePages: true})
	require.Equal(t, want, product(first))
	require.Equal(t, want, product(second))
	if runtime.GOOS == "linux" {
		require.Greater(t, capi.HugePageBytes(), before)
	}
	first.Close()
	require.Equal(t, want, product(second), "the other one's weights stay")
	second.Close()
	require.Equal(t, before, capi.HugePageBytes())
}

// What kernels need for a step does not lie across pages if one can hold it: MLAS's attention over integers has
// misaligned accumulators there, which are slow where a page ends.
func TestBlocksLieInAPage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("huge pages, and the allocator that comes with them, are there on Linux alone")
	}
	s := open(t, "add", ort.SessionConfig{HugePages: true})
	const page = 4096
	for rows := 1; 16*rows <= page-64; rows += 3 { // the allocator has 64 bytes of its own
		x := floats(t, make([]float32, 4*rows), int64(rows), 4)
		z := ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]) // stays, so that each has its place
		first, last := uintptr(unsafe.Pointer(&z[0])), uintptr(unsafe.Pointer(&z[len(z)-1]))
		require.Equal(t, first/page, last/page, "%d rows at %#x", rows, first)
	}
}

// Memory of large activations goes on to the next of the same size, and most of it back to the system behind a run.
func TestLargeBlocks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("huge pages, and the allocator that comes with them, are there on Linux alone")
	}
	s := open(t, "product", ort.SessionConfig{HugePages: true})
	product := func(rows int) *ort.Tensor {
		x, err := ort.NewTensor(ort.Float32, int64(rows), 32)
		require.NoError(t, err)
		defer x.Close()
		out, err := s.Run(t.Context(), map[string]*ort.Tensor{"x": x}, nil)
		require.NoError(t, err)
		return out["y"]
	}
	address := func(x *ort.Tensor) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(x.Bytes()))) }

	large := product(1 << 14)
	where := address(large)
	require.Zero(t, where%(2<<20), "not on huge pages")
	size := len(large.Bytes())
	large.Close()
	require.GreaterOrEqual(t, capi.SpareBytes(), size)
	again, other := product(1<<14), product(1<<14)
	require.Equal(t, where, address(again))
	require.NotEqual(t, where, address(other), "two tensors in one place")
	again.Close()
	other.Close()

	product(1 << 19).Close()
	require.LessOrEqual(t, capi.SpareBytes(), 8<<20)
	s.Close()
	require.Zero(t, capi.SpareBytes())
}

func TestAssignments(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{RecordAssignment: true, Providers: []ort.Provider{{Name: "CPUExecutionProvider"}}})
	all, err := s.Assignments()
	require.NoError(t, err)
	require.Equal(t, []ort.Assignment{{Provider: "CPUExecutionProvider", Nodes: 1, Operators: map[string]int{"Add": 1}}}, all)
	require.Equal(t, "CPUExecutionProvider: 1 Add", all[0].String())
	s.Close()
	_, err = s.Assignments()
	requireError(t, err, ort.ErrClosed, "session")
	_, err = open(t, "add", ort.SessionConfig{}).Assignments()
	require.Error(t, err, "it was not recorded")
}

func TestProfile(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{ProfilePrefix: filepath.Join(t.TempDir(), "profile")})
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	run(t, s, map[string]*ort.Tensor{"x": x, "y": x})
	path, err := s.EndProfiling()
	require.NoError(t, err)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var events []map[string]any
	require.NoError(t, json.Unmarshal(text, &events))
	require.NotEmpty(t, events)
}

func TestClosedSession(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{})
	x := floats(t, make([]float32, 4), 1, 4)
	b := bind(t, s)
	slot, err := b.Input("x")
	require.NoError(t, err)
	require.NoError(t, slot.Set(x))
	s.Close()
	s.Close()

	_, err = s.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
	requireError(t, err, ort.ErrClosed, "session")
	_, err = s.NewBinding()
	requireError(t, err, ort.ErrClosed, "session")
	_, err = s.EndProfiling()
	requireError(t, err, ort.ErrClosed, "session")
	requireError(t, b.Run(nil), ort.ErrClosed, "session")
	requireError(t, slot.Set(x), ort.ErrClosed, "session")
	requireError(t, b.Clear(), ort.ErrClosed, "session")
	b.Close()
	requireError(t, b.Run(nil), ort.ErrClosed, "binding")
}

// Runs from many goroutines while the session closes: each gives the right result
// or ErrClosed.
func TestCloseWaitsForRuns(t *testing.T) {
	s := open(t, "add", ort.SessionConfig{Threads: 1})
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	var (
		workers sync.WaitGroup
		under   = make(chan struct{}, 8)
	)
	for range cap(under) {
		workers.Go(func() {
			for n := 0; ; n++ {
				outputs, err := s.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
				if err != nil {
					require.ErrorIs(t, err, ort.ErrClosed)
					return
				}
				require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](outputs["z"]))
				outputs["z"].Close()
				if n == 0 {
					under <- struct{}{}
				}
			}
		})
	}
	for range cap(under) {
		<-under
	}
	s.Close()
	workers.Wait()
}
