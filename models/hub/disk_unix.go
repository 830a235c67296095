//go:build linux || darwin

package hub

import "golang.org/x/sys/unix"

// freeBytes returns what an ordinary user may still write to the disk of dir.
func freeBytes(dir string) (int64, bool) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, false
	}
	return int64(stat.Bavail) * int64(stat.Bsize), true
}
