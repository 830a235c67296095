package safetensors

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// The names that Hugging Face checkpoints use.
const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
)

var (
	// ErrNoCheckpoint means that a folder holds neither model.safetensors nor model.safetensors.index.json.
	ErrNoCheckpoint = errors.New("no safetensors checkpoint")
	// ErrFormat means that a file contradicts the format, its index or itself; nothing in it can be trusted.
	ErrFormat = errors.New("damaged or incomplete checkpoint; download it again")
)

// Checkpoint is a set of named tensors in one or more open files. Its methods may be called from several
// goroutines, except Close.
type Checkpoint struct {
	files    []*file
	tensors  map[string]*Tensor
	names    []string
	metadata map[string]string
}

// Open opens the checkpoint in dir: model.safetensors where there is one, as transformers does, or else the
// shards that model.safetensors.index.json names. A shard's name must be a plain file name. Files may be
// symbolic links, as in a Hugging Face cache: links are made by the folder's owner, names come with the
// checkpoint.
//
// A folder without either file gives ErrNoCheckpoint; a malformed file gives ErrFormat.
func Open(dir string) (*Checkpoint, error) {
	// Lstat, so that a link whose target is gone is reported as such, not as a folder without a checkpoint.
	if _, err := os.Lstat(filepath.Join(dir, singleFile)); err == nil {
		return OpenFile(filepath.Join(dir, singleFile))
	}
	if _, err := os.Lstat(filepath.Join(dir, indexFile)); err == nil {
		return openShards(dir)
	}
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if pickles, _ := filepath.Glob(filepath.Join(dir, "pytorch_model*.bin")); len(pickles) > 0 {
		return nil, fmt.Errorf("safetensors: %s: %w: it holds PyTorch pickles; save the model with safe_serialization=True",
			dir, ErrNoCheckpoint)
	}
	return nil, fmt.Errorf("safetensors: %s: %w: want %s, or %s and its shards", dir, ErrNoCheckpoint, singleFile, indexFile)
}

// OpenFile opens a single file of any name.
func OpenFile(path string) (*Checkpoint, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	return newCheckpoint(f)
}

// OpenBytes opens a file that is already in memory. The tensors are views of data, which must not change.
// name stands for the file in errors.
func OpenBytes(name string, data []byte) (*Checkpoint, error) {
	return newCheckpoint(memoryFile(name, data))
}

// newCheckpoint indexes the tensors of files and takes ownership of them: they are closed if it fails.
func newCheckpoint(files ...*file) (*Checkpoint, error) {
	c := &Checkpoint{files: files, tensors: map[string]*Tensor{}, metadata: map[string]string{}}
	for _, f := range files {
		if err := c.add(f); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *Checkpoint) add(f *file) error {
	tensors, metadata, err := readHeader(f)
	if err != nil {
		return err
	}
	for _, t := range tensors {
		if other, ok := c.tensors[t.Name]; ok {
			return malformed(f.path, "tensor %s is also in %s", quote(t.Name), filepath.Base(other.file.path))
		}
		c.tensors[t.Name] = t
		c.names = append(c.names, t.Name)
	}
	for key, value := range metadata {
		if _, ok := c.metadata[key]; !ok {
			c.metadata[key] = value
		}
	}
	return nil
}

// Names returns the names of all tensors in the order in which their bytes lie: file by file, by offset.
func (c *Checkpoint) Names() []string { return slices.Clone(c.names) }

// Tensor returns the tensor called name, and whether there is one.
func (c *Checkpoint) Tensor(name string) (*Tensor, bool) {
	t, ok := c.tensors[name]
	return t, ok
}

// Metadata returns the free-form strings of the files' headers ("__metadata__"); where shards differ, the
// first one's value.
func (c *Checkpoint) Metadata() map[string]string { return maps.Clone(c.metadata) }

// Files returns the paths of the open files, in the order of Names.
func (c *Checkpoint) Files() []string {
	paths := make([]string, len(c.files))
	for i, f := range c.files {
		paths[i] = f.path
	}
	return paths
}

// Close unmaps and closes the files. Slices from Tensor.Bytes must not be used after it.
func (c *Checkpoint) Close() error {
	var errs []error
	for _, f := range c.files {
		if err := f.close(); err != nil {
			errs = append(errs, fmt.Errorf("safetensors: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Tensor is one tensor of an open checkpoint.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64 // row-major; empty for a scalar

	file   *file
	offset int64 // from the start of the file
	size   int64
}

// Size returns the length of the data in bytes.
func (t *Tensor) Size() int64 { return t.size }

// File returns the path of the file that holds the tensor, for error messages.
func (t *Tensor) File() string { return t.file.path }

// Bytes returns the data as a read-only view of the mapped file: writing to it faults. It is nil after
// Checkpoint.Close. The format does not align data: convert elements with encoding/binary, or check the
// address before casting. Truncating the file while it is mapped makes reads fault; ReadAt reports an
// error instead.
func (t *Tensor) Bytes() []byte {
	if t.file.data == nil {
		return nil
	}
	end := t.offset + t.size
	return t.file.data[t.offset:end:end]
}

// ReadAt reads data from byte off of the tensor. It goes through the file, not the mapping, so that a
// caller who streams with a small buffer adds nothing to the resident size.
func (t *Tensor) ReadAt(p []byte, off int64) (int, error) {
	if t.file.data == nil {
		return 0, fmt.Errorf("safetensors: read %s: %w", quote(t.Name), fs.ErrClosed)
	}
	return io.NewSectionReader(t.file.reader, t.offset, t.size).ReadAt(p, off)
}

// Release tells the system that the pages that Bytes has brought in are not needed soon, which takes them
// off the process's resident size. It is a hint: the data stays readable.
func (t *Tensor) Release() { t.file.release(t.offset, t.size) }
