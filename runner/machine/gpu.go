package machine

import (
	"context"
	"os/exec"
	"strconv"
	"strings"
)

// gpus asks the tool that comes with NVIDIA's driver; without it there is none.
func gpus(ctx context.Context) []GPU {
	out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits").Output()
	if err != nil {
		return nil
	}
	return parseGPUs(string(out))
}

// parseGPUs reads lines such as "NVIDIA H200, 143771": name and memory in MiB.
func parseGPUs(text string) (all []GPU) {
	for line := range strings.Lines(text) {
		comma := strings.LastIndexByte(line, ',')
		if comma < 0 {
			continue
		}
		mib, err := strconv.ParseInt(strings.TrimSpace(line[comma+1:]), 10, 64)
		if err != nil || mib < 0 || mib > 1<<40 {
			continue
		}
		all = append(all, GPU{strings.TrimSpace(line[:comma]), mib << 20})
	}
	return all
}
