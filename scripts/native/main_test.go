package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRunUsage(t *testing.T) {
	t.Setenv("QWENRT_NATIVE_DIR", t.TempDir())
	tests := []struct {
		name   string
		args   []string
		stderr string
	}{
		{"no command", nil, "usage:"},
		{"unknown command", []string{"instal"}, `unknown command "instal"`},
		{"unknown flag", []string{"env", "--gpu"}, "gpu"},
		{"argument where none is taken", []string{"env", "cuda"}, `no argument "cuda"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			require.ErrorIs(t, run(t.Context(), test.args, &stdout, &stderr), errUsage)
			require.Contains(t, stderr.String(), test.stderr)
			require.Empty(t, stdout.String(), "standard output is evaluated by a shell")
		})
	}
}

// With both libraries at hand nothing is fetched: PATH is empty, so trying to would fail.
func TestEnvWithTheUsersLibraries(t *testing.T) {
	noPrograms(t)
	own := t.TempDir()
	ort := filepath.Join(own, "libonnxruntime.so")
	require.NoError(t, os.WriteFile(ort, nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(own, tokenizersLibrary), nil, 0o644))
	t.Setenv("QWENRT_NATIVE_DIR", t.TempDir())
	t.Setenv("QWENRT_ORT_LIB", ort)
	t.Setenv("QWENRT_TOKENIZERS_LIB", own)
	t.Setenv("CGO_LDFLAGS", "")

	var stdout, stderr bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"env"}, &stdout, &stderr))
	require.Equal(t, "export CGO_LDFLAGS='-L"+own+"'\nexport QWENRT_ORT_LIB='"+ort+"'\n", stdout.String())
	require.Empty(t, stderr.String())

	stdout.Reset()
	require.NoError(t, run(t.Context(), []string{"status"}, &stdout, &stderr))
	require.Contains(t, stdout.String(), ort)
}

func TestStatusOfAnEmptyStore(t *testing.T) {
	t.Setenv("QWENRT_NATIVE_DIR", t.TempDir())
	t.Setenv("QWENRT_ORT_LIB", "")
	t.Setenv("QWENRT_TOKENIZERS_LIB", "")
	set, err := choose(store{t.TempDir()}, "linux-amd64", false)
	require.NoError(t, err)
	var stdout bytes.Buffer
	require.ErrorContains(t, set.status(store{t.TempDir()}, &stdout), "run native install")
	require.Contains(t, stdout.String(), "onnxruntime "+ortVersion)
	require.Contains(t, stdout.String(), "not installed")
}

func TestChoose(t *testing.T) {
	st := store{t.TempDir()}
	own := filepath.Join(t.TempDir(), "own.so")
	require.NoError(t, os.WriteFile(own, nil, 0o644))
	tests := []struct {
		name, platform string
		cuda           bool
		ort, tok       string // environment
		wantORT        string // path, or
		wantErr        string
	}{
		{name: "pinned", platform: "linux-amd64",
			wantORT: filepath.Join(st.root, "onnxruntime-1.32.0-linux-amd64", "libonnxruntime.so.1.32.0")},
		{name: "macOS names versions before the suffix", platform: "darwin-arm64",
			wantORT: filepath.Join(st.root, "onnxruntime-1.32.0-darwin-arm64", "libonnxruntime.1.32.0.dylib")},
		{name: "CUDA lies beside the CPU build", platform: "linux-amd64", cuda: true,
			wantORT: filepath.Join(st.root, "onnxruntime-gpu-1.31.1-linux-amd64", "libonnxruntime.so.1.31.1")},
		{name: "no CUDA on macOS", platform: "darwin-arm64", cuda: true, wantErr: "QWENRT_ORT_LIB"},
		{name: "unknown platform", platform: "plan9-386", wantErr: "QWENRT_ORT_LIB"},
		{name: "tokenizers are not built on Windows", platform: "windows-amd64", wantErr: "QWENRT_TOKENIZERS_LIB"},
		{name: "the user's own library", platform: "plan9-386", ort: own, wantORT: own},
		{name: "left by an env of an older version", platform: "linux-amd64",
			ort:     filepath.Join(st.root, "onnxruntime-1.0.0-linux-amd64", "libonnxruntime.so.1.0.0"),
			wantORT: filepath.Join(st.root, "onnxruntime-1.32.0-linux-amd64", "libonnxruntime.so.1.32.0")},
		{name: "library absent", platform: "linux-amd64", ort: own + ".none", wantErr: "does not exist"},
		{name: "the folder of a library, as package ort takes it", platform: "linux-amd64", ort: filepath.Dir(own), wantORT: filepath.Dir(own)},
		{name: "file given for the folder", platform: "linux-amd64", tok: own, wantErr: "holds no libtokenizers.a"},
		{name: "both wrong: both are named", platform: "linux-amd64", ort: own + ".none", tok: own, wantErr: "QWENRT_TOKENIZERS_LIB"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Setenv("QWENRT_ORT_LIB", test.ort)
			t.Setenv("QWENRT_TOKENIZERS_LIB", test.tok)
			set, err := choose(st, test.platform, test.cuda)
			if test.wantErr != "" {
				require.ErrorContains(t, err, test.wantErr)
				return
			}
			require.NoError(t, err)
			require.Equal(t, test.wantORT, set.ort.path)
		})
	}
}
