//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// holding makes the test binary a command that holds memory until its input ends.
const holding = "BUILDCOST_TEST_HOLD"

// held is far above what the test binary uses by itself.
const held = 128 << 20

func TestMain(m *testing.M) {
	if os.Getenv(holding) == "" {
		os.Exit(m.Run())
	}
	memory := bytes.Repeat([]byte{'x'}, held)
	fmt.Println("held")
	_, _ = io.Copy(io.Discard, os.Stdin)
	fmt.Println(string(memory[held-1:]))
}

// inChild makes a shell run the command above: memory is that of a child.
func inChild() *exec.Cmd { return exec.Command("sh", "-c", `"$0"; exit 3`, os.Args[0]) }

func TestWatch(t *testing.T) {
	t.Setenv(holding, "1")
	cmd := inChild()
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "held\n", line)

	done := make(chan struct{})
	close(done)
	require.GreaterOrEqual(t, watch(cmd.Process.Pid, done), int64(held), "one look, while the child holds it")
	require.NoError(t, stdin.Close())
	require.Error(t, cmd.Wait())
	require.Zero(t, watch(cmd.Process.Pid, done), "it has ended")
}

func TestRun(t *testing.T) {
	t.Setenv(holding, "1")
	var stdout, stderr bytes.Buffer
	file := filepath.Join(t.TempDir(), "cost.json")
	code, err := run([]string{"-json", file, "sh", "-c", `"$0"`, os.Args[0]}, strings.NewReader(""), &stdout, &stderr)
	require.NoError(t, err, stderr.String())
	require.Zero(t, code)
	require.Equal(t, "held\nx\n", stdout.String(), "output passes through")
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	var c cost
	require.NoError(t, json.Unmarshal(b, &c))
	require.Positive(t, c.Wall)
	require.Positive(t, c.CPU)
	require.GreaterOrEqual(t, c.VmHWM, int64(held), "of a child that has ended")

	stdout.Reset()
	code, err = run([]string{"-row", "name", "true"}, nil, &stdout, &stderr)
	require.NoError(t, err)
	require.Zero(t, code)
	require.Regexp(t, `^\| name \| \d+\.\d\d \| \d+ \| \d+ \|\n$`, stdout.String())
}

func TestRunFails(t *testing.T) {
	for _, c := range []struct {
		why  string
		args []string
		code int
		want string
	}{
		{"the command's own status", []string{"sh", "-c", "exit 3"}, 3, "sh: exit status 3"},
		{"a signal", []string{"sh", "-c", "kill -9 $$"}, 137, "sh: signal: killed"},
		{"no command", nil, 2, "give the command to run"},
		{"no such command", []string{"no-such-command"}, 1, "no-such-command"},
	} {
		code, err := run(c.args, nil, io.Discard, io.Discard)
		require.Equal(t, c.code, code, c.why)
		require.ErrorContains(t, err, c.want, c.why)
	}
}
