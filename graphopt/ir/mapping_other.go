//go:build !unix

package ir

import (
	"io"
	"os"
)

// Where files cannot be mapped they are read whole.
func mapFile(f *os.File, size int64) ([]byte, error) {
	b := make([]byte, size)
	_, err := io.ReadFull(f, b)
	return b, err
}

func unmapFile([]byte) error { return nil }
