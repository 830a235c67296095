package safetensors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// file is an open safetensors file: bytes to view and a reader that leaves the mapping alone.
type file struct {
	path   string
	data   []byte // nil once closed
	reader io.ReaderAt
	size   int64
	mapped *os.File // nil for a file in memory
}

func memoryFile(name string, data []byte) *file {
	if data == nil {
		data = []byte{}
	}
	return &file{path: name, data: data, reader: bytes.NewReader(data), size: int64(len(data))}
}

// openFile maps the file at path. A named pipe or a device is refused before it is opened: opening a pipe
// blocks until someone writes to it.
func openFile(path string) (*file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("safetensors: %s: not a regular file (%s)", path, info.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	mapped, err := mapFile(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return mapped, nil
}

func mapFile(f *os.File) (*file, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	size := info.Size()
	if size < 8 {
		return nil, malformed(f.Name(), "%d bytes is too short for a header", size)
	}
	if size > math.MaxInt {
		return nil, fmt.Errorf("safetensors: %s: %d bytes do not fit this machine's address space", f.Name(), size)
	}
	data, err := mapBytes(f, int(size))
	if err != nil {
		return nil, fmt.Errorf("safetensors: map %s: %w", f.Name(), err)
	}
	return &file{path: f.Name(), data: data, reader: f, size: size, mapped: f}, nil
}

func (f *file) close() error {
	data := f.data
	if data == nil {
		return nil
	}
	f.data = nil
	if f.mapped == nil {
		return nil
	}
	return errors.Join(unmapBytes(data), f.mapped.Close())
}

func (f *file) release(offset, size int64) {
	if f.data == nil || f.mapped == nil {
		return
	}
	page := int64(os.Getpagesize())
	begin := (offset + page - 1) / page * page // a page shared with a neighbour stays
	end := (offset + size) / page * page
	if begin < end {
		dropPages(f.data[begin:end])
	}
}
