package folder

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The names of a model folder's own files.
const (
	ModelName    = "model.onnx"
	ManifestName = "qwenrt.json"
	GenAIName    = "genai_config.json"
)

// sideFiles are what tokenizers, chat templates and licences of Qwen3 checkpoints are called.
var sideFiles = []string{
	"config.json",
	"generation_config.json",
	"tokenizer.json",
	"tokenizer_config.json",
	"vocab.json",
	"merges.txt",
	"special_tokens_map.json",
	"added_tokens.json",
	"chat_template.jinja",
	"chat_template.json",
	"LICENSE",
}

// SideFiles lists the files that are carried along from a checkpoint where it has them.
func SideFiles() []string { return slices.Clone(sideFiles) }

// maxSideFile is above any tokenizer (Qwen3's has 11 MB); a file beyond it is something else.
const maxSideFile = 1 << 28

// CopySideFiles copies those side files that from has, and gives their names. Give it a checkpoint's
// folder or another model folder, with os.DirFS, or an embedded one.
func (s *Stage) CopySideFiles(from fs.FS) ([]string, error) {
	var copied []string
	for _, name := range sideFiles {
		info, err := fs.Stat(from, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && !info.Mode().IsRegular() { // opening a named pipe would wait for its writer
			err = errors.New("not a regular file")
		}
		if err == nil {
			err = copyFile(s.Path(name), from, name)
		}
		if err != nil {
			return nil, fmt.Errorf("folder: copy %s: %w", name, err)
		}
		copied = append(copied, name)
	}
	return copied, nil
}

func copyFile(to string, from fs.FS, name string) error {
	src, err := from.Open(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	n, err := io.Copy(dst, io.LimitReader(src, maxSideFile+1))
	if err == nil && n > maxSideFile {
		err = fmt.Errorf("more than %d bytes", int64(maxSideFile))
	}
	return errors.Join(err, dst.Close())
}

// ErrNoModel means that a folder does not hold an ONNX model, or several of which none is model.onnx.
var ErrNoModel = errors.New("no ONNX model")

// ModelFile finds the model that a user means: the file itself, or in a folder model.onnx, or the
// only .onnx file there is.
func ModelFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("folder: %w", err)
	}
	if !info.IsDir() {
		if filepath.Ext(path) != ".onnx" {
			return "", fmt.Errorf("folder: %s: %w: want a folder or a file that ends in .onnx", path, ErrNoModel)
		}
		return path, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", fmt.Errorf("folder: %w", err)
	}
	var found []string
	for _, e := range entries {
		if e.Name() == ModelName {
			return filepath.Join(path, ModelName), nil
		}
		if filepath.Ext(e.Name()) == ".onnx" && !e.IsDir() {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 1:
		return filepath.Join(path, found[0]), nil
	case 0:
		return "", fmt.Errorf("folder: %s: %w", path, ErrNoModel)
	}
	return "", fmt.Errorf("folder: %s: %w: want %s, or name one of %s", path, ErrNoModel, ModelName, strings.Join(found, ", "))
}
