package runner

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// newSession opens the graph in file.
//
// On the CPU, kernels pack weights while a session is created: those of a node on one thread, and nodes in the order of
// the graph. In ONNX's order the head comes last, a quarter of the weights of Qwen3-0.6B, and the other threads wait for
// it. ONNX Runtime sorts nodes itself, so it is given those with the largest weights first. What it does not
// take in that form is loaded as it is.
func newSession(file string, c ort.SessionConfig) (*ort.Session, error) {
	if len(c.Providers) == 0 {
		if s, err := newSessionLargestFirst(file, c); err == nil {
			return s, nil
		}
	}
	return ort.NewSession(file, c)
}

// keyDataFolder says where the data files of a graph lie that is given as bytes (onnxruntime_session_options_config_keys.h).
const keyDataFolder = "session.model_external_initializers_file_folder_path"

// maxGraphFile is far above graphs that have their weights in data files. Others are better left to ONNX Runtime.
const maxGraphFile = 64 << 20

func newSessionLargestFirst(file string, c ort.SessionConfig) (*ort.Session, error) {
	if info, err := os.Stat(file); err != nil || info.Size() > maxGraphFile {
		return nil, fmt.Errorf("not a file of at most %d bytes: %w", maxGraphFile, err)
	}
	graph, err := os.ReadFile(file)
	if err == nil {
		graph, err = ir.LargestFirst(graph)
	}
	if err != nil {
		return nil, err
	}
	c.ConfigEntries = maps.Clone(c.ConfigEntries)
	c.ConfigEntries[keyDataFolder] = filepath.Dir(file)
	return ort.NewSessionFromBytes(graph, c)
}
