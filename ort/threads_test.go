package ort

import (
	"runtime"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestDefaultThreads(t *testing.T) {
	require.GreaterOrEqual(t, DefaultThreads(), 1)
	require.LessOrEqual(t, DefaultThreads(), runtime.NumCPU())
}

func TestCgroupCPUs(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  int
	}{
		"no control groups": {nil, 16},
		"version 2, no limit": {map[string]string{
			"proc/self/cgroup":      "0::/user\n",
			"sys/fs/cgroup/cpu.max": "max 100000\n",
		}, 16},
		"version 2, in a container that sees its own root": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "400000 100000\n",
		}, 4},
		"version 2, the parent grants less": {map[string]string{
			"proc/self/cgroup":                    "0::/pod/container\n",
			"sys/fs/cgroup/pod/cpu.max":           "200000 100000\n",
			"sys/fs/cgroup/pod/container/cpu.max": "max 100000\n",
		}, 2},
		"a part of a CPU is left unused": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "350000 100000\n",
		}, 3},
		"less than a CPU is one thread": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "50000 100000\n",
		}, 1},
		"more than there is": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "6400000 100000\n",
		}, 16},
		"version 1, controllers mounted together": {map[string]string{
			"proc/self/cgroup": "5:memory:/m\n4:cpu,cpuacct:/docker/c0ffee\n",
			"sys/fs/cgroup/cpu,cpuacct/docker/c0ffee/cpu.cfs_quota_us":  "600000\n",
			"sys/fs/cgroup/cpu,cpuacct/docker/c0ffee/cpu.cfs_period_us": "100000\n",
		}, 6},
		"version 1, the path is the host's": {map[string]string{
			"proc/self/cgroup":                    "4:cpu,cpuacct:/docker/c0ffee\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "300000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, 3},
		"version 1, no limit": {map[string]string{
			"proc/self/cgroup":                    "1:cpu:/\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "-1\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
		}, 16},
		"both versions": {map[string]string{
			"proc/self/cgroup":                    "1:cpu:/\n0::/\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "500000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
			"sys/fs/cgroup/unified/cpu.max":       "900000 100000\n",
		}, 5},
		"nonsense says nothing": {map[string]string{
			"proc/self/cgroup":                    "junk\n0::/../..\n1:cpu:/\n",
			"sys/fs/cgroup/cpu.max":               "lots\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":  "many\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us": "0\n",
		}, 16},
		"a period of zero": {map[string]string{
			"proc/self/cgroup":      "0::/\n",
			"sys/fs/cgroup/cpu.max": "100000 0\n",
		}, 16},
	} {
		t.Run(name, func(t *testing.T) {
			root := fstest.MapFS{}
			for path, text := range test.files {
				root[path] = &fstest.MapFile{Data: []byte(text)}
			}
			require.Equal(t, test.want, cgroupCPUs(root, 16))
		})
	}
}
