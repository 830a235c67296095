package machine

import (
	"context"
	"runtime"

	"github.com/klauspost/cpuid/v2"

	"github.com/qwenrt/qwenrt/ort"
)

// Machine is what models have to run on.
type Machine struct {
	CPU      string   `json:"cpu"`      // brand name
	Arch     string   `json:"arch"`     // as in GOARCH
	CPUs     int      `json:"cpus"`     // logical, that the system shows
	Threads  int      `json:"threads"`  // that this process may use, see ort.DefaultThreads
	Features []string `json:"features"` // instruction sets for which kernels have code of their own
	Memory   Memory   `json:"memory"`
	GPUs     []GPU    `json:"gpus,omitempty"`
}

// Memory is in bytes; 0 is unknown, and for Limit also none.
type Memory struct {
	Total     int64 `json:"total"`
	Available int64 `json:"available,omitempty"` // without swapping
	Limit     int64 `json:"limit,omitempty"`     // of the control group
}

// Free is what a model may take, 0 if that is unknown.
func (m Memory) Free() int64 {
	free := m.Available
	if free == 0 {
		free = m.Total
	}
	if m.Limit > 0 && (free == 0 || m.Limit < free) {
		free = m.Limit
	}
	return free
}

// GPU is an NVIDIA device, as its driver tells.
type GPU struct {
	Name   string `json:"name"`
	Memory int64  `json:"memory"` // bytes
}

// Look gathers facts; it measures nothing. ctx bounds the question to the GPU's driver.
func Look(ctx context.Context) Machine {
	return Machine{
		CPU:      CPUName(),
		Arch:     runtime.GOARCH,
		CPUs:     runtime.NumCPU(),
		Threads:  ort.DefaultThreads(),
		Features: Features(),
		Memory:   ReadMemory(),
		GPUs:     gpus(ctx),
	}
}

// CPUName is the brand name of the CPU, or the architecture where there is none.
func CPUName() string {
	if cpuid.CPU.BrandName != "" {
		return cpuid.CPU.BrandName
	}
	return "unknown " + runtime.GOARCH
}

// ReadMemory reads what the system tells.
func ReadMemory() Memory { return readMachine() }

// kernelFeatures are the instructions for which ONNX Runtime's CPU kernels (MLAS) have code of their own.
var kernelFeatures = []struct {
	name string
	id   cpuid.FeatureID
}{
	{"AVX2", cpuid.AVX2}, {"AVX-512", cpuid.AVX512F}, {"AVX-512-VNNI", cpuid.AVX512VNNI}, {"AVX-VNNI", cpuid.AVXVNNI},
	{"AVX-512-BF16", cpuid.AVX512BF16}, {"AMX-INT8", cpuid.AMXINT8}, {"AMX-BF16", cpuid.AMXBF16},
	{"NEON", cpuid.ASIMD}, {"FP16", cpuid.ASIMDHP}, {"DotProd", cpuid.ASIMDDP}, {"I8MM", cpuid.I8MM}, {"SVE", cpuid.SVE}, {"SVE2", cpuid.SVE2},
}

// Features names the CPU's instruction sets for which ONNX Runtime's kernels have code of their own.
func Features() []string { return features(cpuid.CPU.Has) }

func features(has func(cpuid.FeatureID) bool) []string {
	var names []string
	for _, f := range kernelFeatures {
		if has(f.id) {
			names = append(names, f.name)
		}
	}
	return names
}

// integerFeatures are those of which INT4 products need one to be fast, by architecture.
var integerFeatures = map[string][]cpuid.FeatureID{
	"amd64": {cpuid.AVX2},
	"arm64": {cpuid.ASIMDDP, cpuid.I8MM},
}

// FastIntegers reports whether the CPU has instructions without which products of quantised weights are slow.
func FastIntegers() bool { return fastIntegers(runtime.GOARCH, cpuid.CPU.Has) }

func fastIntegers(arch string, has func(cpuid.FeatureID) bool) bool {
	for _, id := range integerFeatures[arch] {
		if has(id) {
			return true
		}
	}
	return len(integerFeatures[arch]) == 0
}
