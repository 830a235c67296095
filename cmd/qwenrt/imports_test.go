package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	module  = "github.com/qwenrt/qwenrt/"
	binding = "github.com/yalue/onnxruntime_go"
)

// rooms are the parts of the module, and for each the others that it may import. A package is in the
// room with the longest name above it. A new folder at the top level has no room, and fails the test.
var rooms = map[string][]string{
	"ort":             {},
	"graphopt/ir":     {},
	"graphopt":        {"graphopt/ir"},
	"graphopt/passes": {"graphopt/ir", "graphopt"},
	// what the tests of passes share; it runs graphs
	"graphopt/internal/graphtest": {"graphopt/ir", "graphopt", "ort"},
	"quantize":                    {"graphopt/ir", "graphopt"},
	"quantize/calib":              {"graphopt/ir", "graphopt", "quantize", "ort"},
	"models":                      {"graphopt/ir"},
	"models/tiny":                 {}, // 20 MB, which importers of the module must not carry
	"runner":                      {"graphopt/ir", "ort"},
	"runner/serve":                {"runner"}, // which must not know of it
	"runner/bench/stats":          {},         // numbers alone
	"runner/eval":                 {"graphopt/ir", "ort", "runner", "runner/bench/stats"},
	"runner/bench":                {"graphopt/ir", "ort", "runner", "runner/bench/stats"},
	"runner/tune":                 {"graphopt/ir", "models", "ort", "runner", "runner/accelerate", "runner/bench", "runner/bench/stats", "runner/eval"},
	"runner/accelerate":           {"graphopt/ir", "graphopt", "graphopt/passes", "quantize", "quantize/calib", "models", "ort", "runner"},
	"cmd": {"graphopt/ir", "graphopt", "graphopt/passes", "quantize", "quantize/calib", "models", "models/tiny", "ort",
		"runner", "runner/serve", "runner/eval", "runner/bench", "runner/bench/stats", "runner/tune", "runner/accelerate"},
	"scripts":             {"graphopt/ir", "graphopt", "graphopt/passes", "quantize", "models", "ort", "runner", "runner/serve", "runner/bench", "runner/bench/stats"},
	"internal/reftest":    {"graphopt/ir", "graphopt", "graphopt/passes", "models", "ort"},
	"internal/atomicfile": {},
}

// common is what any part may import.
var common = []string{"internal/atomicfile"}

// inTests is what any test may import as well.
var inTests = []string{"ort", "graphopt/ir", "internal/reftest", "graphopt/internal/graphtest"}

func roomOf(path string) (string, bool) {
	path = strings.TrimPrefix(path, module)
	for {
		if _, ok := rooms[path]; ok {
			return path, true
		}
		up := strings.LastIndexByte(path, '/')
		if up < 0 {
			return "", false
		}
		path = path[:up]
	}
}

// fault says what is wrong with an import, "" if nothing is.
func fault(from, path string, also ...string) string {
	room, known := roomOf(from)
	if !known {
		return "it has no room"
	}
	if path == "C" || path == binding {
		if room != "ort" {
			return "only ort may"
		}
		return ""
	}
	if !strings.HasPrefix(path, module) {
		return ""
	}
	to, known := roomOf(path)
	if !known || to != room && !slices.Contains(rooms[room], to) && !slices.Contains(common, to) && !slices.Contains(also, to) {
		return room + " may not"
	}
	return ""
}

// TestImports holds the arrows between the parts of the module, for packages and for their tests.
func TestImports(t *testing.T) {
	var stderr bytes.Buffer
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,TestImports,XTestImports", module+"...")
	cmd.Stderr = &stderr
	list, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	packages := 0
	for d := json.NewDecoder(bytes.NewReader(list)); ; packages++ {
		var p struct {
			ImportPath                         string
			Imports, TestImports, XTestImports []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		for _, path := range p.Imports {
			if why := fault(p.ImportPath, path); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, path, why)
			}
		}
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			if why := fault(p.ImportPath, path, inTests...); why != "" {
				t.Errorf("a test of %s imports %s: %s", p.ImportPath, path, why)
			}
		}
	}
	require.Greater(t, packages, 20, "go list has found the module")
}

// TestImportRules holds that TestImports can fail.
func TestImportRules(t *testing.T) {
	for _, c := range []struct {
		why, from, to, want string
		also                []string
	}{
		{"the pipeline needs it", "runner/accelerate", "graphopt/passes/attention", "", nil},
		{"parts of a room know each other", "runner", "runner/sample", "", nil},
		{"others' packages are free", "graphopt", "golang.org/x/sync/errgroup", "", nil},
		{"the runner does not optimise", "runner", "graphopt", "runner may not", nil},
		{"nor build", "runner/tokenizer", "runner/accelerate", "runner may not", nil},
		{"graphs need no native library", "graphopt/passes/attention", "ort", "graphopt/passes may not", nil},
		{"but their tests may", "graphopt/passes/attention", "ort", "", inTests},
		{"20 MB", "runner/accelerate", "models/tiny", "runner/accelerate may not", nil},
		{"in tests too", "runner", "models/tiny", "runner may not", inTests},
		{"nothing imports a command", "scripts/native", "cmd/qwenrt", "scripts may not", nil},
		{"the binding", "runner", binding, "only ort may", inTests},
		{"cgo", "quantize", "C", "only ort may", nil},
		{"the shim", "ort/internal/capi", "C", "", nil},
		{"a part that nobody has thought of", "util", "fmt", "it has no room", nil},
	} {
		to := c.to
		if _, ours := roomOf(module + to); ours {
			to = module + to
		}
		require.Equal(t, c.want, fault(module+c.from, to, c.also...), c.why)
	}
}
