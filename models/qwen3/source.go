package qwen3

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

// The files of a checkpoint that this package reads.
const (
	configFile     = "config.json"
	generationFile = "generation_config.json"
	weightsFile    = "model.safetensors"
)

// Source is an open checkpoint: its configuration and its mapped weights.
type Source struct {
	Config     *Config     // with the tokens of generation_config.json where that names some
	Generation *Generation // defaults where the checkpoint has none

	files   fs.FS
	weights *safetensors.Checkpoint
}

// Open opens a Hugging Face folder: config.json, generation_config.json if there is one, and the
// weights in model.safetensors or in shards with model.safetensors.index.json. Weights are mapped
// and compared with the configuration, not read. Close the source when models made from it have
// been saved.
func Open(dir string) (*Source, error) {
	return open(os.DirFS(dir), dir, func() (*safetensors.Checkpoint, error) { return safetensors.Open(dir) })
}

// OpenFS opens a checkpoint in a file system, such as one embedded in a program. The weights must be
// in one model.safetensors, which is held in memory.
func OpenFS(files fs.FS) (*Source, error) {
	return open(files, ".", func() (*safetensors.Checkpoint, error) {
		data, err := fs.ReadFile(files, weightsFile)
		if err != nil {
			return nil, fmt.Errorf("qwen3: %w", err)
		}
		return safetensors.OpenBytes(weightsFile, data)
	})
}

func open(files fs.FS, dir string, weights func() (*safetensors.Checkpoint, error)) (*Source, error) {
	c, g, err := readConfigs(files, dir)
	if err != nil {
		return nil, err
	}
	w, err := weights()
	if err != nil {
		return nil, err
	}
	s := &Source{Config: c, Generation: g, files: files, weights: w}
	if err := checkWeights(c, w); err != nil {
		return nil, errors.Join(fmt.Errorf("qwen3: %s: %w", dir, err), s.Close())
	}
	return s, nil
}

// Model builds the graph. It refers to the source's mapped weights: save it before Close.
func (s *Source) Model(o Options) (*ir.Model, error) { return Build(s.Config, s.weights, o) }

// Files is the checkpoint's folder, from which folder.Stage copies tokenizer and configuration.
func (s *Source) Files() fs.FS { return s.files }

// Facts is what the model folder's genai_config.json says of the model.
func (s *Source) Facts() folder.Facts { return facts(s.Config, s.Generation) }

// Close unmaps the weights.
func (s *Source) Close() error { return s.weights.Close() }

// ReadFacts reads the configuration that a model folder carries along from its checkpoint.
func ReadFacts(dir string) (folder.Facts, error) {
	c, g, err := readConfigs(os.DirFS(dir), dir)
	if err != nil {
		return folder.Facts{}, err
	}
	return facts(c, g), nil
}

func readConfigs(files fs.FS, dir string) (*Config, *Generation, error) {
	data, err := readSmall(files, dir, configFile)
	if err != nil {
		return nil, nil, err
	}
	c, err := parseConfig(filepath.Join(dir, configFile), data)
	if err != nil {
		return nil, nil, err
	}
	data, err = readSmall(files, dir, generationFile)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = []byte("{}"), nil
	}
	if err != nil {
		return nil, nil, err
	}
	g, err := parseGeneration(filepath.Join(dir, generationFile), data, c.VocabSize)
	if err != nil {
		return nil, nil, err
	}
	c.Tokens = g.Tokens.over(c.Tokens)
	return c, g, nil
}

// maxConfig is far above any configuration; a file beyond it is something else.
const maxConfig = 16 << 20

// readSmall reads a regular file of at most maxConfig bytes.
func readSmall(files fs.FS, dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	info, err := fs.Stat(files, name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("qwen3: %s: %w", path, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("qwen3: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("qwen3: %s: not a regular file", path)
	}
	f, err := files.Open(name)
	if err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", path, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("more than %d bytes", maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("qwen3: %s: %w", path, err)
	}
	return data, nil
}
