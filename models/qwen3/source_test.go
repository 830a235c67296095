package qwen3

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

func TestOpenReadsGenerationConfig(t *testing.T) {
	s, err := Open(tinyModel)
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, Tokens{BOS: 8166, EOS: []int{8168, 8166}, Pad: 8166}, s.Config.Tokens,
		"config.json names one end token, generation_config.json two")
	f := s.Facts()
	require.Equal(t, 2048, f.ContextLength)
	require.True(t, f.Sampling.DoSample)
	require.Equal(t, 20, f.Sampling.TopK)

	again, err := ReadFacts(tinyModel)
	require.NoError(t, err)
	require.Equal(t, f, again)
}

func TestOpenWithoutGenerationConfig(t *testing.T) {
	f, err := ReadFacts(checkpoints + "/untied-f32")
	require.NoError(t, err)
	require.Equal(t, []int{1}, f.EOS)
	require.False(t, f.Sampling.DoSample)
	require.Equal(t, 1.0, f.Sampling.Temperature)
}

func TestOpenFS(t *testing.T) {
	const dir = checkpoints + "/tied-f16"
	mapped, err := Open(dir)
	require.NoError(t, err)
	defer mapped.Close()
	embedded, err := OpenFS(os.DirFS(dir))
	require.NoError(t, err)
	defer embedded.Close()
	require.Equal(t, modelBytes(t, mapped), modelBytes(t, embedded))
	require.Equal(t, hashOf(t, mapped), hashOf(t, embedded))
}

func modelBytes(t *testing.T, s *Source) []byte {
	t.Helper()
	m, err := s.Model(Options{})
	require.NoError(t, err)
	b, err := ir.Encode(m)
	require.NoError(t, err)
	return b
}

func hashOf(t *testing.T, s *Source) string {
	t.Helper()
	h, err := s.Hash()
	require.NoError(t, err)
	require.Regexp(t, "^sha256:[0-9a-f]{64}$", h)
	return h
}

// copyOf is a checkpoint in memory that a test may change.
func copyOf(t *testing.T, dir string) fstest.MapFS {
	t.Helper()
	files := fstest.MapFS{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		files[e.Name()] = &fstest.MapFile{Data: data}
	}
	return files
}

func openedHash(t *testing.T, files fs.FS) string {
	t.Helper()
	s, err := OpenFS(files)
	require.NoError(t, err)
	defer s.Close()
	return hashOf(t, s)
}

func TestHash(t *testing.T) {
	const dir = checkpoints + "/tied-f16"
	original := openedHash(t, copyOf(t, dir))

	changed := copyOf(t, dir)
	changed["reference.safetensors"].Data = nil
	require.Equal(t, original, openedHash(t, changed), "no part of the checkpoint")

	changed = copyOf(t, dir)
	changed["tokenizer.json"] = &fstest.MapFile{Data: []byte("{}")}
	require.NotEqual(t, original, openedHash(t, changed), "the folder made from it holds the tokenizer")

	changed = copyOf(t, dir)
	c := changed["config.json"]
	c.Data = []byte(strings.Replace(string(c.Data), "1000000", "500000", 1))
	require.NotEqual(t, original, openedHash(t, changed), "another function of the same weights")

	changed = copyOf(t, dir)
	w := changed["model.safetensors"].Data
	w[len(w)-1] ^= 1
	require.NotEqual(t, original, openedHash(t, changed), "one bit of the last weight")
}

// The same tensors in one file and in shards are the same checkpoint.
func TestHashIgnoresSharding(t *testing.T) {
	const dir = checkpoints + "/sharded-bf16"
	sharded, err := Open(dir)
	require.NoError(t, err)
	defer sharded.Close()

	joined := t.TempDir()
	config, err := os.ReadFile(filepath.Join(dir, "config.json"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(joined, "config.json"), config, 0o600))
	var entries []safetensors.Entry
	for _, name := range sharded.weights.Names() {
		tensor, _ := sharded.weights.Tensor(name)
		entries = append(entries, safetensors.Entry{Name: name, DType: tensor.DType, Shape: tensor.Shape})
	}
	writeCheckpoint(t, joined, entries, sharded.weights)
	one, err := Open(joined)
	require.NoError(t, err)
	defer one.Close()
	require.Equal(t, hashOf(t, sharded), hashOf(t, one))
}

func TestOpenErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(fstest.MapFS)
		want   string
	}{
		{"no configuration", func(f fstest.MapFS) { delete(f, "config.json") }, "qwen3: config.json: file does not exist"},
		{"no weights", func(f fstest.MapFS) { delete(f, "model.safetensors") }, "model.safetensors"},
		{"weights cut off", func(f fstest.MapFS) {
			f["model.safetensors"].Data = f["model.safetensors"].Data[:1000]
		}, "safetensors: model.safetensors: "},
		{"configuration of another size", func(f fstest.MapFS) {
			f["config.json"].Data = configWith(t, nil)
		}, "the weights do not fit config.json: model.embed_tokens.weight has shape [256 64], want [151936 1024]"},
		{"generation_config.json is broken", func(f fstest.MapFS) {
			f["generation_config.json"] = &fstest.MapFile{Data: []byte(`{"top_p": 2, "temperature": "hot", "eos_token_id": 256}`)}
		}, `qwen3: generation_config.json: temperature is "hot", want a number; top_p is 2, want more than 0, at most 1; ` +
			`eos_token_id is 256, want a token id below vocab_size 256`},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := copyOf(t, checkpoints+"/tied-f16")
			c.change(files)
			_, err := OpenFS(files)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func writeCheckpoint(t *testing.T, dir string, entries []safetensors.Entry, w Weights) {
	t.Helper()
	err := safetensors.Create(filepath.Join(dir, "model.safetensors"), entries, func(name string, out io.Writer) error {
		tensor, _ := w.Tensor(name)
		_, err := out.Write(tensor.Bytes())
		return err
	})
	require.NoError(t, err)
}
