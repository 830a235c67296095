//go:build !unix

package safetensors

import (
	"io"
	"os"
)

// mapBytes reads the file: without a mapping a checkpoint costs its size in memory.
func mapBytes(f *os.File, size int) ([]byte, error) {
	data := make([]byte, size)
	_, err := io.ReadFull(f, data)
	return data, err
}

func unmapBytes([]byte) error { return nil }

func dropPages([]byte) {}
