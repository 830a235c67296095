//go:build unix

package ort_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/ort/orttest"
)

// onDevice is a configuration that runs on the device of package orttest.
func onDevice(t testing.TB, options map[string]string) ort.SessionConfig {
	t.Helper()
	orttest.Register(t)
	return ort.SessionConfig{Providers: []ort.Provider{{Name: orttest.Provider, Options: options}}, RecordAssignment: true, Threads: 1}
}

// An accelerator is what tests of device memory run on: the device of package
// orttest, which tells what is done on it, and CUDA on machines that have it.
type accelerator struct {
	config ort.SessionConfig
	counts bool
}

func onAccelerators(t *testing.T, test func(t *testing.T, a accelerator)) {
	t.Run(orttest.Provider, func(t *testing.T) { test(t, accelerator{onDevice(t, nil), true}) })
	cuda := ort.Provider{Name: "cuda"}
	if ort.Probe(cuda) == nil {
		t.Run("CUDA", func(t *testing.T) {
			test(t, accelerator{ort.SessionConfig{Providers: []ort.Provider{cuda}, Threads: 1}, false})
		})
	}
}

// did shows what has been done on the device since before, where it tells.
func (a accelerator) did(t testing.TB, before orttest.Counters, look func(did orttest.Counters)) {
	t.Helper()
	if a.counts {
		look(orttest.Read(t).Since(before))
	}
}

// open opens a model there. When the test has closed all it made, nothing of it may
// be left.
func (a accelerator) open(t testing.TB, name string) (s *ort.Session, device ort.Location) {
	t.Helper()
	before := orttest.Read(t)
	t.Cleanup(func() {
		a.did(t, before, func(left orttest.Counters) {
			require.Zero(t, left.Blocks, "device memory")
			require.Zero(t, left.Bytes)
			require.Zero(t, left.Allocators)
			require.Zero(t, left.DataTransfers)
			require.Zero(t, left.Providers)
			require.Zero(t, left.Faults)
		})
	})
	s = open(t, name, a.config)
	device, err := s.InputLocation(s.Inputs()[0].Name)
	require.NoError(t, err)
	return s, device
}

// openOnDevice opens a model on the device of package orttest.
func openOnDevice(t testing.TB, name string) (*ort.Session, ort.Location) {
	t.Helper()
	return accelerator{onDevice(t, nil), true}.open(t, name)
}

func deviceTensor(t testing.TB, s *ort.Session, at ort.Location, values []float32, shape ...int64) *ort.Tensor {
	t.Helper()
	x, err := s.NewTensor(at, ort.Float32, shape...)
	require.NoError(t, err)
	t.Cleanup(x.Close)
	require.NoError(t, ort.Copy(x, floats(t, values, shape...)))
	return x
}

// read copies a tensor to the host.
func read(t testing.TB, x *ort.Tensor) []float32 {
	t.Helper()
	y := floats(t, make([]float32, x.Capacity()/4), int64(x.Capacity()/4))
	require.NoError(t, y.Reshape(x.Shape()...))
	require.NoError(t, ort.Copy(y, x))
	return ort.Data[float32](y)
}

func TestRegisterProviderLibrary(t *testing.T) {
	needLibrary(t)
	path := orttest.Library(t)
	require.NoError(t, ort.RegisterProviderLibrary(orttest.Provider, path))
	require.NoError(t, ort.RegisterProviderLibrary(orttest.Provider, path), "again")
	text := filepath.Join(t.TempDir(), "text.so")
	require.NoError(t, os.WriteFile(text, []byte("no library"), 0o600))
	for why, test := range map[string]struct {
		name, path string
		want       error
		says       string
	}{
		"another library under the name": {orttest.Provider, text, ort.ErrProvider, "loaded from " + path + " already"},
		"no library":                     {"text", text, ort.ErrProvider, "text.so"},
		"a library of another kind":      {"onnxruntime", ort.LibraryPath(), ort.ErrProvider, "CreateEpFactories"},
		"no file":                        {"none", filepath.Join(t.TempDir(), "none.so"), ort.ErrProvider, "none.so"},
		"what there is":                  {"none", filepath.Join(t.TempDir(), "none.so"), ort.ErrProvider, "has " + strings.Join(ort.Providers(), ", ")},
		"no name":                        {"", path, ort.ErrInvalidArgument, "provider library"},
		"no path":                        {"none", "", ort.ErrInvalidArgument, "provider library"},
	} {
		t.Run(why, func(t *testing.T) {
			requireError(t, ort.RegisterProviderLibrary(test.name, test.path), test.want, test.says)
		})
	}
	require.NoError(t, ort.Probe(ort.Provider{Name: orttest.Provider}))
	err := ort.Probe(ort.Provider{Name: "abacus"})
	requireError(t, err, ort.ErrProvider, ort.LibraryPath()+" has "+strings.Join(append(ort.Providers(), orttest.Provider), ", "))
	t.Chdir(filepath.Dir(path))
	require.NoError(t, ort.RegisterProviderLibrary(orttest.Provider, filepath.Base(path)), "the same, from the working folder")
}

func TestPluginTakesAllNodes(t *testing.T) {
	for _, name := range []string{"add", "loop", "dtypes"} {
		s, _ := openOnDevice(t, name)
		all, err := s.Assignments()
		require.NoError(t, err)
		require.Equal(t, orttest.Provider, all[0].Provider, "%s: %v", name, all)
		require.NotContains(t, all[0].Operators, "", name)
	}
	s, _ := openOnDevice(t, "add")
	all, err := s.Assignments()
	require.NoError(t, err)
	require.Equal(t, []ort.Assignment{{Provider: orttest.Provider, Nodes: 1, Operators: map[string]int{"Add": 1}}}, all)
}

// From host memory to host memory, ONNX Runtime copies to the device and back.
func TestRunOnDeviceFromHost(t *testing.T) { onAccelerators(t, runOnDeviceFromHost) }

func runOnDeviceFromHost(t *testing.T, a accelerator) {
	s, _ := a.open(t, "add")
	before := orttest.Read(t)
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	z := run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]
	require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](z))
	a.did(t, before, func(did orttest.Counters) {
		require.EqualValues(t, 32, did.BytesIn)
		require.EqualValues(t, 16, did.BytesOut)
		require.EqualValues(t, 1, did.Runs)
	})
}

// Bound to tensors on the device, runs copy nothing at all.
func TestRunOnDevice(t *testing.T) { onAccelerators(t, runOnDevice) }

func runOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	require.Equal(t, device.Name()+":0", device.String())
	require.NotEqual(t, ort.Location{}.Name(), device.Name())
	require.False(t, device.OnCPU())
	at, err := s.OutputLocation("z")
	require.NoError(t, err)
	require.Equal(t, device, at)

	x := deviceTensor(t, s, device, []float32{1, 2, 3, 4}, 1, 4)
	z := deviceTensor(t, s, device, make([]float32, 4), 1, 4)
	require.Equal(t, device, x.Location())
	require.False(t, x.OnCPU())
	require.Nil(t, x.Bytes())
	require.Nil(t, ort.Data[float32](x))
	b := bind(t, s)
	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("y", x))
	require.NoError(t, b.BindOutput("z", z))
	before := orttest.Read(t)
	for range 3 {
		require.NoError(t, b.Run(nil))
	}
	a.did(t, before, func(did orttest.Counters) {
		require.EqualValues(t, 3, did.Runs)
		require.Zero(t, did.Transfers)
		require.Zero(t, did.Allocations)
		runs := orttest.Runs(t, before.Runs)
		require.Len(t, runs, 3)
		require.Equal(t, []int64{1, 4}, runs[0].Inputs["x"].Shape)
		require.Equal(t, runs[0].Inputs["x"], runs[0].Inputs["y"], "one tensor")
		require.NotEqual(t, runs[0].Inputs["x"].Address, runs[0].Outputs["z"].Address)
		require.Equal(t, runs[0], runs[1])
		require.Equal(t, runs[0], runs[2])
	})
	require.Equal(t, []float32{2, 4, 6, 8}, read(t, z))
}

func TestDecodeStepOnDeviceDoesNotAllocate(t *testing.T) {
	onAccelerators(t, decodeStepOnDeviceDoesNotAllocate)
}

func decodeStepOnDeviceDoesNotAllocate(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	x := deviceTensor(t, s, device, make([]float32, 4), 1, 4)
	host := floats(t, make([]float32, 4), 1, 4)
	b := bind(t, s)
	slot, err := b.Input("x")
	require.NoError(t, err)
	require.NoError(t, slot.Set(x))
	require.NoError(t, b.BindInput("y", host))
	require.NoError(t, b.BindOutput("z", x))
	step := func() error {
		if err := slot.Set(x); err != nil {
			return err
		}
		if err := b.Run(nil); err != nil {
			return err
		}
		return ort.Copy(host, x)
	}
	require.NoError(t, step())
	require.Zero(t, testing.AllocsPerRun(20, func() {
		if err := step(); err != nil {
			t.Error(err)
		}
	}))
}

func TestViewsOnDevice(t *testing.T) { onAccelerators(t, viewsOnDevice) }

func viewsOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	x := deviceTensor(t, s, device, []float32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 3, 4)
	row := func(n int) *ort.Tensor {
		v, err := x.View(16*n, 1, 4)
		require.NoError(t, err)
		t.Cleanup(v.Close)
		require.Equal(t, device, v.Location())
		return v
	}
	first, last := row(0), row(2)
	b := bind(t, s)
	require.NoError(t, b.BindInput("x", row(1)))
	require.NoError(t, b.BindInput("y", last))
	require.NoError(t, b.BindOutput("z", first))
	require.NoError(t, b.Run(nil))
	require.Equal(t, []float32{12, 14, 16, 18, 4, 5, 6, 7, 8, 9, 10, 11}, read(t, x))

	before := orttest.Read(t)
	require.NoError(t, ort.Copy(last, first))
	require.Equal(t, []float32{12, 14, 16, 18}, read(t, last))
	none, err := x.View(0, 0, 4)
	require.NoError(t, err)
	defer none.Close()
	require.NoError(t, ort.Copy(none, none))
	require.NoError(t, ort.Copy(none, floats(t, nil, 0, 4)))
	a.did(t, before, func(did orttest.Counters) {
		require.EqualValues(t, 16, did.BytesWithin)
		require.EqualValues(t, 1, did.CopiesWithin)
		require.Zero(t, did.CopiesIn, "nothing needs no copy")
	})

	// Any bytes go in each direction, and nothing is made on Go's heap for them.
	before = orttest.Read(t)
	host := floats(t, []float32{1, 2, 3, 4}, 4)
	require.NoError(t, ort.CopyBytes(x, 4, host, 8, 8))
	require.NoError(t, ort.CopyBytes(x, 24, x, 4, 4))
	require.NoError(t, ort.CopyBytes(host, 0, x, 0, 12))
	a.did(t, before, func(did orttest.Counters) {
		require.EqualValues(t, 8, did.BytesIn)
		require.EqualValues(t, 4, did.BytesWithin)
		require.EqualValues(t, 12, did.BytesOut)
	})
	require.Equal(t, []float32{12, 3, 4, 4}, ort.Data[float32](host))
	require.Equal(t, []float32{12, 3, 4, 18, 4, 5, 3, 7, 12, 14, 16, 18}, read(t, x))
	require.Zero(t, testing.AllocsPerRun(10, func() { _ = ort.CopyBytes(x, 4, host, 8, 8) }))
}

// A tensor of the host that is bound to an input of the device is read when a run
// begins, not when it is bound.
func TestHostTensorIsReadByEachRun(t *testing.T) { onAccelerators(t, hostTensorIsReadByEachRun) }

func hostTensorIsReadByEachRun(t *testing.T, a accelerator) {
	s, _ := a.open(t, "bias")
	for name, value := range map[string][]float32{"x": {10, 20}, "bias": {1, 2}} {
		b := bind(t, s)
		x, y := floats(t, []float32{1, 2}, 2), floats(t, []float32{0, 0}, 2)
		require.NoError(t, b.BindInput("x", floats(t, []float32{1, 2}, 2)))
		slot, err := b.Input(name)
		require.NoError(t, err)
		require.NoError(t, slot.Set(x))
		require.NoError(t, b.BindOutput("y", y))
		want := func(bias float32) []float32 {
			if name == "bias" {
				return []float32{1 + bias, 2 + 2*bias}
			}
			return []float32{10 + bias, 20 + 2*bias} // the model's bias is 10, 20
		}
		require.NoError(t, b.Run(nil))
		require.Equal(t, want(1), ort.Data[float32](y), name)
		copy(ort.Data[float32](x), value)
		require.NoError(t, b.Run(nil))
		require.Equal(t, want(value[0]), ort.Data[float32](y), name)
		x.Close()
		require.NoError(t, b.Run(nil), "the binding keeps the memory of a closed tensor")
		require.Equal(t, want(value[0]), ort.Data[float32](y), name)

		require.NoError(t, slot.Set(floats(t, []float32{5, 10}, 2)))
		require.NoError(t, b.Run(nil))
		require.Equal(t, want(5), ort.Data[float32](y), "bound again")
		require.NoError(t, b.Clear())
		requireError(t, b.Run(nil), ort.ErrInvalidArgument, "no tensor for input x")
	}
}

// A KV cache begins with nothing in it.
func TestNothingOnDevice(t *testing.T) { onAccelerators(t, nothingOnDevice) }

func nothingOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	x, err := s.NewTensor(device, ort.Float32, 0, 4)
	require.NoError(t, err)
	defer x.Close()
	require.Equal(t, device, x.Location())
	require.Zero(t, x.Capacity())
	require.Empty(t, ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x, "y": floats(t, nil, 0, 4)})["z"]))
	b := bind(t, s)
	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("y", x))
	require.NoError(t, b.BindOutputTo("z", device))
	require.NoError(t, b.Run(nil))
	outputs, err := b.Outputs()
	require.NoError(t, err)
	defer outputs["z"].Close()
	require.Equal(t, []int64{0, 4}, outputs["z"].Shape())
	require.Equal(t, device, outputs["z"].Location())
}

// past and present are one buffer on the device, which a run writes in place.
func TestSharedBufferOnDevice(t *testing.T) { onAccelerators(t, sharedBufferOnDevice) }

func sharedBufferOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "increment")
	b := bind(t, s)
	kv := deviceTensor(t, s, device, []float32{0, 10, 20}, 1, 3)
	require.NoError(t, b.BindInput("past", kv))
	require.NoError(t, b.BindOutput("present", kv))
	before := orttest.Read(t)
	for range 5 {
		require.NoError(t, b.Run(nil))
	}
	a.did(t, before, func(did orttest.Counters) {
		require.Zero(t, did.Transfers)
		require.EqualValues(t, 1, did.CopiedOutputs, "before the provider knows that they are one")
	})
	require.Equal(t, []float32{5, 15, 25}, read(t, kv))

	larger := deviceTensor(t, s, device, []float32{1, 2, 3, 4}, 1, 4)
	require.NoError(t, b.BindInput("past", larger))
	require.NoError(t, b.BindOutput("present", larger))
	require.NoError(t, b.Run(nil))
	require.Equal(t, []float32{2, 3, 4, 5}, read(t, larger))
	apart := deviceTensor(t, s, device, make([]float32, 4), 1, 4)
	require.NoError(t, b.BindOutput("present", apart))
	require.NoError(t, b.Run(nil))
	require.Equal(t, []float32{3, 4, 5, 6}, read(t, apart))
	require.Equal(t, []float32{2, 3, 4, 5}, read(t, larger))
}

// What ONNX Runtime allocates in a run may stay on the device, or come to the host.
func TestOutputsOnDevice(t *testing.T) { onAccelerators(t, outputsOnDevice) }

func outputsOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	b := bind(t, s)
	x := deviceTensor(t, s, device, []float32{1, 2, 3, 4}, 1, 4)
	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("y", x))
	output := func(at ort.Location) *ort.Tensor {
		require.NoError(t, b.BindOutputTo("z", at))
		require.NoError(t, b.Run(nil))
		outputs, err := b.Outputs()
		require.NoError(t, err)
		t.Cleanup(outputs["z"].Close)
		return outputs["z"]
	}
	z := output(device)
	require.Equal(t, device, z.Location())
	require.NoError(t, b.BindInput("x", z))
	again := output(device)
	host := output(ort.Location{})
	require.True(t, host.OnCPU())
	b.Close()
	s.Close()
	require.Equal(t, []float32{2, 4, 6, 8}, read(t, z))
	require.Equal(t, []float32{3, 6, 9, 12}, read(t, again))
	require.Equal(t, []float32{3, 6, 9, 12}, ort.Data[float32](host))
}

// Whatever is closed first, the rest works on or says what is wrong, and in the end
// all is given back, which openOnDevice looks at.
func TestCloseInAnyOrder(t *testing.T) { onAccelerators(t, closeInAnyOrder) }

func closeInAnyOrder(t *testing.T, a accelerator) {
	closers := []string{"session", "tensor", "view", "binding"}
	for first := range closers {
		order := slices.Concat(closers[first:], closers[:first])
		for range 2 {
			slices.Reverse(order)
			s, device := a.open(t, "add")
			held := orttest.Read(t)
			x := deviceTensor(t, s, device, []float32{1, 2, 3, 4, 5, 6, 7, 8}, 2, 4)
			v, err := x.View(16, 1, 4)
			require.NoError(t, err)
			b := bind(t, s)
			require.NoError(t, b.BindInput("x", v))
			require.NoError(t, b.BindInput("y", floats(t, make([]float32, 4), 1, 4)))
			require.NoError(t, b.BindOutputTo("z", device))
			require.NoError(t, b.Run(nil))
			closed := map[string]bool{}
			for _, what := range order {
				map[string]func(){"session": s.Close, "tensor": x.Close, "view": v.Close, "binding": b.Close}[what]()
				closed[what] = true
				if !closed["view"] {
					require.Equal(t, []float32{5, 6, 7, 8}, read(t, v), "%v", order)
				}
				if closed["session"] {
					_, err := s.NewTensor(device, ort.Float32, 1)
					requireError(t, err, ort.ErrClosed, "session")
					require.ErrorIs(t, b.Run(nil), ort.ErrClosed)
				}
			}
			a.did(t, held, func(left orttest.Counters) {
				require.Zero(t, left.Blocks, "%v", order)
				require.EqualValues(t, -1, left.Providers, "%v: the session is gone with the last that needed it", order)
			})
		}
	}
}

func TestDeviceErrors(t *testing.T) {
	s, device := openOnDevice(t, "add")
	x := deviceTensor(t, s, device, make([]float32, 4), 1, 4)
	_, err := s.NewTensor(device, ort.Float32, -1)
	requireError(t, err, ort.ErrInvalidArgument, "negative")
	_, err = s.NewTensor(device, ort.Undefined, 1)
	requireError(t, err, ort.ErrInvalidArgument, "a tensor of")
	requireError(t, ort.Copy(x, floats(t, []float32{1}, 1)), ort.ErrInvalidArgument, "[1] to float32 [1 4]")

	host := open(t, "add", ort.SessionConfig{})
	_, err = host.NewTensor(device, ort.Float32, 1)
	requireError(t, err, ort.ErrInvalidArgument, "no input or output in memory TestDevice:0")
	requireError(t, bind(t, host).BindOutputTo("z", device), ort.ErrInvalidArgument, "no input or output in memory TestDevice:0")
	_, err = host.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
	requireError(t, err, ort.ErrInvalidArgument, "in memory TestDevice:0, where x is")
	b := bind(t, host)
	requireError(t, b.BindInput("x", x), ort.ErrInvalidArgument, "where x is")
	requireError(t, b.BindOutput("z", x), ort.ErrInvalidArgument, "where z is")

	for fail, test := range map[string]struct {
		want error
		says string
	}{
		"create":  {ort.ErrProvider, "no such device"},
		"compile": {ort.ErrProvider, "compiling fails"},
	} {
		_, err := ort.NewSession(graph("add"), onDevice(t, map[string]string{"fail": fail}))
		requireError(t, err, test.want, test.says)
	}
	broken := open(t, "add", onDevice(t, map[string]string{"fail": "run"}))
	_, err = broken.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": x}, nil)
	requireError(t, err, ort.ErrProvider, "the run fails")
}

// The provider reads the model's file, which a model of bytes has not.
func TestPluginOptions(t *testing.T) {
	model, err := os.ReadFile(graph("add"))
	require.NoError(t, err)
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	inputs := map[string]*ort.Tensor{"x": x, "y": x}
	s, err := ort.NewSessionFromBytes(model, onDevice(t, nil))
	require.NoError(t, err)
	defer s.Close()
	_, err = s.Run(context.Background(), inputs, nil)
	requireError(t, err, ort.ErrProvider, "the model came without a file")

	other, err := ort.NewSessionFromBytes(model, onDevice(t, map[string]string{"model": graph("add"), "threads": "2"}))
	require.NoError(t, err)
	defer other.Close()
	require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](run(t, other, inputs)["z"]))

	alone := onDevice(t, nil)
	alone.ConfigEntries = map[string]string{"session.disable_cpu_ep_fallback": "1"}
	run(t, open(t, "add", alone), inputs)
	_, err = ort.NewSessionFromBytes(model, onDevice(t, map[string]string{"threads": "none"}))
	require.ErrorContains(t, err, "none threads")
}

// Of several devices a session has the one that it is asked for, and no memory of
// another.
func TestDeviceID(t *testing.T) {
	x := floats(t, []float32{1, 2, 3, 4}, 1, 4)
	tensors := map[string]*ort.Tensor{}
	for id, want := range map[string]string{"": "TestDevice:0", "0": "TestDevice:0", "1": "TestDevice:1"} {
		options := map[string]string{}
		if id != "" {
			options["device_id"] = id
		}
		s := open(t, "add", onDevice(t, options))
		at, err := s.OutputLocation("z")
		require.NoError(t, err)
		require.Equal(t, want, at.String())
		require.Equal(t, []float32{2, 4, 6, 8}, ort.Data[float32](run(t, s, map[string]*ort.Tensor{"x": x, "y": x})["z"]))
		tensors[id] = deviceTensor(t, s, at, []float32{1, 2, 3, 4}, 1, 4)
	}
	s, _ := openOnDevice(t, "add")
	other := tensors["1"]
	_, err := s.Run(context.Background(), map[string]*ort.Tensor{"x": other, "y": other}, nil)
	requireError(t, err, ort.ErrInvalidArgument, "in memory TestDevice:1, where x is")
	require.Error(t, ort.Copy(tensors["0"], other), "from one device to another")
	_, err = ort.NewSession(graph("add"), onDevice(t, map[string]string{"device_id": "2"}))
	requireError(t, err, ort.ErrProvider, "there is no device_id 2 among its 2")
}

func TestCancelOnDevice(t *testing.T) {
	s, _ := openOnDevice(t, "loop")
	r := longRun{bind(t, s), tensor(t, ort.Int64, []int64{forever}), floats(t, []float32{0}, 1), floats(t, []float32{0}, 1)}
	require.NoError(t, r.BindInput("n", r.n))
	require.NoError(t, r.BindInput("x", floats(t, []float32{0.5}, 1)))
	require.NoError(t, r.BindOutput("y", r.y))
	require.NoError(t, r.BindOutput("begun", r.begun))
	c := control(t)
	r.works(t, c)
	for range 3 {
		ctx, cancel := context.WithCancel(context.Background())
		stop := c.Watch(ctx)
		ended := make(chan error, 1)
		go func() { ended <- r.Run(c) }()
		for orttest.Read(t).Running == 0 {
			runtime.Gosched()
		}
		cancel()
		err := <-ended
		requireError(t, err, ort.ErrCancelled, "run")
		require.ErrorIs(t, err, context.Canceled)
		stop()
		require.NoError(t, c.Reset())
		r.works(t, c)
	}
}

// Run configuration entries come to the execution provider, as CUDA graphs need.
func TestRunConfigEntryReachesProvider(t *testing.T) {
	s, _ := openOnDevice(t, "add")
	x := floats(t, make([]float32, 4), 1, 4)
	b := bind(t, s)
	require.NoError(t, b.BindInput("x", x))
	require.NoError(t, b.BindInput("y", x))
	require.NoError(t, b.BindOutput("z", x))
	before := orttest.Read(t).Runs
	require.NoError(t, b.Run(nil))
	c := control(t)
	for _, id := range []string{"3", "-1"} {
		require.NoError(t, c.AddRunConfigEntry("gpu_graph_id", id))
		require.NoError(t, b.Run(c))
	}
	runs := orttest.Runs(t, before)
	require.Len(t, runs, 3)
	require.Equal(t, []string{"", "3", "-1"}, []string{runs[0].Graph, runs[1].Graph, runs[2].Graph})
}

func TestConcurrentRunsOnDevice(t *testing.T) { onAccelerators(t, concurrentRunsOnDevice) }

func concurrentRunsOnDevice(t *testing.T, a accelerator) {
	s, device := a.open(t, "add")
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			x, err := s.NewTensor(device, ort.Float32, 1, 4)
			if err != nil {
				t.Error(err)
				return
			}
			defer x.Close()
			host := floats(t, slices.Repeat([]float32{float32(w)}, 4), 1, 4)
			for range 20 {
				if err := ort.Copy(x, host); err != nil {
					t.Error(err)
					return
				}
				outputs, err := s.Run(context.Background(), map[string]*ort.Tensor{"x": x, "y": host}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got := ort.Data[float32](outputs["z"])[3]; got != float32(2*w) {
					t.Errorf("worker %d has %v", w, got)
				}
				outputs["z"].Close()
			}
		})
	}
	workers.Wait()
}
