package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestEnergyMeter reads a folder like Linux's: two packages, a part of one, and the whole platform.
func TestEnergyMeter(t *testing.T) {
	root := t.TempDir()
	write := func(zone, file, text string) {
		require.NoError(t, os.MkdirAll(filepath.Join(root, zone), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(root, zone, file), []byte(text+"\n"), 0o666))
	}
	for zone, name := range map[string]string{
		"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core", "intel-rapl:2": "psys",
	} {
		write(zone, "name", name)
		write(zone, "max_energy_range_uj", "262143328850")
		write(zone, "energy_uj", "1000000")
	}
	m := newEnergyMeter(root)
	require.Len(t, m, 2)
	write("intel-rapl:0", "energy_uj", "3500000")
	write("intel-rapl:1", "energy_uj", "1000000")
	write("intel-rapl:0:0", "energy_uj", "3000000")
	joules, known := m.read()
	require.True(t, known)
	require.InDelta(t, 2.5, joules, 1e-9)

	write("intel-rapl:1", "energy_uj", "400000") // begun again
	joules, known = m.read()
	require.True(t, known)
	require.InDelta(t, 262143.32885-1+0.4, joules, 1e-6)

	write("intel-rapl:1", "energy_uj", "what")
	_, known = m.read()
	require.False(t, known)
	require.Empty(t, newEnergyMeter(root), "not all that there are: nothing is known")
	require.Empty(t, newEnergyMeter(filepath.Join(root, "absent")))
}
