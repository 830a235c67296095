package ir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// ErrMalformed is reported, wrapped with what and where, for a file that is not a well-formed model.
var ErrMalformed = errors.New("malformed model")

// mapping is a file mapped for reading.
type mapping struct {
	path string
	b    []byte
}

func mapRegular(path string) (*mapping, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("ir: %s is not a regular file", path)
	}
	b, err := mapFile(f, st.Size())
	if err != nil {
		return nil, fmt.Errorf("ir: map %s: %w", path, err)
	}
	return &mapping{path, b}, nil
}

func (m *mapping) close() error {
	b := m.b
	m.b = nil
	return unmapFile(b)
}

// externalFiles opens the data files that initializers point to, each once. A location is a
// stranger's: it must stay inside the folder of the model.
type externalFiles struct {
	model string // path of the model file
	open  map[string]*mapping
	all   []*mapping
	// ranges seen in each file, to refuse those that overlap in part
	ranges map[*mapping][]fileRange
}

type fileRange struct {
	off, end int64
	name     string
}

func (e *externalFiles) get(location string) (*mapping, error) {
	if m, ok := e.open[location]; ok {
		return m, nil
	}
	if e.model == "" {
		return nil, fmt.Errorf("ir: external data %q in a model that has no folder", location)
	}
	if strings.ContainsRune(location, 0) || !filepath.IsLocal(filepath.FromSlash(location)) {
		return nil, fmt.Errorf("ir: %w: external data location %q leaves the model's folder", ErrMalformed, location)
	}
	path := filepath.Join(filepath.Dir(e.model), filepath.FromSlash(location))
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("ir: %s is missing: the weights of %s lie there", path, filepath.Base(e.model))
	}
	if err != nil {
		return nil, fmt.Errorf("ir: external data: %w", err)
	}
	if ok, err := e.inside(real); err != nil || !ok {
		if err != nil {
			return nil, fmt.Errorf("ir: external data: %w", err)
		}
		return nil, fmt.Errorf("ir: %w: external data %q is a link that leaves the model's folder", ErrMalformed, location)
	}
	m, err := mapRegular(real)
	if err != nil {
		return nil, err
	}
	e.open[location] = m
	e.all = append(e.all, m)
	return m, nil
}

// inside reports whether a resolved path lies in the model's folder, in the folder that the model
// file itself is a link into, or, for a snapshot of the Hugging Face cache
// (models--org--name/snapshots/REVISION), in the blobs folder beside it.
func (e *externalFiles) inside(real string) (bool, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(e.model))
	if err != nil {
		return false, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	real, err = filepath.Abs(real)
	if err != nil {
		return false, err
	}
	roots := []string{dir}
	for at := dir; ; at = filepath.Dir(at) { // the model may lie in a folder below the snapshot
		parent := filepath.Dir(at)
		if parent == at {
			break
		}
		repo := filepath.Dir(parent)
		if filepath.Base(parent) == "snapshots" && strings.HasPrefix(filepath.Base(repo), "models--") {
			roots = append(roots, filepath.Join(repo, "blobs"))
		}
	}
	for _, root := range roots {
		if rel, err := filepath.Rel(root, real); err == nil && filepath.IsLocal(rel) {
			return true, nil
		}
	}
	return false, nil
}

// slice gives length bytes at offset of an external file, for the tensor of this name. length -1
// takes the rest of the file.
func (e *externalFiles) slice(location string, offset, length int64, name string) ([]byte, error) {
	m, err := e.get(location)
	if err != nil {
		return nil, err
	}
	size := int64(len(m.b))
	if offset < 0 || offset > size {
		return nil, fmt.Errorf("ir: %w: tensor %q begins at byte %d of %s, which has %d", ErrMalformed, name, offset, filepath.Base(m.path), size)
	}
	if length == -1 {
		length = size - offset
	}
	if length < 0 || length > size-offset {
		return nil, fmt.Errorf("ir: %w: tensor %q needs bytes %d to %d of %s, which has %d: truncated?", ErrMalformed, name, offset, offset+length, filepath.Base(m.path), size)
	}
	if length > 0 {
		e.ranges[m] = append(e.ranges[m], fileRange{offset, offset + length, name})
	}
	return m.b[offset : offset+length : offset+length], nil
}
