package accelerate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

const (
	checkpoints = "../../models/testdata/checkpoints/"
	carried     = "../../models/tiny/qwen3-tiny"
)

func out(t *testing.T, name string) accelerate.Output {
	t.Helper()
	return accelerate.Output{Dir: filepath.Join(t.TempDir(), name)}
}

// ExampleBuild makes a model folder of a checkpoint.
func ExampleBuild() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	report, err := accelerate.Build(context.Background(), accelerate.Source{Dir: carried},
		accelerate.Output{Dir: filepath.Join(dir, "int4")}, accelerate.Config{BlockSize: 128}, accelerate.Events{})
	if err != nil {
		panic(err)
	}
	fmt.Println(report.NodesAfter < report.NodesBefore, report.BitsPerWeight < 5)
	// Output: true true
}

// TestOnePass holds that Build gives what the three steps give, to the byte: for all shapes of
// checkpoints.
func TestOnePass(t *testing.T) {
	entries, err := os.ReadDir(checkpoints)
	require.NoError(t, err)
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		t.Run(e.Name(), func(t *testing.T) {
			ctx := t.Context()
			source := accelerate.Source{Dir: checkpoints + e.Name()}
			conf := accelerate.Config{BlockSize: 16}
			plain, fused, small, once := out(t, "plain"), out(t, "fused"), out(t, "small"), out(t, "once")

			exported, err := accelerate.Export(ctx, source, plain, conf, accelerate.Events{})
			require.NoError(t, err)
			optimized, err := accelerate.Optimize(ctx, plain.Dir, fused, conf, accelerate.Events{})
			require.NoError(t, err)
			quantized, err := accelerate.Quantize(ctx, fused.Dir, small, conf, accelerate.Events{})
			require.NoError(t, err)
			built, err := accelerate.Build(ctx, source, once, conf, accelerate.Events{})
			require.NoError(t, err)
			requireSameFolder(t, small.Dir, once.Dir)

			require.Equal(t, exported.NodesAfter, optimized.NodesBefore)
			require.Less(t, optimized.NodesAfter, optimized.NodesBefore)
			require.Equal(t, optimized.NodesBefore, built.NodesBefore)
			require.Equal(t, optimized.Passes, built.Passes)
			require.Equal(t, quantized.Bytes, built.Bytes)
			require.Equal(t, quantized.BitsPerWeight, built.BitsPerWeight)
			require.InDelta(t, 32, exported.BitsPerWeight, 1e-9)
			require.NotNil(t, built.Quantization)
			require.Equal(t, once.Dir, built.Dir)

			m, err := folder.ReadManifest(once.Dir)
			require.NoError(t, err)
			require.Equal(t, e.Name(), m.Source.Name)
			require.Equal(t, "float32", m.KVCache.DType)
			require.Len(t, m.Steps, 3)
			require.Len(t, m.Quantization, len(built.Quantization.Tensors))
		})
	}
}

func requireSameFolder(t *testing.T, a, b string) {
	t.Helper()
	x, err := os.ReadDir(a)
	require.NoError(t, err)
	y, err := os.ReadDir(b)
	require.NoError(t, err)
	require.Len(t, y, len(x))
	for i, e := range x {
		require.Equal(t, e.Name(), y[i].Name())
		one, err := os.ReadFile(filepath.Join(a, e.Name()))
		require.NoError(t, err)
		other, err := os.ReadFile(filepath.Join(b, e.Name()))
		require.NoError(t, err)
		require.True(t, string(one) == string(other), "%s differs", e.Name())
	}
}

func TestEmbedded(t *testing.T) {
	disk, embedded := out(t, "disk"), out(t, "embedded")
	for o, source := range map[accelerate.Output]accelerate.Source{
		disk: {Dir: carried}, embedded: {FS: os.DirFS(carried), Name: "qwen3-tiny"},
	} {
		_, err := accelerate.Build(t.Context(), source, o, accelerate.Config{}, accelerate.Events{})
		require.NoError(t, err)
	}
	requireSameFolder(t, disk.Dir, embedded.Dir)
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		why  string
		conf accelerate.Config
		want string // of the error; "" is none
	}{
		{"zero", accelerate.Config{}, ""},
		{"everything named", accelerate.Config{Precision: accelerate.Int8, BlockSize: 256, Symmetric: new(false), DType: accelerate.BF16, Target: graphopt.CUDA}, ""},
		{"no quantisation", accelerate.Config{Precision: accelerate.None}, ""},
		{"blocks of what", accelerate.Config{Precision: accelerate.None, BlockSize: 32}, "precision none quantises nothing"},
		{"all faults in one line", accelerate.Config{Precision: "int3", DType: "fp8", Target: "tpu"},
			`accelerate: precision "int3": want none, fp16, bf16, int4, int8, dynamic-int8 or static-int8; dtype "fp8": want fp32, fp16 or bf16; target "tpu": want cpu, cuda or coreml`},
		{"a bad precision does not hide the rest", accelerate.Config{Precision: "int3", Method: "best", BlockSize: 33, Integers: accelerate.Integers{Weights: quantize.ReducedInt8}},
			`precision "int3": want none, fp16, bf16, int4, int8, dynamic-int8 or static-int8; block size 33: it must be 16, 32, 64, 128 or 256; method "best"`},
		{"a bad target does not hide the rest", accelerate.Config{Target: "tpu", Passes: []string{"attention"}, Disable: []string{"speed"}}, `target "tpu": want cpu, cuda or coreml; unknown pass "speed"`},
		{"a bad cache, whose scales are right", accelerate.Config{KV: "int9", KVScales: "tensor"}, `accelerate: kv "int9": want fp32, fp16, bf16, int8 or int4`},
		{"products in integers", accelerate.Config{Precision: accelerate.DynamicInt8, Integers: accelerate.Integers{Weights: quantize.ReducedInt8}}, ""},
		{"products in integers elsewhere", accelerate.Config{Precision: accelerate.DynamicInt8, DType: accelerate.FP16}, "dynamic-int8 is for dtype fp32 and target cpu"},
		{"levels of what", accelerate.Config{Integers: accelerate.Integers{Weights: quantize.ReducedInt8}}, "precision int4 computes no products in integers"},
		{"rounding that needs blocks", accelerate.Config{Precision: accelerate.DynamicInt8, Method: quantize.GPTQ}, "method gptq is for int4 and int8"},
		{"bits to spend on what", accelerate.Config{Precision: accelerate.DynamicInt8, TargetBits: 5}, "target bits choose precision"},
		{"block size", accelerate.Config{BlockSize: 33}, "accelerate: block size 33: it must be 16, 32, 64, 128 or 256"},
		{"negative block size", accelerate.Config{BlockSize: -128}, "block size -128"},
	} {
		err := c.conf.Validate()
		if c.want == "" {
			require.NoError(t, err, c.why)
			continue
		}
		require.ErrorContains(t, err, c.want, c.why)
	}
}

func TestEvents(t *testing.T) {
	var steps []accelerate.Step
	var last, all int64
	applied := 0
	_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: checkpoints + "tied-f16"}, out(t, "out"), accelerate.Config{}, accelerate.Events{
		Step: func(s accelerate.Step) { steps = append(steps, s) },
		Progress: func(done, total int64) {
			require.Greater(t, done, last)
			last, all = done, total
		},
		Trace: func(e graphopt.Event) {
			if e.Kind == graphopt.Applied {
				applied++
			}
		},
	})
	require.NoError(t, err)
	require.Equal(t, []accelerate.Step{accelerate.StepExport, accelerate.StepOptimize, accelerate.StepQuantize, accelerate.StepWrite}, steps)
	require.Positive(t, applied)
	require.LessOrEqual(t, last, all) // pages between tensors do not count
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	output := accelerate.Output{Dir: filepath.Join(dir, "out")}
	source := accelerate.Source{Dir: checkpoints + "untied-f32"}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		why string
		do  func() error
		is  error
	}{
		{"cancelled", func() error {
			_, err := accelerate.Build(cancelled, source, output, accelerate.Config{}, accelerate.Events{})
			return err
		}, context.Canceled},
		{"cancelled while weights are written", func() error {
			ctx, cancel := context.WithCancel(t.Context())
			_, err := accelerate.Build(ctx, accelerate.Source{Dir: carried}, output, accelerate.Config{},
				accelerate.Events{Progress: func(int64, int64) { cancel() }})
			return err
		}, context.Canceled},
		{"no checkpoint", func() error {
			_, err := accelerate.Export(t.Context(), accelerate.Source{Dir: filepath.Join(dir, "none")}, output, accelerate.Config{}, accelerate.Events{})
			return err
		}, os.ErrNotExist},
		{"no model", func() error {
			_, err := accelerate.Optimize(t.Context(), checkpoints+"untied-f32", output, accelerate.Config{}, accelerate.Events{})
			return err
		}, folder.ErrNoModel},
		{"nothing named", func() error {
			_, err := accelerate.Build(t.Context(), accelerate.Source{}, output, accelerate.Config{}, accelerate.Events{})
			return err
		}, nil},
		{"two sources", func() error {
			_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried, FS: os.DirFS(carried)}, output, accelerate.Config{}, accelerate.Events{})
			return err
		}, nil},
		{"bad configuration", func() error {
			_, err := accelerate.Build(t.Context(), source, output, accelerate.Config{BlockSize: 7}, accelerate.Events{})
			return err
		}, nil},
		{"nothing to quantise to", func() error {
			_, err := accelerate.Quantize(t.Context(), carried, output, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
			return err
		}, nil},
	} {
		err := c.do()
		require.Error(t, err, c.why)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.why)
		}
		require.NotContains(t, err.Error(), "\n", c.why)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries, "%s: nothing is left behind", c.why)
	}
}

// TestReplaceItself optimises a folder into its own place: the model that is read must stay readable
// until the new one is written.
func TestReplaceItself(t *testing.T) {
	at, fused := out(t, "model"), out(t, "fused")
	source := accelerate.Source{Dir: checkpoints + "tied-f16"}
	_, err := accelerate.Export(t.Context(), source, at, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Optimize(t.Context(), at.Dir, fused, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Optimize(t.Context(), at.Dir, at, accelerate.Config{}, accelerate.Events{})
	require.ErrorIs(t, err, folder.ErrExists)
	at.Replace = true
	_, err = accelerate.Optimize(t.Context(), at.Dir, at, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	requireSameFolder(t, fused.Dir, at.Dir)
}

func TestCached(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(name, home)
	}
	root, err := accelerate.CacheDir()
	require.NoError(t, err)
	source := accelerate.Source{Dir: checkpoints + "untied-f32"}
	cached := func(s accelerate.Source, c accelerate.Config) (string, bool) {
		dir, built, err := accelerate.Cached(t.Context(), s, c, accelerate.Events{})
		require.NoError(t, err)
		require.Equal(t, root, filepath.Dir(dir))
		_, err = folder.ReadManifest(dir)
		require.NoError(t, err)
		return dir, built != nil
	}
	first, built := cached(source, accelerate.Config{})
	require.True(t, built)

	again, built := cached(source, accelerate.Config{})
	require.False(t, built, "it is there")
	require.Equal(t, first, again)

	moved := accelerate.Source{Dir: filepath.Join(t.TempDir(), "elsewhere"), Name: "another name"}
	require.NoError(t, os.CopyFS(moved.Dir, os.DirFS(source.Dir)))
	again, built = cached(moved, accelerate.Config{Precision: accelerate.DefaultPrecision, BlockSize: accelerate.DefaultBlockSize})
	require.False(t, built, "the content and the settings are the same")
	require.Equal(t, first, again)

	other, built := cached(source, accelerate.Config{BlockSize: 64})
	require.True(t, built)
	require.NotEqual(t, first, other)

	require.NoError(t, os.Remove(filepath.Join(first, "model.onnx.data")))
	again, built = cached(source, accelerate.Config{})
	require.True(t, built, "somebody has taken the weights away")
	require.Equal(t, first, again)

	_, _, err = accelerate.Cached(t.Context(), accelerate.Source{Dir: home}, accelerate.Config{}, accelerate.Events{})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestCachedTogether lets several builds of one folder begin at once: one of them does the work.
func TestCachedTogether(t *testing.T) {
	home := t.TempDir()
	for _, name := range []string{"XDG_CACHE_HOME", "HOME", "LocalAppData"} {
		t.Setenv(name, home)
	}
	var wg sync.WaitGroup
	const callers = 4
	dirs, built, errs := [callers]string{}, [callers]bool{}, [callers]error{}
	for i := range callers {
		wg.Go(func() {
			var r *accelerate.Report
			dirs[i], r, errs[i] = accelerate.Cached(t.Context(), accelerate.Source{Dir: carried}, accelerate.Config{}, accelerate.Events{})
			built[i] = r != nil
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs[:]...))
	times := 0
	for i := range callers {
		require.Equal(t, dirs[0], dirs[i])
		if built[i] {
			times++
		}
	}
	require.Equal(t, 1, times)
}
