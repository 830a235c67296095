package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/cpuid/v2"
	"github.com/stretchr/testify/require"
)

func TestDoctor(t *testing.T) {
	need(t)
	table := qwenrt(t, "doctor")
	require.Equal(t, exitOK, table.code, table.stderr)
	for _, name := range []string{"onnxruntime", "providers", "CPUExecutionProvider", "cpu features", "threads", "memory", "model cache", "disk"} {
		require.Contains(t, table.stdout, name)
	}
	r := qwenrt(t, "doctor", "-o", "json")
	require.Equal(t, exitOK, r.code)
	var findings []finding
	require.NoError(t, json.Unmarshal([]byte(r.stdout), &findings))
	require.NotEmpty(t, findings)
	for _, f := range findings {
		require.NotEmpty(t, f.Value, f.Name)
		require.NotEqual(t, missing, f.Status, f.Name)
	}
}

// TestMissingLibrary needs a process: one that has loaded ONNX Runtime keeps it.
func TestMissingLibrary(t *testing.T) {
	ownHome(t)
	t.Setenv("QWENRT_ORT_LIB", filepath.Join(t.TempDir(), "nothing"))
	for _, c := range []struct {
		args []string
		out  bool // the message is the report, on standard output
	}{{[]string{"doctor"}, true}, {[]string{"run", "qwen3-tiny", "-p", "x"}, false}} {
		cmd := command(t, c.args...)
		output, err := cmd.Output()
		require.Error(t, err)
		require.Equal(t, exitError, cmd.ProcessState.ExitCode())
		said := string(output)
		if !c.out {
			said = stderrOf(t, err)
		}
		require.Contains(t, said, "make native", "it says what to do")
	}
}

func TestExamineFeatures(t *testing.T) {
	has := func(ids ...cpuid.FeatureID) func(cpuid.FeatureID) bool {
		return func(id cpuid.FeatureID) bool { return slices.Contains(ids, id) }
	}
	for _, c := range []struct {
		why, arch string
		has       func(cpuid.FeatureID) bool
		value     string
		status    status
	}{
		{"a server", "amd64", has(cpuid.AVX2, cpuid.AVX512F, cpuid.AVX512VNNI, cpuid.AMXINT8), "AVX2 AVX-512 AVX-512-VNNI AMX-INT8", good},
		{"a virtual machine that hides its CPU", "amd64", has(), "none of those that kernels use", warning},
		{"an Apple M1", "arm64", has(cpuid.ASIMD, cpuid.ASIMDDP), "NEON DotProd", good},
		{"a Raspberry Pi 4", "arm64", has(cpuid.ASIMD), "NEON", warning},
		{"an architecture that nothing is known of", "riscv64", has(), "none of those that kernels use", good},
	} {
		f := examineFeatures(c.arch, c.has)
		require.Equal(t, c.value, f.Value, c.why)
		require.Equal(t, c.status, f.Status, c.why)
		require.Equal(t, c.status == good, f.Remedy == "", c.why)
	}
}

func TestMemoryText(t *testing.T) {
	require.Equal(t, "unknown", memoryText(memory{}))
	require.Equal(t, "8.00 GB", memoryText(memory{total: 8e9}))
	require.Equal(t, "8.00 GB, 2.00 GB available, limited to 1.00 GB by a control group",
		memoryText(memory{total: 8e9, available: 2e9, limit: 1e9}))
}

func TestCacheSize(t *testing.T) {
	dir := t.TempDir()
	models, size := cacheSize(filepath.Join(dir, "absent"))
	require.Zero(t, models)
	require.Zero(t, size)
	for _, name := range []string{"a/model.onnx", "b/model.onnx", ".b.qwenrt-1/model.onnx"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, 10), 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "a.lock"), nil, 0o666))
	models, size = cacheSize(dir)
	require.Equal(t, 2, models)
	require.EqualValues(t, 30, size)
}
