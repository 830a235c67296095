package folder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func manifest() *Manifest {
	return &Manifest{
		Source: Source{Name: "Qwen/Qwen3-0.6B", Hash: "sha256:00"},
		Steps: []Step{
			{Command: "export", Options: map[string]string{"dtype": "fp32"}},
			{Command: "optimize", Options: map[string]string{"target": "cpu", "a": "<b>"}, Passes: []Pass{{"rmsnorm", 113}, {"attention", 28}}},
		},
		Quantization: []QuantizedTensor{{Name: "lm_head.weight", Method: "rtn", Bits: 4, BlockSize: 32}},
		KVCache:      KVCache{DType: "float32"},
		Versions:     Versions{Qwenrt: "0.1.0", Opset: 21, IR: 10},
	}
}

const manifestText = `{
  "schema": 1,
  "source": {
    "name": "Qwen/Qwen3-0.6B",
    "hash": "sha256:00"
  },
  "steps": [
    {
      "command": "export",
      "options": {
        "dtype": "fp32"
      }
    },
    {
      "command": "optimize",
      "options": {
        "a": "<b>",
        "target": "cpu"
      },
      "passes": [
        {
          "name": "rmsnorm",
          "count": 113
        },
        {
          "name": "attention",
          "count": 28
        }
      ]
    }
  ],
  "quantization": [
    {
      "name": "lm_head.weight",
      "method": "rtn",
      "bits": 4,
      "block_size": 32,
      "symmetric": false
    }
  ],
  "kv_cache": {
    "dtype": "float32"
  },
  "versions": {
    "qwenrt": "0.1.0",
    "opset": 21,
    "ir": 10
  }
}
`

// The text is part of the interface: other programs read it, and it must not change by itself.
func TestManifestText(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, manifest().Write(dir))
	data, err := os.ReadFile(filepath.Join(dir, ManifestName))
	require.NoError(t, err)
	require.Equal(t, manifestText, string(data))

	got, err := ReadManifest(dir)
	require.NoError(t, err)
	want := manifest()
	want.Schema = 1
	require.Equal(t, want, got)
}

func TestReadManifestErrors(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadManifest(dir)
	require.ErrorIs(t, err, ErrNoManifest)
	for _, c := range []struct{ name, content, want string }{
		{"later, in a form that this version cannot know", `{"schema": 2, "steps": "many"}`, "schema 2: written by a later qwenrt"},
		{"no version", `{"steps": []}`, "schema is 0, want 1 to 1"},
		{"cut off", manifestText[:100], "unexpected end of JSON input"},
		{"other types", `{"schema": 1, "steps": {}}`, "cannot unmarshal object"},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestName), []byte(c.content), 0o600))
		_, err := ReadManifest(dir)
		require.ErrorContains(t, err, c.want, c.name)
		require.ErrorContains(t, err, "folder: "+filepath.Join(dir, ManifestName))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestName), []byte(`{"schema": 2}`), 0o600))
	_, err = ReadManifest(dir)
	require.ErrorIs(t, err, ErrNewer)
}
