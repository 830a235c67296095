package accelerate_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/inspect"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// ownCache gives the test a cache of its own, with this folder below it.
func ownCache(t *testing.T) string {
	t.Helper()
	lib, err := ort.Find("")
	require.NoError(t, err)
	t.Setenv("QWENRT_ORT_LIB", lib)
	dir := t.TempDir()
	for _, name := range []string{"HOME", "XDG_CACHE_HOME", "LocalAppData"} {
		t.Setenv(name, dir)
	}
	cache, err := accelerate.CacheDir()
	require.NoError(t, err)
	return filepath.Dir(cache)
}

// quick is a checkpoint of two layers.
var quick = accelerate.Source{Dir: checkpoints + "small-bf16"}

func open(t *testing.T, from accelerate.Source, c accelerate.Config) *accelerate.Model {
	t.Helper()
	m, err := accelerate.Open(t.Context(), from, c, accelerate.Events{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func outcome(t *testing.T, m *accelerate.Model, option string) accelerate.Outcome {
	t.Helper()
	for _, o := range m.Info().Options {
		if o.Option == option {
			return o
		}
	}
	require.Fail(t, "no outcome of "+option)
	return accelerate.Outcome{}
}

// countOperators counts those of the model's graph.
func countOperators(t *testing.T, m *accelerate.Model) map[string]int {
	t.Helper()
	g, err := ir.Load(m.Info().Model.File)
	require.NoError(t, err)
	defer g.Close()
	counts := map[string]int{}
	for _, o := range inspect.Summarize(g).Operators {
		counts[o.Name] = o.Count
	}
	return counts
}

// methods are those by which the manifest says that tensors are quantised, each once.
func methods(t *testing.T, m *accelerate.Model) (all []string) {
	t.Helper()
	manifest, err := folder.ReadManifest(filepath.Dir(m.Info().Model.File))
	require.NoError(t, err)
	for _, q := range manifest.Quantization {
		if !slices.Contains(all, q.Method) {
			all = append(all, q.Method)
		}
	}
	return all
}

// bits are those of the weights in MatMulNBits, each once.
func bits(t *testing.T, m *accelerate.Model) (all []int64) {
	t.Helper()
	g, err := ir.Load(m.Info().Model.File)
	require.NoError(t, err)
	defer g.Close()
	for _, n := range g.Graph.Nodes() {
		if n.Is("com.microsoft", "MatMulNBits") && !slices.Contains(all, n.Int("bits", 0)) {
			all = append(all, n.Int("bits", 0))
		}
	}
	return all
}

// runs counts the operators that the model's session runs.
func runs(t *testing.T, m *accelerate.Model) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for _, a := range use(t, m).Info().Assignments {
		for name, n := range a.Operators {
			counts[name] += n
		}
	}
	return counts
}

func use(t *testing.T, m *accelerate.Model) *runner.Runner {
	t.Helper()
	r, release, err := m.Use()
	require.NoError(t, err)
	t.Cleanup(release)
	return r
}

// logits are those behind a prompt.
func logits(t *testing.T, m *accelerate.Model, prompt ...int32) []float32 {
	t.Helper()
	s, err := use(t, m).NewSequence()
	require.NoError(t, err)
	defer s.Close()
	row, err := s.Prefill(t.Context(), prompt)
	require.NoError(t, err)
	return append([]float32(nil), row...)
}

// TestOptionFacts holds that every option changes a fact of graph, session or runner, and that Info tells it.
func TestOptionFacts(t *testing.T) {
	root := ownCache(t)
	fused := func(ops map[string]int) int {
		return ops["SimplifiedLayerNormalization"] + ops["com.microsoft.SkipSimplifiedLayerNormalization"] + ops["com.microsoft.QuickGelu"] + ops["com.microsoft.FusedMatMul"]
	}
	plain := accelerate.Config{Precision: accelerate.None, Device: accelerate.CPU}
	for _, c := range []struct {
		option, applied string // off: the value of plain
		set             func(*accelerate.Config)
		fact            func(t *testing.T, m *accelerate.Model, on bool) // that differs between plain and the option
	}{
		{"precision", "int8", func(c *accelerate.Config) { c.Precision = accelerate.Int8 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, slices.Equal(bits(t, m), []int64{8}))
		}},
		{"precision", "static-int8", func(c *accelerate.Config) { c.Precision, c.Calibration = accelerate.StaticInt8, few }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, countOperators(t, m)["DequantizeLinear"] > 0)
			require.Equal(t, on, runs(t, m)["com.microsoft.MatMulIntegerToFloat"] > 0)
		}},
		{"precision", "int4", func(c *accelerate.Config) { c.Precision = accelerate.Int4 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, slices.Equal(bits(t, m), []int64{4}))
		}},
		{"precision", "fp16", func(c *accelerate.Config) { c.Precision = accelerate.Half; c.Lenient = true }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, map[bool]string{true: "float16", false: "float32"}[on], use(t, m).Info().KVType)
		}},
		{"precision", "dynamic-int8", func(c *accelerate.Config) { c.Precision, c.SmoothQuant = "dynamic_int8", "OFF" }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, countOperators(t, m)["com.microsoft.DynamicQuantizeMatMul"]+countOperators(t, m)["com.microsoft.MatMulIntegerToFloat"]+countOperators(t, m)["MatMulInteger"] > 0)
		}},
		{"attention", "plain", func(c *accelerate.Config) { c.Attention = accelerate.Plain }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, countOperators(t, m)["com.microsoft.GroupQueryAttention"] == 0)
			require.Equal(t, on, !use(t, m).Info().SharedKV)
		}},
		{"fused_kernels", "false", func(c *accelerate.Config) { c.FusedKernels = new(false) }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, fused(countOperators(t, m)) == 0)
			require.Equal(t, on, fused(runs(t, m)) == 0, "ONNX Runtime does not fuse them either")
		}},
		{"compile", "off", func(c *accelerate.Config) { c.Compile, c.FusedKernels = accelerate.CompileOff, new(false) }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, !strings.Contains(outcome(t, m, "compile").Fact, root))
			if on {
				require.Equal(t, countOperators(t, m), runs(t, m), "the session runs the graph as it was built")
			}
		}},
		{"compile", "reduce_overhead", func(c *accelerate.Config) { c.Compile = accelerate.ReduceOverhead }, func(t *testing.T, m *accelerate.Model, on bool) {
			s, err := use(t, m).NewSequence()
			require.NoError(t, err)
			defer s.Close()
			require.Equal(t, on, s.Capacity() == use(t, m).Info().ContextLength, "all buffers are bound from the start")
		}},
		{"attention", "memory_efficient", func(c *accelerate.Config) { c.Attention = accelerate.MemoryEfficient }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().ScoresBytes == accelerate.ScoresBytes)
		}},
		{"kv", "fp16", func(c *accelerate.Config) { c.KV, c.DType, c.Lenient = accelerate.KVFP16, accelerate.FP16, true }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().KVType == "float16")
		}},
		{"block_size", "64", func(c *accelerate.Config) { c.Precision, c.BlockSize = accelerate.Int4, 64 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, len(m.Info().Quantization) > 0 && m.Info().Quantization[0].BlockSize == 64)
		}},
		{"algorithm", "hqq", func(c *accelerate.Config) {
			c.Precision, c.Method, c.Symmetric = accelerate.Int4, quantize.HQQ, new(false)
		}, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, slices.Equal(methods(t, m), []string{"hqq"}))
			if on {
				rtn := open(t, quick, accelerate.Config{Precision: accelerate.Int4, Method: quantize.RTN, Scale: quantize.ScaleMax, Symmetric: new(false)})
				require.Equal(t, []string{"rtn"}, methods(t, rtn))
				a, err := os.ReadFile(rtn.Info().Model.File + ".data")
				require.NoError(t, err)
				b, err := os.ReadFile(m.Info().Model.File + ".data")
				require.NoError(t, err)
				require.Len(t, b, len(a), "the format is the same")
				require.False(t, bytes.Equal(a, b), "levels and zero points are not those of the widest range, from which it begins")
			}
		}},
		{"threads", "1", func(c *accelerate.Config) { c.Threads = 1 }, func(t *testing.T, m *accelerate.Model, on bool) {
			if on {
				require.Equal(t, 1, use(t, m).Info().Threads)
			} else {
				require.Equal(t, ort.DefaultThreads(), use(t, m).Info().Threads)
			}
		}},
		{"prefill_chunk", "7", func(c *accelerate.Config) { c.PrefillChunk = 7 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().PrefillChunk == 7)
		}},
		{"max_context", "33", func(c *accelerate.Config) { c.MaxContext = 33 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().ContextLength == 33)
		}},
		{"slots", "2", func(c *accelerate.Config) { c.Slots = 2 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().Slots == 2)
		}},
		{"queue", "3", func(c *accelerate.Config) { c.Slots, c.Queue = 2, 3 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().Queue == 3)
		}},
		{"prefix_cache", "1048576", func(c *accelerate.Config) { c.PrefixCache = 1 << 20 }, func(t *testing.T, m *accelerate.Model, on bool) {
			require.Equal(t, on, use(t, m).Info().PrefixCache == 1<<20)
		}},
	} {
		t.Run(c.option+"="+c.applied, func(t *testing.T) {
			from := quick
			if c.applied == "static-int8" { // calibration text wants a tokenizer
				from = accelerate.Source{Dir: carried}
			}
			off := open(t, from, plain)
			c.fact(t, off, false)
			require.NotEqual(t, c.applied, outcome(t, off, c.option).Applied)
			conf := plain
			conf.Strict = true
			c.set(&conf)
			on := open(t, from, conf)
			c.fact(t, on, true)
			o := outcome(t, on, c.option)
			require.Equal(t, c.applied, o.Applied, o)
			require.NotEmpty(t, o.Requested)
			require.NotEmpty(t, o.Fact)
			require.Len(t, logits(t, on, 1, 2, 3), len(logits(t, off, 1, 2, 3)), "it runs")
		})
	}
}

// Settings of the session that Info has no line for are those of the session all the same.
func TestSessionFacts(t *testing.T) {
	for _, c := range []struct {
		option string
		conf   accelerate.Config
		fact   func(ort.SessionConfig) bool
	}{
		{"spin", accelerate.Config{Spin: accelerate.SpinOn}, func(s ort.SessionConfig) bool { return s.Spin == ort.SpinOn }},
		{"spin", accelerate.Config{Spin: accelerate.SpinOff}, func(s ort.SessionConfig) bool { return s.Spin == ort.SpinOff }},
		{"spin", accelerate.Config{Spin: accelerate.SpinInRun}, func(s ort.SessionConfig) bool { return s.Spin == ort.SpinInRun }},
		{"spin, with slots", accelerate.Config{Slots: 2}, func(s ort.SessionConfig) bool { return s.Spin == ort.SpinInRun }},
		{"spin, with reduce_overhead", accelerate.Config{Compile: accelerate.ReduceOverhead}, func(s ort.SessionConfig) bool { return s.Spin == ort.SpinOn }},
		{"arena", accelerate.Config{Arena: new(false)}, func(s ort.SessionConfig) bool { return s.NoArena }},
		{"session_entries", accelerate.Config{SessionEntries: map[string]string{"session.disable_prepacking": "1"}}, func(s ort.SessionConfig) bool {
			return s.ConfigEntries["session.disable_prepacking"] == "1"
		}},
	} {
		for on, conf := range map[bool]accelerate.Config{false: {}, true: c.conf} {
			p, err := accelerate.Prepare(t.Context(), quick, conf, accelerate.Events{})
			require.NoError(t, err, c.option)
			require.Equal(t, on, c.fact(runner.SessionConfig(p.Options)), c.option)
		}
	}
}

// TestStoredGraph holds that ONNX Runtime's optimised graph is made once, with the weights where they were, and gives what
// the model gives.
func TestStoredGraph(t *testing.T) {
	root := ownCache(t)
	open(t, quick, accelerate.Config{Compile: accelerate.CompileOff})
	require.NoDirExists(t, filepath.Join(root, "sessions"))
	for _, c := range []struct {
		why       string
		precision accelerate.Precision // in fp32, the kernels of all CPUs pack their weights
		prepack   bool
	}{{"optimised", accelerate.Int4, false}, {"packed weights too", accelerate.Int4, true}, {"in fp32", accelerate.None, false}, {"packed in fp32", accelerate.None, true}} {
		conf := accelerate.Config{Precision: c.precision, Compile: accelerate.CompileOff}
		off := open(t, quick, conf)
		conf.Compile, conf.PrepackWeights, conf.Strict = accelerate.CompileDefault, c.prepack, true
		m := open(t, quick, conf)
		require.InDeltaSlice(t, logits(t, off, 5, 6, 7), logits(t, m, 5, 6, 7), 1e-3, c.why)
		dir := strings.TrimPrefix(outcome(t, m, "compile").Fact, "optimised graph loaded from ")
		before, err := os.Stat(filepath.Join(dir, "model.onnx"))
		require.NoError(t, err)
		open(t, quick, conf)
		after, err := os.Stat(filepath.Join(dir, "model.onnx"))
		require.NoError(t, err)
		require.True(t, os.SameFile(before, after), "it is not made again")
		require.Equal(t, c.prepack, outcome(t, m, "prepack_weights").Applied == "true", c.why)
		data, err := os.Stat(filepath.Join(dir, "model.onnx.data"))
		require.NoError(t, err)
		original, err := os.Stat(m.Info().Model.File + ".data")
		require.NoError(t, err)
		require.Equal(t, !c.prepack, os.SameFile(data, original), "weights are linked, not copied, unless they are packed")
		if c.precision == accelerate.None {
			graph, err := os.ReadFile(filepath.Join(dir, "model.onnx"))
			require.NoError(t, err)
			packed := bytes.Count(graph, []byte("prepacked_0")) // a key of ONNX Runtime's in an initializer's external_data
			require.Equal(t, c.prepack, packed == countOperators(t, m)["MatMul"]+countOperators(t, m)["com.microsoft.FusedMatMul"], "%s: %d", c.why, packed)
			require.Equal(t, c.prepack, data.Size() > original.Size(), c.why)
		}
	}
}

// TestMadeFolder holds that a folder that is made already opens, and what it cannot be made into is reported or refused.
func TestMadeFolder(t *testing.T) {
	ownCache(t)
	folder := out(t, "int8")
	_, err := accelerate.Build(t.Context(), quick, folder, accelerate.Config{Precision: accelerate.Int8}, accelerate.Events{})
	require.NoError(t, err)
	from := accelerate.Source{Dir: folder.Dir}
	ask := accelerate.Config{Precision: accelerate.Int4, Attention: accelerate.Plain, KV: accelerate.KVFP16, Threads: 1}
	m := open(t, from, ask)
	for option, applied := range map[string]string{"precision": "int8", "attention": "flash", "kv": "fp32"} {
		o := outcome(t, m, option)
		require.Equal(t, applied, o.Applied, option)
		require.NotEmpty(t, o.Reason, option)
	}
	require.Empty(t, outcome(t, m, "threads").Reason)
	require.Equal(t, "on", outcome(t, m, "spin").Applied)
	ask.Strict = true
	_, err = accelerate.Open(t.Context(), from, ask, accelerate.Events{})
	require.ErrorIs(t, err, accelerate.ErrNotApplied)
	for _, part := range []string{"precision int4", "attention plain", "kv fp16"} {
		require.ErrorContains(t, err, part, "all at once")
	}
}

// TestMadeOptions holds that options which nothing of the open model shows are compared with the folder's manifest.
func TestMadeOptions(t *testing.T) {
	ownCache(t)
	folder := out(t, "int4")
	checkpoint := accelerate.Source{Dir: carried}
	conf := accelerate.Config{Precision: accelerate.Int4, Scale: quantize.ScaleMax, Disable: []string{"silu"}, KV: accelerate.KVInt8, Calibration: few}
	_, err := accelerate.Build(t.Context(), checkpoint, folder, conf, accelerate.Events{})
	require.NoError(t, err)
	from := accelerate.Source{Dir: folder.Dir}
	for _, c := range []struct {
		option, applied string
		same            bool
		ask             accelerate.Config
	}{
		{"scale", "max", true, accelerate.Config{Scale: quantize.ScaleMax}},
		{"scale", "max", false, accelerate.Config{Scale: quantize.ScaleMSE}},
		{"symmetric", "true", true, accelerate.Config{Symmetric: new(true)}},
		{"symmetric", "true", false, accelerate.Config{Symmetric: new(false)}},
		{"disable", "silu", true, accelerate.Config{Disable: []string{"silu"}}},
		{"disable", "silu", false, accelerate.Config{Disable: []string{"rmsnorm"}}},
		{"rules", "none", false, accelerate.Config{Rules: []quantize.Rule{{Match: "*head*", Precision: quantize.Int8}}}},
		{"target_bits", "none", false, accelerate.Config{TargetBits: 4.5}},
		{"kv_scales", "channel", true, accelerate.Config{KV: accelerate.KVInt8, KVScales: accelerate.ChannelScales}},
		{"kv_scales", "channel", false, accelerate.Config{KV: accelerate.KVInt8, KVScales: accelerate.TensorScales}},
		{"calibration", "unknown", false, accelerate.Config{KV: accelerate.KVInt8, Calibration: accelerate.Calibration{Seed: 1}}},
		{"calibration", "none", false, accelerate.Config{Calibration: few}},
		{"narrow_logits", "none", false, accelerate.Config{NarrowLogits: true}},
		{"target", "cpu", true, accelerate.Config{Target: "cpu"}},
	} {
		o := outcome(t, open(t, from, c.ask), c.option)
		require.Equal(t, c.applied, o.Applied, c.option)
		require.Equal(t, c.same, o.Reason == "", "%s: %s", c.option, o.Reason)
		require.NotEmpty(t, o.Requested, c.option)
		c.ask.Strict = true
		_, err := accelerate.Open(t.Context(), from, c.ask, accelerate.Events{})
		if !c.same {
			require.ErrorIs(t, err, accelerate.ErrNotApplied, c.option)
			require.ErrorContains(t, err, c.option)
			continue
		}
		require.NoError(t, err, c.option)
	}
	conf.Strict = true
	m := open(t, checkpoint, conf)
	require.Equal(t, "the model was made with it", outcome(t, m, "calibration").Fact, "of a checkpoint anything can be made")
}

func TestHugePages(t *testing.T) {
	ownCache(t)
	for _, c := range []struct {
		why  string
		conf accelerate.Config
		want bool
	}{
		{"the default", accelerate.Config{}, true},
		{"off", accelerate.Config{HugePages: new(false)}, false},
		{"weights are mapped from disk", accelerate.Config{PrepackWeights: true}, false},
		{"and yet", accelerate.Config{PrepackWeights: true, HugePages: new(true)}, true},
	} {
		p, err := accelerate.Prepare(t.Context(), quick, c.conf, accelerate.Events{})
		require.NoError(t, err, c.why)
		require.Equal(t, c.want, runner.SessionConfig(p.Options).HugePages, c.why)
	}
}

func TestDevices(t *testing.T) {
	ownCache(t)
	require.NoError(t, ort.Init(ort.Environment{}))
	m := open(t, quick, accelerate.Config{Device: accelerate.Auto, Strict: true})
	require.NotEmpty(t, outcome(t, m, "device").Applied)
	_, err := accelerate.Open(t.Context(), quick, accelerate.Config{Device: "NoSuchProvider"}, accelerate.Events{})
	require.ErrorIs(t, err, ort.ErrProvider)
	require.ErrorContains(t, err, "CPUExecutionProvider", "it lists what this library has")
	_, err = accelerate.Open(t.Context(), quick, accelerate.Config{Device: "Mine", ProviderLibrary: filepath.Join(t.TempDir(), "absent.so")}, accelerate.Events{})
	require.ErrorIs(t, err, ort.ErrProvider)
	require.ErrorContains(t, err, "absent.so")
}

// TestCUDA runs where there is an NVIDIA device and a library that has its provider: logits in float16 are those of the
// CPU in float32, and attention is fused.
func TestCUDA(t *testing.T) {
	ownCache(t)
	require.NoError(t, ort.Init(ort.Environment{}))
	if err := ort.Probe(ort.Provider{Name: "cuda"}); err != nil {
		t.Skipf("no session on CUDA, which needs an NVIDIA device, its driver, and a library with the provider (go run ./scripts/native install --cuda): %v", err)
	}
	want := logits(t, open(t, quick, accelerate.Config{Precision: accelerate.None, Device: accelerate.CPU}), 1, 2, 3)
	m := open(t, quick, accelerate.Config{Precision: accelerate.None, Device: accelerate.CUDA, Strict: true})
	require.Equal(t, "cuda", outcome(t, m, "device").Applied)
	require.Positive(t, countOperators(t, m)["com.microsoft.GroupQueryAttention"])
	require.InDeltaSlice(t, want, logits(t, m, 1, 2, 3), 0.05)
}

func TestAutotuneProfile(t *testing.T) {
	ownCache(t)
	conf := accelerate.Config{Compile: accelerate.MaxAutotune, BlockSize: 16}
	require.Contains(t, outcome(t, open(t, quick, conf), "compile").Reason, "has not been tuned")

	m := open(t, quick, accelerate.Config{})
	source, err := accelerate.Source{Dir: m.Info().Model.File}.Hash()
	require.NoError(t, err)
	_, err = accelerate.ReadProfile(source)
	require.ErrorIs(t, err, fs.ErrNotExist)
	p := accelerate.Profile{Model: source, Config: accelerate.Config{Threads: 1, PrefillChunk: 31, BlockSize: 64}}
	_, err = p.Write()
	require.NoError(t, err)
	tuned := open(t, quick, conf)
	require.Empty(t, outcome(t, tuned, "compile").Reason)
	require.Equal(t, "31", outcome(t, tuned, "prefill_chunk").Applied)
	require.Equal(t, "16", outcome(t, tuned, "block_size").Applied, "what is said counts more")
	read, err := accelerate.ReadProfile(source)
	require.NoError(t, err)
	require.Equal(t, p.Config, read.Config)
}

// TestReconfigure holds that generations finish on the set-up that they began with, and that a set-up that fails changes
// nothing.
func TestReconfigure(t *testing.T) {
	ownCache(t)
	m := open(t, quick, accelerate.Config{Precision: accelerate.None})
	before := use(t, m)
	ask := runner.Request{Tokens: []int32{1, 2, 3}, MaxTokens: 40, IgnoreEOS: true}
	tokens, changed := 0, false
	for ev, err := range m.Generate(t.Context(), ask) {
		require.NoError(t, err)
		if ev.Token >= 0 {
			tokens++
		}
		if tokens == 5 && !changed {
			changed = true
			require.NoError(t, m.Reconfigure(t.Context(), accelerate.Config{Precision: accelerate.Int4, Threads: 1}))
			require.NotSame(t, before, use(t, m))
			require.Equal(t, "int4", outcome(t, m, "precision").Applied)
		}
	}
	require.Equal(t, 40, tokens)

	now := use(t, m)
	for _, c := range []struct {
		why  string
		conf accelerate.Config
		ctx  func() context.Context
	}{
		{"invalid", accelerate.Config{Threads: -1}, t.Context},
		{"no such device", accelerate.Config{Device: "NoSuchProvider"}, t.Context},
		{"cancelled", accelerate.Config{BlockSize: 64}, func() context.Context {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			return ctx
		}},
	} {
		require.Error(t, m.Reconfigure(c.ctx(), c.conf), c.why)
		require.Same(t, now, use(t, m), c.why)
	}
}

// A set-up that nobody uses any more is closed, and not kept in memory beside the next one.
func TestReconfigureClosesTheOld(t *testing.T) {
	ownCache(t)
	m := open(t, quick, accelerate.Config{})
	old, release, err := m.Use()
	require.NoError(t, err)
	release()
	require.NoError(t, m.Reconfigure(t.Context(), accelerate.Config{Threads: 1}))
	_, _, err = old.Text(t.Context(), runner.Request{Tokens: []int32{1}, MaxTokens: 1})
	require.ErrorIs(t, err, runner.ErrClosed)
}

// TestReconfigureChecks holds that a set-up which opens, and gives no numbers, does not take the place of one that works.
func TestReconfigureChecks(t *testing.T) {
	ownCache(t)
	checkpoint := accelerate.Source{Dir: filepath.Join(t.TempDir(), "checkpoint")}
	require.NoError(t, os.CopyFS(checkpoint.Dir, os.DirFS(quick.Dir)))
	m := open(t, checkpoint, accelerate.Config{Precision: accelerate.None})
	before := use(t, m)
	weights := filepath.Join(checkpoint.Dir, "model.safetensors")
	b, err := os.ReadFile(weights)
	require.NoError(t, err)
	for i := 8 + int(binary.LittleEndian.Uint64(b)); i < len(b); i++ { // behind the header
		b[i] = 0xff // with another beside it, NaN in bfloat16
	}
	require.NoError(t, os.WriteFile(weights, b, 0o666))
	err = m.Reconfigure(t.Context(), accelerate.Config{Precision: accelerate.None})
	require.ErrorContains(t, err, "the new set-up does not run: logit 0 is not a number")
	require.Same(t, before, use(t, m))
	require.Len(t, logits(t, m, 1), use(t, m).Info().Vocabulary)
}

// A model that is closed while it is changed stays closed.
func TestClosedWhileReconfigured(t *testing.T) {
	ownCache(t)
	var m *accelerate.Model // once it is open
	m, err := accelerate.Open(t.Context(), quick, accelerate.Config{}, accelerate.Events{Built: func(*accelerate.Report) {
		if m != nil {
			require.NoError(t, m.Close())
		}
	}})
	require.NoError(t, err)
	require.ErrorIs(t, m.Reconfigure(t.Context(), accelerate.Config{BlockSize: 64}), runner.ErrClosed)
	_, _, err = m.Use()
	require.ErrorIs(t, err, runner.ErrClosed)
}

func TestClosedModel(t *testing.T) {
	ownCache(t)
	m := open(t, quick, accelerate.Config{})
	r, release, err := m.Use()
	require.NoError(t, err)
	require.NoError(t, m.Close())
	require.NoError(t, m.Close(), "twice")
	_, _, err = r.Text(t.Context(), runner.Request{Tokens: []int32{1}, MaxTokens: 1})
	require.NoError(t, err, "who uses it goes on")
	release()
	_, _, err = r.Text(t.Context(), runner.Request{Tokens: []int32{1}, MaxTokens: 1})
	require.ErrorIs(t, err, runner.ErrClosed, "the last one has closed it")
	_, _, err = m.Use()
	require.ErrorIs(t, err, runner.ErrClosed)
	require.ErrorIs(t, m.Reconfigure(t.Context(), accelerate.Config{}), runner.ErrClosed)
	for _, err := range m.Generate(t.Context(), runner.Request{Tokens: []int32{1}}) {
		require.ErrorIs(t, err, runner.ErrClosed)
	}
}
