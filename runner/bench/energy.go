package bench

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// powercap is where Linux shows counters of energy (RAPL), to root as a rule.
const powercap = "/sys/class/powercap"

// energyMeter reads the energy of all packages of the CPU. One without packages knows nothing.
type energyMeter []energyCounter

// energyCounter is the counter of one package. It begins again at 0 behind its range.
type energyCounter struct {
	file   string
	limit  uint64 // in µJ
	before uint64
}

// newEnergyMeter finds the packages under root. Their parts, such as cores and memory controllers, and the counter of the whole
// platform would count energy twice.
func newEnergyMeter(root string) energyMeter {
	names, _ := filepath.Glob(filepath.Join(root, "*", "name")) // the pattern is right
	var m energyMeter
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(text), "package") {
			continue
		}
		zone := filepath.Dir(name)
		limit, err := readCounter(filepath.Join(zone, "max_energy_range_uj"))
		if err != nil {
			return nil
		}
		m = append(m, energyCounter{file: filepath.Join(zone, "energy_uj"), limit: limit})
	}
	if _, known := m.read(); !known {
		return nil
	}
	return m
}

// read gives the joules since the last call, and whether they are known.
func (m energyMeter) read() (joules float64, known bool) {
	for i := range m {
		now, err := readCounter(m[i].file)
		if err != nil {
			return 0, false
		}
		spent := now - m[i].before
		if now < m[i].before {
			spent += m[i].limit
		}
		joules += float64(spent) / 1e6
		m[i].before = now
	}
	return joules, len(m) > 0
}

func readCounter(path string) (uint64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
