package machine

import (
	"slices"
	"testing"

	"github.com/klauspost/cpuid/v2"
	"github.com/stretchr/testify/require"
)

func TestLook(t *testing.T) {
	m := Look(t.Context())
	require.NotEmpty(t, m.CPU)
	require.Positive(t, m.Threads)
	require.GreaterOrEqual(t, m.CPUs, m.Threads)
}

func TestFeatures(t *testing.T) {
	has := func(ids ...cpuid.FeatureID) func(cpuid.FeatureID) bool {
		return func(id cpuid.FeatureID) bool { return slices.Contains(ids, id) }
	}
	for _, c := range []struct {
		why, arch string
		has       func(cpuid.FeatureID) bool
		names     []string
		fast      bool
	}{
		{"a server", "amd64", has(cpuid.AVX2, cpuid.AVX512F, cpuid.AVX512VNNI, cpuid.AMXINT8), []string{"AVX2", "AVX-512", "AVX-512-VNNI", "AMX-INT8"}, true},
		{"a virtual machine that hides its CPU", "amd64", has(), nil, false},
		{"an Apple M1", "arm64", has(cpuid.ASIMD, cpuid.ASIMDDP), []string{"NEON", "DotProd"}, true},
		{"a Raspberry Pi 4", "arm64", has(cpuid.ASIMD), []string{"NEON"}, false},
		{"an architecture that nothing is known of", "riscv64", has(), nil, true},
	} {
		require.Equal(t, c.names, features(c.has), c.why)
		require.Equal(t, c.fast, fastIntegers(c.arch, c.has), c.why)
	}
}

func TestFree(t *testing.T) {
	for _, c := range []struct {
		why  string
		m    Memory
		want int64
	}{
		{"nothing is known", Memory{}, 0},
		{"a system that tells only what it has", Memory{Total: 8}, 8},
		{"what is available counts", Memory{Total: 8, Available: 5}, 5},
		{"a group's limit above that", Memory{Total: 8, Available: 5, Limit: 6}, 5},
		{"a group's limit below that", Memory{Total: 8, Available: 5, Limit: 3}, 3},
		{"a limit alone", Memory{Limit: 3}, 3},
	} {
		require.Equal(t, c.want, c.m.Free(), c.why)
	}
}

func TestGPUs(t *testing.T) {
	require.Equal(t, []GPU{{"NVIDIA H200", 143771 << 20}, {"Tesla T4, 16 GB", 15360 << 20}},
		parseGPUs("NVIDIA H200, 143771\nTesla T4, 16 GB, 15360\n"))
	require.Empty(t, parseGPUs("No devices were found\nX, [N/A]\nY, -1\n"))
}
