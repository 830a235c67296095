package machine

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

func readMachine() Memory { return readMemory(os.DirFS("/")) }

// readMemory reads /proc/meminfo (proc(5), in kB) and the limits of this process's control groups.
func readMemory(root fs.FS) Memory {
	var m Memory
	text, _ := fs.ReadFile(root, "proc/meminfo")
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kB, _ := strconv.ParseInt(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			m.Total = kB << 10
		case "MemAvailable:":
			m.Available = kB << 10
		}
	}
	m.Limit = groupMemory(root)
	return m
}

// groupMemory is the lowest limit of the control groups on the way up from this process's own, of
// version 2 (memory.max) or 1 (memory.limit_in_bytes); 0 is none.
func groupMemory(root fs.FS) int64 {
	var lowest int64
	groups, _ := fs.ReadFile(root, "proc/self/cgroup")
	for line := range strings.Lines(string(groups)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3) // hierarchy-ID:controllers:path, see cgroups(7)
		if len(fields) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if fields[1] == "memory" {
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if fields[1] != "" {
			continue
		}
		for group := path.Join(mount, path.Join("/", fields[2])); len(group) >= len(mount); group = path.Dir(group) {
			text, _ := fs.ReadFile(root, path.Join(group, file))
			limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is none
			if err == nil && limit > 0 && (lowest == 0 || limit < lowest) {
				lowest = limit
			}
		}
	}
	return lowest
}
