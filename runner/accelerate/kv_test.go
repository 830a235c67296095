package accelerate_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/internal/reftest"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// few is calibration text enough for a test.
var few = accelerate.Calibration{Samples: 4, Length: 192}

// evalTokens are the first tokens of the evaluation text.
func evalTokens(t *testing.T, r *runner.Runner, n int) []int32 {
	t.Helper()
	text, err := os.ReadFile("../../models/testdata/reference/eval.txt")
	require.NoError(t, err)
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode(string(text))
	require.NoError(t, err)
	return ids[:n]
}

func openFolder(t *testing.T, dir string, chunk int) *runner.Runner {
	t.Helper()
	r, err := runner.Open(t.Context(), dir, runner.Options{PrefillChunk: chunk})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// TestKVCache quantises the KV cache of the carried model in each way: the manifest says so, predictions on another
// text are near those of the float cache, and do not depend on how tokens are cut into runs. Bounds are twice what was
// measured.
func TestKVCache(t *testing.T) {
	float := out(t, "float")
	_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, float, accelerate.Config{Precision: accelerate.None}, accelerate.Events{})
	require.NoError(t, err)
	r := openFolder(t, float.Dir, 0)
	tokens := evalTokens(t, r, 300)
	want := score(t, r, tokens)
	for _, c := range []struct {
		kv     accelerate.KVType
		scales accelerate.KVScales
		cache  folder.KVCache
		kld    float64
		chunks float64 // greatest difference of logits between one way to cut and another
	}{
		{accelerate.KVInt8, "", folder.KVCache{DType: "int8", Bits: 8, Scales: "channel"}, 4e-4, 0.02},
		{accelerate.KVInt8, accelerate.TensorScales, folder.KVCache{DType: "int8", Bits: 8, Scales: "tensor"}, 4e-4, 0.02},
		{accelerate.KVInt4, accelerate.ChannelScales, folder.KVCache{DType: "uint8", Bits: 4, Scales: "channel"}, 0.04, 0.2},
	} {
		to := out(t, string(c.kv))
		conf := accelerate.Config{Precision: accelerate.None, KV: c.kv, KVScales: c.scales, Calibration: few}
		_, err := accelerate.Quantize(t.Context(), float.Dir, to, conf, accelerate.Events{})
		require.NoError(t, err)
		m, err := folder.ReadManifest(to.Dir)
		require.NoError(t, err)
		require.Equal(t, c.cache, m.KVCache)
		require.Equal(t, string(c.kv), m.Steps[len(m.Steps)-1].Options["kv"])

		whole, chunks := openFolder(t, to.Dir, 0), openFolder(t, to.Dir, 33)
		require.Equal(t, string(c.kv), whole.Info().KVType)
		got := score(t, whole, tokens)
		vocab := whole.Info().Vocabulary
		kld := meanKL(want, got, vocab)
		t.Logf("%s %s: %.6f, chunks %.6f", c.kv, c.cache.Scales, kld, reftest.MaxError(t, score(t, chunks, tokens), got, vocab))
		require.Less(t, kld, c.kld)
		require.LessOrEqual(t, reftest.MaxError(t, score(t, chunks, tokens), got, vocab), c.chunks)
	}
}

// A cache is quantised beside weights in one step, behind the rescaling of AWQ, and behind it in a step of its own:
// the graph then holds quantised weights.
func TestKVCacheOfQuantizedModel(t *testing.T) {
	awq, cache, rtn := out(t, "awq"), out(t, "cache"), out(t, "rtn")
	c := accelerate.Config{Method: quantize.AWQ, KV: accelerate.KVInt8, Calibration: few}
	_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, awq, c, accelerate.Events{})
	require.NoError(t, err)
	_, err = accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, rtn, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	c = accelerate.Config{Precision: accelerate.None, KV: accelerate.KVInt8, Calibration: few}
	_, err = accelerate.Quantize(t.Context(), rtn.Dir, cache, c, accelerate.Events{})
	require.NoError(t, err)
	m, err := folder.ReadManifest(cache.Dir)
	require.NoError(t, err)
	require.NotEmpty(t, m.Quantization, "of the step before")

	float := openFolder(t, rtn.Dir, 0)
	tokens := evalTokens(t, float, 300)
	want := score(t, float, tokens)
	vocab := float.Info().Vocabulary
	require.Less(t, meanKL(want, score(t, openFolder(t, cache.Dir, 0), tokens), vocab), 5e-4, "it differs from its float cache by that alone")
	require.Less(t, meanKL(want, score(t, openFolder(t, awq.Dir, 0), tokens), vocab), 0.05)
}

// An open model tells the type of its cache; of a folder that is made already, that it has another.
func TestKVOutcome(t *testing.T) {
	ownCache(t)
	c := accelerate.Config{Precision: accelerate.None, Device: accelerate.CPU, KV: accelerate.KVInt8, Calibration: few}
	m := open(t, accelerate.Source{Dir: carried}, c)
	got := outcome(t, m, "kv")
	require.Equal(t, "int8", got.Applied)
	require.Empty(t, got.Reason)
	require.Contains(t, got.Fact, "int8, 4096 bytes a token", "8 layers, keys and values, 4 heads of 64")
	c.KV = accelerate.KVInt4
	got = outcome(t, open(t, accelerate.Source{Dir: use(t, m).Info().Dir}, c), "kv")
	require.Equal(t, "int8", got.Applied)
	require.NotEmpty(t, got.Reason)
}

func TestKVFaults(t *testing.T) {
	for _, c := range []struct {
		why  string
		c    accelerate.Config
		text string
	}{
		{"no type", accelerate.Config{KV: "int2"}, `kv "int2": want fp32, fp16, bf16, int8 or int4`},
		{"no operator", accelerate.Config{KV: accelerate.KVInt8, Attention: accelerate.Plain}, "kv int8 is for fused attention"},
		{"scales of nothing", accelerate.Config{KVScales: accelerate.TensorScales}, "no quantised KV cache"},
		{"no kind of scales", accelerate.Config{KV: accelerate.KVInt8, KVScales: "head"}, `kv_scales "head": want channel or tensor`},
		{"no kernel", accelerate.Config{KV: accelerate.KVInt8, DType: accelerate.FP16, Precision: accelerate.None}, "kv int8 is for dtype fp32 and target cpu"},
	} {
		require.ErrorContains(t, c.c.Validate(), c.text, c.why)
	}
	require.NoError(t, accelerate.Config{KV: "fp32"}.Validate())
	plain := out(t, "plain")
	_, err := accelerate.Export(t.Context(), accelerate.Source{Dir: carried}, plain, accelerate.Config{}, accelerate.Events{})
	require.NoError(t, err)
	to := out(t, "to")
	c := accelerate.Config{Precision: accelerate.None, KV: accelerate.KVInt8, Calibration: few}
	_, err = accelerate.Quantize(t.Context(), plain.Dir, to, c, accelerate.Events{})
	require.ErrorIs(t, err, quantize.ErrNoCache)
	require.ErrorContains(t, err, "optimize the model first")
	require.NoDirExists(t, to.Dir)
}
