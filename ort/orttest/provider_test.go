//go:build unix

package orttest

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

// What must not be done with a device's memory fails, in a program of its own, since
// the last of it is the end of the program.
func TestMisuse(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	source, headers, err := sources("misuse.c")
	require.NoError(t, err)
	program := filepath.Join(t.TempDir(), "misuse")
	require.NoError(t, compile(source, headers, program, "-ldl"))
	cmd := exec.Command(program, ort.LibraryPath(), Library(t))
	out, err := cmd.Output()
	lines := strings.Split(string(out), "\n")
	require.Equal(t, "the end of a block: copied", lines[0])
	for i, what := range []string{"beyond its end", "a host pointer", "freed memory"} {
		require.Regexp(t, "^"+what+": .*32 bytes at 0x[0-9a-f]+ are not in device memory that is in use$", lines[i+1])
	}
	require.Equal(t, []string{"faults: 1", "reading", ""}, lines[4:], "freed twice, and no read")
	exit, ok := errors.AsType[*exec.ExitError](err)
	require.True(t, ok, err)
	status := exit.Sys().(syscall.WaitStatus)
	require.Contains(t, []syscall.Signal{syscall.SIGSEGV, syscall.SIGBUS}, status.Signal())
}

func TestParse(t *testing.T) {
	runs, err := parse("in x 4096 1 4\nout z 8192\nend\ngraph 7\nin x 0 0\nend\n")
	require.NoError(t, err)
	require.Equal(t, []Run{
		{Inputs: map[string]Value{"x": {4096, []int64{1, 4}}}, Outputs: map[string]Value{"z": {8192, []int64{}}}},
		{Inputs: map[string]Value{"x": {0, []int64{0}}}, Outputs: map[string]Value{}, Graph: "7"},
	}, runs)
	for _, text := range []string{"in x y\n", "in x 1 y\n"} {
		_, err := parse(text)
		require.ErrorContains(t, err, "orttest: ", text)
	}
}
