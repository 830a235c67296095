package safetensors_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.safetensors")
	entries := []safetensors.Entry{
		{Name: "wide", DType: safetensors.F32, Shape: []int64{2, 3}},
		{Name: `quo"ted <é>`, DType: safetensors.BF16},
		{Name: "empty", DType: safetensors.U8, Shape: []int64{0, 7}},
	}
	content := map[string][]byte{"wide": bytes.Repeat([]byte{1}, 24), `quo"ted <é>`: {2, 3}, "empty": {}}
	fill := func(name string, w io.Writer) error {
		for _, b := range content[name] { // in pieces: a tensor need not fit memory
			if _, err := w.Write([]byte{b}); err != nil {
				return err
			}
		}
		return nil
	}
	for range 2 { // the second time over the first
		require.NoError(t, safetensors.Create(path, entries, fill))
	}
	ckpt, err := safetensors.OpenFile(path)
	require.NoError(t, err)
	defer ckpt.Close()
	require.Equal(t, "pt", ckpt.Metadata()["format"])
	for _, e := range entries {
		tensor, ok := ckpt.Tensor(e.Name)
		require.True(t, ok, e.Name)
		require.Equal(t, e.DType, tensor.DType)
		require.Equal(t, append([]int64{}, e.Shape...), tensor.Shape)
		require.Equal(t, content[e.Name], append([]byte{}, tensor.Bytes()...))
	}
}

func TestCreateLeavesNothingBehind(t *testing.T) {
	u8 := func(name string, shape ...int64) safetensors.Entry {
		return safetensors.Entry{Name: name, DType: safetensors.U8, Shape: shape}
	}
	full := errors.New("disk full")
	tests := []struct {
		why     string
		entries []safetensors.Entry
		fill    func(string, io.Writer) error
		want    string
	}{
		{"fill fails", []safetensors.Entry{u8("a", 1)}, func(string, io.Writer) error { return full }, "disk full"},
		{"fill writes too little", []safetensors.Entry{u8("a", 2)},
			func(_ string, w io.Writer) error { _, err := w.Write([]byte{1}); return err }, "1 of 2 bytes were not written"},
		{"fill writes too much", []safetensors.Entry{u8("a", 1), u8("b", 1)},
			func(_ string, w io.Writer) error { _, err := w.Write([]byte{1, 2}); return err }, "1 bytes too many"},
		{"a name twice", []safetensors.Entry{u8("a", 1), u8("a", 1)}, nil, "the name is taken"},
		{"the reserved name", []safetensors.Entry{u8("__metadata__", 1)}, nil, "the name is taken"},
		{"unknown dtype", []safetensors.Entry{{Name: "a", DType: "Q4"}}, nil, "unknown dtype"},
		{"negative dimension", []safetensors.Entry{u8("a", -1)}, nil, "negative"},
		{"sizes that overflow together", []safetensors.Entry{u8("a", 1<<60), u8("b", 1<<60), u8("c", 1<<60), u8("d", 1<<60),
			u8("e", 1<<60), u8("f", 1<<60), u8("g", 1<<60), u8("h", 1<<60)}, nil, "exceed"},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			dir := t.TempDir()
			err := safetensors.Create(filepath.Join(dir, "x.safetensors"), test.entries, test.fill)
			requireOneLine(t, err)
			require.ErrorContains(t, err, test.want)
			left, err := os.ReadDir(dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}
