//go:build unix

package safetensors

import (
	"os"

	"golang.org/x/sys/unix"
)

func mapBytes(f *os.File, size int) ([]byte, error) {
	return unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
}

func unmapBytes(data []byte) error { return unix.Munmap(data) }

// dropPages ignores errors: a hint that is not taken changes nothing but the resident size.
func dropPages(data []byte) { _ = unix.Madvise(data, unix.MADV_DONTNEED) }
