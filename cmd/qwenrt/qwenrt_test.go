package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/tiny"
	"github.com/qwenrt/qwenrt/ort"
)

const (
	// question is one that the carried model answers in a known form.
	question = `What does "harbor" mean?`
	answer   = `The noun "harbor" means:`
	// checkpoint is the carried model's folder.
	checkpoint = "../../models/tiny/" + tiny.Name
)

// asProgram makes the test binary run as qwenrt, for what a process can do only once or at its end.
const asProgram = "QWENRT_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	// Tests move the user's folders: the library is looked for before. Where there is none, the tests
	// that need it say so.
	if path, err := ort.Find(""); err == nil {
		os.Setenv("QWENRT_ORT_LIB", path)
	}
	for _, e := range os.Environ() {
		if name, _, _ := strings.Cut(e, "="); strings.HasPrefix(name, "HF_") {
			os.Unsetenv(name)
		}
	}
	home, err := os.MkdirTemp("", "qwenrt-home-")
	if err != nil {
		panic(err)
	}
	for name, value := range folders(home) {
		os.Setenv(name, value)
	}
	code := m.Run()
	os.RemoveAll(home)
	os.Exit(code)
}

// folders are the variables by which a program finds the user's folders below home, and a hub that
// never answers.
func folders(home string) map[string]string {
	return map[string]string{
		"HOME": home, "XDG_CACHE_HOME": filepath.Join(home, "cache"), "LocalAppData": home,
		"HF_HOME": filepath.Join(home, "hf"), "HF_ENDPOINT": "http://127.0.0.1:1",
	}
}

// ownHome gives the test a home folder of its own, and with it caches.
func ownHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	for name, value := range folders(home) {
		t.Setenv(name, value)
	}
	return home
}

// result is what a run of the program left.
type result struct {
	code           int
	stdout, stderr string
}

// qwenrt runs the program in this process.
func qwenrt(t *testing.T, args ...string) result {
	t.Helper()
	return qwenrtWith(t, strings.NewReader(""), args...)
}

func qwenrtWith(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, stdin, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// command is the program as a process.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asProgram+"=1")
	return c
}

// need fails where ONNX Runtime is not installed.
func need(t *testing.T) {
	t.Helper()
	require.NoError(t, ort.Init(ort.Environment{}))
}

// TestPipeline goes from checkpoint to answer by hand, as the README has it.
func TestPipeline(t *testing.T) {
	need(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, step := range []struct {
		args []string
		next string // the command that the user is told
	}{
		{[]string{"export", checkpoint, "-o", at("onnx"), "--dtype", "fp32"}, "qwenrt optimize " + at("onnx")},
		{[]string{"optimize", at("onnx"), "-o", at("fused"), "--target", "cpu"}, "qwenrt quantize " + at("fused")},
		{[]string{"quantize", at("fused"), "-o", at("int4"), "--precision", "int4"}, "qwenrt run " + at("int4")},
		{[]string{"build", checkpoint, "-o", at("built")}, "qwenrt run " + at("built")},
	} {
		r := qwenrt(t, step.args...)
		require.Equal(t, exitOK, r.code, r.stderr)
		require.Contains(t, r.stdout, step.next)
		require.Contains(t, r.stdout, "bits a weight")
	}
	for _, model := range []string{at("onnx"), at("fused"), at("int4"), at("built"), at("built/model.onnx")} {
		r := qwenrt(t, "run", model, "-p", question, "--no-think", "--temperature", "0", "--max-tokens", "12")
		require.Equal(t, exitOK, r.code, r.stderr)
		require.True(t, strings.HasPrefix(r.stdout, answer), "%s: %s", model, r.stdout)
		require.True(t, strings.HasSuffix(r.stdout, "\n"))
		require.Contains(t, r.stderr, "20 prompt tokens, 12 generated")
	}
}
