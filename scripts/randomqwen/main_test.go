package main

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

const tokenizerDir = "../../models/tiny/qwen3-tiny"

// The parameter counts that the hub shows for Qwen/Qwen3-* (tied heads counted once): a wrong dimension in
// the table of sizes would go unnoticed otherwise, and every figure measured on it would be of another model.
func TestParameters(t *testing.T) {
	for name, want := range map[string]int64{
		"0.6B": 596_049_920,
		"1.7B": 1_720_574_976,
		"4B":   4_022_468_096,
		"8B":   8_190_735_360,
		"14B":  14_768_307_200,
		"32B":  32_762_123_264,
	} {
		require.Equal(t, want, sizes[name].parameters(), name)
	}
}

func TestTiny(t *testing.T) {
	write := func(seed string) string {
		dir := t.TempDir()
		require.NoError(t, run([]string{"-size", "tiny", "-o", dir, "-seed", seed, "-tokenizer", tokenizerDir}, io.Discard, io.Discard))
		return dir
	}
	dir := write("1")

	t.Run("tensors are those of the carried model", func(t *testing.T) {
		got, err := safetensors.Open(dir)
		require.NoError(t, err)
		defer got.Close()
		want, err := safetensors.Open(tokenizerDir)
		require.NoError(t, err)
		defer want.Close()
		require.ElementsMatch(t, want.Names(), got.Names())
		for _, name := range want.Names() {
			w, _ := want.Tensor(name)
			g, _ := got.Tensor(name)
			require.Equal(t, w.Shape, g.Shape, name)
			require.Equal(t, w.DType, g.DType, name)
		}
	})

	t.Run("weights are normal", func(t *testing.T) {
		c, err := safetensors.Open(dir)
		require.NoError(t, err)
		defer c.Close()
		for name, want := range map[string][2]float64{
			"model.layers.3.mlp.up_proj.weight": {0, stdDev},
			"model.norm.weight":                 {1, normStdDev},
		} {
			tensor, ok := c.Tensor(name)
			require.True(t, ok)
			mean, deviation := moments(tensor.Bytes())
			require.InDelta(t, want[0], mean, want[1]/3, name)
			require.InDelta(t, want[1], deviation, want[1]/5, name)
		}
	})

	t.Run("the seed decides", func(t *testing.T) {
		read := func(dir string) []byte {
			data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
			require.NoError(t, err)
			return data
		}
		first := read(dir)
		require.Equal(t, first, read(write("1")))
		require.NotEqual(t, first, read(write("2")))
	})
}

// The sharded sizes are too large to write in a test, so their files are sparse.
func TestSparseShards(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, run([]string{"-size", "8B", "-sparse", "-o", dir, "-tokenizer", tokenizerDir}, io.Discard, io.Discard))
	c, err := safetensors.Open(dir)
	require.NoError(t, err)
	defer c.Close()
	require.Len(t, c.Files(), 5)
	require.Len(t, c.Names(), 36*11+3)
	head, ok := c.Tensor("lm_head.weight")
	require.True(t, ok)
	require.Equal(t, []int64{151936, 4096}, head.Shape)
}

// Qwen3's special tokens must have Qwen3's ids, and every id below them some text.
func TestTokenizer(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, writeTokenizer(tokenizerDir, dir, sizes["0.6B"]))

	var file tokenizerFile
	require.NoError(t, readJSON(filepath.Join(dir, "tokenizer.json"), &file))
	require.Len(t, file.Model["vocab"], 151643)
	require.Equal(t, "<|im_end|>", file.AddedTokens[2]["content"])
	require.Equal(t, 151645.0, file.AddedTokens[2]["id"])
	require.NotEmpty(t, file.Model["merges"])

	var config struct {
		Template string                     `json:"chat_template"`
		Added    map[string]json.RawMessage `json:"added_tokens_decoder"`
	}
	require.NoError(t, readJSON(filepath.Join(dir, "tokenizer_config.json"), &config))
	require.NotEmpty(t, config.Template)
	require.Contains(t, string(config.Added["151645"]), "<|im_end|>")
}

func TestRefuses(t *testing.T) {
	for why, args := range map[string][]string{
		"-size":               {"-size", "7B", "-o", t.TempDir()},
		"-o is missing":       {},
		"unexpected argument": {"-o", t.TempDir(), "0.6B"},
		"no such file":        {"-o", t.TempDir(), "-tokenizer", t.TempDir()},
	} {
		require.ErrorContains(t, run(args, io.Discard, io.Discard), why)
	}
}

// moments returns the mean and the standard deviation of bf16 values.
func moments(data []byte) (mean, deviation float64) {
	n := float64(len(data) / 2)
	for i := 0; i < len(data); i += 2 {
		v := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(data[i:])) << 16))
		mean += v / n
		deviation += v * v / n
	}
	return mean, math.Sqrt(deviation - mean*mean)
}
