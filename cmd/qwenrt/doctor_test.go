package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/machine"
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
	require.Equal(t, finding{"cpu features", "AVX2 AMX-INT8", good, ""}, examineFeatures([]string{"AVX2", "AMX-INT8"}, true))
	require.Equal(t, "none of those that kernels use", examineFeatures(nil, true).Value)
	f := examineFeatures([]string{"NEON"}, false)
	require.Equal(t, warning, f.Status)
	require.NotEmpty(t, f.Remedy)
}

func TestMemoryText(t *testing.T) {
	require.Equal(t, "unknown", memoryText(machine.Memory{}))
	require.Equal(t, "8.00 GB", memoryText(machine.Memory{Total: 8e9}))
	require.Equal(t, "8.00 GB, 2.00 GB available, limited to 1.00 GB by a control group",
		memoryText(machine.Memory{Total: 8e9, Available: 2e9, Limit: 1e9}))
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
