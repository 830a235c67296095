package ort

import (
	"io/fs"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
)

// DefaultThreads returns the number of CPUs that this process may use: those of its
// affinity mask at its start, or fewer where a control group (cgroup v1 or v2)
// grants less CPU time than that, rounded down, at least 1. ONNX Runtime's own
// guess counts physical cores, and knows of no control groups.
func DefaultThreads() int {
	threads := runtime.NumCPU()
	if runtime.GOOS == "linux" {
		threads = min(threads, cgroupCPUs(os.DirFS("/"), threads))
	}
	return max(threads, 1)
}

// cgroupCPUs returns the whole CPUs that the control groups of this process grant,
// or limit where they grant more or say nothing. root is the file system, with
// control groups at their usual place, /sys/fs/cgroup (systemd's
// CONTROL_GROUP_INTERFACE). A container often sees its own group at the top of
// that folder whatever /proc/self/cgroup says, so all folders on the way up count.
func cgroupCPUs(root fs.FS, limit int) int {
	groups, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return limit
	}
	cpus := float64(limit)
	for line := range strings.Lines(string(groups)) {
		// hierarchy-ID:controllers:path, see cgroups(7).
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for _, mount := range cgroupMounts(fields[1]) {
			for group := path.Join(mount, path.Join("/", fields[2])); len(group) >= len(mount); group = path.Dir(group) {
				cpus = min(cpus, groupCPUs(root, group, cpus))
			}
		}
	}
	return max(int(cpus), 1)
}

// cgroupMounts returns where the hierarchy with these controllers may be mounted.
func cgroupMounts(controllers string) []string {
	const base = "sys/fs/cgroup"
	if controllers == "" { // version 2
		return []string{base, base + "/unified"}
	}
	for controller := range strings.SplitSeq(controllers, ",") {
		if controller == "cpu" {
			return []string{base + "/" + controllers, base + "/cpu"}
		}
	}
	return nil
}

// groupCPUs returns the CPUs that the one group grants, or otherwise.
func groupCPUs(root fs.FS, group string, otherwise float64) float64 {
	if text, err := fs.ReadFile(root, group+"/cpu.max"); err == nil { // version 2: "max 100000" or "150000 100000"
		if quota, period, ok := strings.Cut(strings.TrimSpace(string(text)), " "); ok {
			return ratio(quota, period, otherwise)
		}
	}
	quota, err := fs.ReadFile(root, group+"/cpu.cfs_quota_us") // version 1: -1 or microseconds
	if err != nil {
		return otherwise
	}
	period, err := fs.ReadFile(root, group+"/cpu.cfs_period_us")
	if err != nil {
		return otherwise
	}
	return ratio(strings.TrimSpace(string(quota)), strings.TrimSpace(string(period)), otherwise)
}

func ratio(quota, period string, otherwise float64) float64 {
	q, err := strconv.ParseFloat(quota, 64)
	if err != nil || q <= 0 {
		return otherwise
	}
	p, err := strconv.ParseFloat(period, 64)
	if err != nil || p <= 0 {
		return otherwise
	}
	return q / p
}
