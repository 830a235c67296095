package ort

import (
	"testing"

	"github.com/klauspost/cpuid/v2"
	"github.com/stretchr/testify/require"
)

// The setting costs speed on CPUs that do not need it, and right results on those that do.
func TestSaturates(t *testing.T) {
	for _, c := range []struct {
		why      string
		features []cpuid.FeatureID
		want     bool
	}{
		{"ARM", []cpuid.FeatureID{cpuid.ASIMD, cpuid.ASIMDDP}, false},
		{"x86 with AVX2", []cpuid.FeatureID{cpuid.AVX2}, true},
		{"with AVX-512, without VNNI", []cpuid.FeatureID{cpuid.AVX2, cpuid.AVX512F, cpuid.AVX512BW}, true},
		{"with VNNI", []cpuid.FeatureID{cpuid.AVX2, cpuid.AVX512F, cpuid.AVX512VNNI}, false},
		{"with VNNI for AVX2", []cpuid.FeatureID{cpuid.AVX2, cpuid.AVXVNNI}, false},
	} {
		var cpu cpuid.CPUInfo
		for _, f := range c.features {
			cpu.Enable(f)
		}
		require.Equal(t, c.want, saturates(cpu), c.why)
	}
	entries := (&SessionConfig{ConfigEntries: map[string]string{keyExactIntegers: "0"}}).entries()
	require.Equal(t, "0", entries[keyExactIntegers], "a caller's entry wins")
}
