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

// configName is what transformers calls the configuration of a model.
const configName = "config.json"

// sideFiles are what tokenizers, chat templates and licences of Qwen3 checkpoints are called.
var sideFiles = []string{
	configName,
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

// graphFolder is where the onnx-community repositories on the Hugging Face hub have their graphs: model.onnx,
// model_q4.onnx and others, below configuration and tokenizer.
const graphFolder = "onnx"

// ModelFile finds the model that a user means: the file itself, or in a folder model.onnx, or the
// only .onnx file there is; in the folder, or else in a folder onnx in it.
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
	for _, dir := range []string{path, filepath.Join(path, graphFolder)} {
		found, err := graphs(dir)
		switch {
		case err != nil:
			return "", err
		case len(found) == 1:
			return filepath.Join(dir, found[0]), nil
		case len(found) > 1:
			return "", fmt.Errorf("folder: %s: %w: want %s, or name one of %s", dir, ErrNoModel, ModelName, strings.Join(found, ", "))
		}
	}
	return "", fmt.Errorf("folder: %s: %w", path, ErrNoModel)
}

// graphs lists the .onnx files of a folder; model.onnx alone, if it is there. A folder that is not there has none.
func graphs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("folder: %w", err)
	}
	var found []string
	for _, e := range entries {
		if e.Name() == ModelName {
			return []string{ModelName}, nil
		}
		if filepath.Ext(e.Name()) == ".onnx" && !e.IsDir() {
			found = append(found, e.Name())
		}
	}
	return found, nil
}

// ConfigDir is the folder with configuration and tokenizer of a model file: its own, or the one above a
// folder onnx that has no configuration itself.
func ConfigDir(file string) string {
	dir := filepath.Dir(file)
	whole, err := filepath.Abs(dir)
	if err != nil || filepath.Base(whole) != graphFolder {
		return dir
	}
	above := filepath.Dir(whole)
	for _, name := range []string{configName, GenAIName} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return dir
		}
	}
	if _, err := os.Stat(filepath.Join(above, configName)); err != nil {
		return dir
	}
	return above
}
