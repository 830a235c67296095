package folder

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// touch makes empty files, with the folders that they are in.
func touch(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
}

// The repositories of onnx-community have their graphs in a folder onnx, and everything else above it.
func TestGraphFolder(t *testing.T) {
	for _, c := range []struct {
		why    string
		files  []string
		arg    string
		model  string
		config string
	}{
		{"model.onnx of several", []string{"config.json", "onnx/model.onnx", "onnx/model_q4.onnx"}, ".", "onnx/model.onnx", "."},
		{"by its name", []string{"config.json", "onnx/model.onnx", "onnx/model_q4.onnx"}, "onnx/model_q4.onnx", "onnx/model_q4.onnx", "."},
		{"the folder of graphs", []string{"config.json", "onnx/model.onnx"}, "onnx", "onnx/model.onnx", "."},
		{"a graph at the top comes first", []string{"config.json", "model.onnx", "onnx/model.onnx"}, ".", "model.onnx", "."},
		{"configuration beside the graph comes first", []string{"config.json", "onnx/model.onnx", "onnx/config.json"}, "onnx", "onnx/model.onnx", "onnx"},
		{"that of onnxruntime-genai too", []string{"config.json", "onnx/model.onnx", "onnx/genai_config.json"}, "onnx", "onnx/model.onnx", "onnx"},
		{"no configuration above", []string{"onnx/model.onnx"}, "onnx", "onnx/model.onnx", "onnx"},
		{"a folder of another name", []string{"config.json", "graphs/model.onnx"}, "graphs", "graphs/model.onnx", "graphs"},
	} {
		t.Run(c.why, func(t *testing.T) {
			dir := t.TempDir()
			touch(t, dir, c.files...)
			file, err := ModelFile(filepath.Join(dir, c.arg))
			require.NoError(t, err)
			require.Equal(t, filepath.Join(dir, c.model), file)
			require.Equal(t, filepath.Join(dir, c.config), ConfigDir(file))
		})
	}
	dir := t.TempDir()
	touch(t, dir, "config.json", "onnx/model_q4.onnx", "onnx/model_fp16.onnx")
	_, err := ModelFile(dir)
	require.ErrorIs(t, err, ErrNoModel)
	require.ErrorContains(t, err, "model_fp16.onnx, model_q4.onnx")

	t.Chdir(filepath.Join(dir, "onnx"))
	require.Equal(t, dir, ConfigDir("model_q4.onnx"), "a path without folders")
}
