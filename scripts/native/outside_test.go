package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/qwen3"
	"github.com/qwenrt/qwenrt/quantize"
)

// A module outside this repository builds a program that imports runner, by the steps that doc.go gives, and the program
// answers on an INT4 model. The linker fails unless env has named the folder of libtokenizers.a, and the program unless
// env has named ONNX Runtime.
func TestOutsideModule(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	require.NoError(t, err)
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	require.NoError(t, err)
	program, err := os.ReadFile(filepath.Join("testdata", "outside", "main.go"))
	require.NoError(t, err)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/outside\n\ngo 1.26\n\nrequire github.com/qwenrt/qwenrt v0.0.0\n\n" +
			"replace github.com/qwenrt/qwenrt => " + root + "\n",
		"go.sum":  string(sums), // as go get would write it
		"main.go": string(program),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	makeInt4(t, filepath.Join(root, "models", "tiny", "qwen3-tiny"), filepath.Join(dir, "model"))

	script := `env=$(go run github.com/qwenrt/qwenrt/scripts/native env) && eval "$env" && go build -o outside . && ./outside model`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Regexp(t, `(?s)^.*\S.*\nlength: 8 tokens\n$`, string(out), "which text it is may depend on the CPU")
}

// makeInt4 makes the model folder that qwenrt build makes.
func makeInt4(t *testing.T, checkpoint, dir string) {
	t.Helper()
	source, err := qwen3.Open(checkpoint)
	require.NoError(t, err)
	defer source.Close()
	model, err := source.Model(qwen3.Options{})
	require.NoError(t, err)
	_, err = graphopt.Run(t.Context(), model, passes.All(), graphopt.Options{MaxPositions: int64(source.Config.ContextLength())})
	require.NoError(t, err)
	plan, err := quantize.NewPlan(model, quantize.Options{})
	require.NoError(t, err)
	require.NoError(t, plan.Apply(model))
	stage, err := folder.Create(dir, false)
	require.NoError(t, err)
	require.NoError(t, ir.Save(t.Context(), model, stage.Path(folder.ModelName), ir.SaveOptions{}))
	_, err = stage.CopySideFiles(source.Files())
	require.NoError(t, err)
	require.NoError(t, stage.Commit())
}
