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

// Entries are in ONNX Runtime's session options as its documentation has them, and nothing is there that nobody asked for.
func TestEntriesOfFields(t *testing.T) {
	require.NoError(t, Init(Environment{}))
	lib, err := current()
	require.NoError(t, err)
	keys := []string{
		"session.intra_op.allow_spinning", "session.force_spinning_stop", "session.record_ep_graph_assignment_info",
		"optimization.disable_specified_optimizers", "session.use_env_allocators", "session.set_denormal_as_zero",
	}
	for _, c := range []struct {
		why    string
		config SessionConfig
		want   map[string]string
	}{
		{"the defaults", SessionConfig{}, map[string]string{}},
		{"spin", SessionConfig{Spin: SpinOn}, map[string]string{"session.intra_op.allow_spinning": "1"}},
		{"sleep", SessionConfig{Spin: SpinOff}, map[string]string{"session.intra_op.allow_spinning": "0"}},
		{"spin in a run", SessionConfig{Spin: SpinInRun}, map[string]string{"session.force_spinning_stop": "1"}},
		{"assignments", SessionConfig{RecordAssignment: true}, map[string]string{"session.record_ep_graph_assignment_info": "1"}},
		{"optimizers", SessionConfig{DisabledOptimizers: []string{"A", "B"}}, map[string]string{"optimization.disable_specified_optimizers": "A;B"}},
		{"an entry", SessionConfig{ConfigEntries: map[string]string{"session.set_denormal_as_zero": "1"}}, map[string]string{"session.set_denormal_as_zero": "1"}},
		{"an entry wins over a field", SessionConfig{Spin: SpinOn, ConfigEntries: map[string]string{"session.intra_op.allow_spinning": "0"}},
			map[string]string{"session.intra_op.allow_spinning": "0"}},
		{"huge pages, on a device", SessionConfig{HugePages: true, Providers: []Provider{{Name: "cpu"}}}, map[string]string{}},
	} {
		o, err := c.config.options(lib)
		require.NoError(t, err, c.why)
		got := map[string]string{}
		for _, key := range keys {
			has, err := o.HasSessionConfigEntry(key)
			require.NoError(t, err, c.why)
			if has {
				got[key], err = o.GetSessionConfigEntry(key)
				require.NoError(t, err, c.why)
			}
		}
		require.Equal(t, c.want, got, c.why)
		require.NoError(t, o.Destroy())
	}
}
