package qwen3

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"

	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

const (
	sampleBytes = 4096 // one page
	samples     = 4    // a tensor, evenly spaced from its first to its last byte
)

// Hash identifies the checkpoint's content as "sha256:" and 64 hexadecimal digits, without reading
// all of it: the side files as a whole (folder.SideFiles), and of every tensor its name, type, shape
// and four pages of data. It takes a fraction of a second for any size and is the same wherever the
// checkpoint lies, however it is sharded and whenever it was written. Checkpoints that differ only
// in weights between those pages are taken for one; training changes them all.
func (s *Source) Hash() (string, error) {
	h := sha256.New()
	io.WriteString(h, "qwenrt checkpoint 1\n")
	for _, name := range folder.SideFiles() {
		if err := hashFile(h, s.files, name); err != nil {
			return "", fmt.Errorf("qwen3: hash %s: %w", name, err)
		}
	}
	names := s.weights.Names()
	slices.Sort(names)
	for _, name := range names {
		t, _ := s.weights.Tensor(name)
		if err := hashTensor(h, t); err != nil {
			return "", fmt.Errorf("qwen3: hash tensor %s: %w", name, err)
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// hashFile adds a file under its name and size; one that is not there adds nothing.
func hashFile(h hash.Hash, files fs.FS, name string) error {
	info, err := fs.Stat(files, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return err
	}
	f, err := files.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	fmt.Fprintf(h, "%q %d\n", name, info.Size())
	_, err = io.CopyN(h, f, info.Size())
	return err
}

func hashTensor(h hash.Hash, t *safetensors.Tensor) error {
	fmt.Fprintf(h, "%q %s %v\n", t.Name, t.DType, t.Shape)
	page := make([]byte, min(sampleBytes, t.Size()))
	for i := range int64(samples) {
		at := (t.Size() - int64(len(page))) * i / (samples - 1)
		if _, err := t.ReadAt(page, at); err != nil && err != io.EOF {
			return err
		}
		h.Write(page)
	}
	return nil
}
