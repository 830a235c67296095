package machine

import (
	"os"
	"strconv"
	"strings"
)

// ResidentMemory gives VmHWM and RssAnon of this process in bytes, see proc_pid_status(5); 0 where
// the system does not tell.
func ResidentMemory() (peak, anon int64) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, 0
	}
	return statusBytes(string(status), "VmHWM:"), statusBytes(string(status), "RssAnon:")
}

// HugePages gives AnonHugePages of this process in bytes, see proc_pid_smaps(5); 0 where the system does not tell.
func HugePages() int64 {
	maps, err := os.ReadFile("/proc/self/smaps_rollup")
	if err != nil {
		return 0
	}
	return statusBytes(string(maps), "AnonHugePages:")
}

// statusBytes reads a line such as "VmHWM:	   12345 kB".
func statusBytes(status, key string) int64 {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}
