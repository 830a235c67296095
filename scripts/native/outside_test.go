package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A module outside this repository builds and runs a program that imports runner, by the steps that doc.go gives. The
// linker fails unless env has named the folder of libtokenizers.a.
func TestOutsideModule(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/outside\n\ngo 1.26\n\nrequire github.com/qwenrt/qwenrt v0.0.0\n\n" +
			"replace github.com/qwenrt/qwenrt => " + root + "\n",
		"go.sum":  string(sums), // as go get would write it
		"main.go": "package main\n\nimport (\n\t\"fmt\"\n\n\t_ \"github.com/qwenrt/qwenrt/runner\"\n)\n\nfunc main() { fmt.Print(\"runs\") }\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}

	script := `env=$(go run github.com/qwenrt/qwenrt/scripts/native env) && eval "$env" && go build -o outside . && ./outside`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, "runs", string(out))
}
