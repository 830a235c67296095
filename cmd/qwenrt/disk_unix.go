//go:build linux || darwin

package main

import "golang.org/x/sys/unix"

// freeBytes is what users may still write to the disk that holds dir.
func freeBytes(dir string) (free int64, known bool) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, false
	}
	return int64(s.Bavail) * int64(s.Bsize), true
}
