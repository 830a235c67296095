package machine

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestReadMemory(t *testing.T) {
	file := func(s string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(s)} }
	const meminfo = "MemTotal:       16000 kB\nMemFree:  100 kB\nMemAvailable:   8000 kB\n"
	for _, c := range []struct {
		why  string
		root fstest.MapFS
		want Memory
	}{
		{"nothing to read", fstest.MapFS{}, Memory{}},
		{"no control group", fstest.MapFS{"proc/meminfo": file(meminfo)}, Memory{Total: 16000 << 10, Available: 8000 << 10}},
		{"version 2, the parent's limit is lower", fstest.MapFS{
			"proc/meminfo": file(meminfo), "proc/self/cgroup": file("0::/a/b\n"),
			"sys/fs/cgroup/a/memory.max": file("1048576\n"), "sys/fs/cgroup/a/b/memory.max": file("max\n"),
		}, Memory{16000 << 10, 8000 << 10, 1 << 20}},
		{"version 1", fstest.MapFS{
			"proc/self/cgroup": file("9:memory:/a\n4:cpu:/a\n"),
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": file("2097152\n"),
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   file("9223372036854771712\n"),
			"sys/fs/cgroup/cpu/memory.max":                 file("1\n"),
		}, Memory{Limit: 2 << 20}},
		{"a container that sees its own group at the top", fstest.MapFS{
			"proc/self/cgroup": file("0::/docker/x\n"), "sys/fs/cgroup/memory.max": file("4096\n"),
		}, Memory{Limit: 4096}},
	} {
		require.Equal(t, c.want, readMemory(c.root), c.why)
	}
}
