package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// AnyMachine is the class of values that every machine gives.
const AnyMachine = "any"

// Baseline is a file of values to compare with. It is made to lie in a repository: machines and metrics are sorted by name, so
// that a diff shows what has changed.
type Baseline struct {
	// Machines has the values of each class of machines, and under AnyMachine those that do not depend on one.
	Machines map[string]map[string]Value `json:"machines"`
}

// ReadBaseline reads a file. One that is not there has no values.
func ReadBaseline(path string) (*Baseline, error) {
	b := &Baseline{Machines: map[string]map[string]Value{}}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err == nil {
		err = json.Unmarshal(text, b)
	}
	if err != nil {
		return nil, fmt.Errorf("gate: baseline %s: %w: repair it, or delete it and use --update-baseline", path, err)
	}
	if b.Machines == nil {
		b.Machines = map[string]map[string]Value{}
	}
	return b, nil
}

// class is the class of machines under which the values of m are.
func class(m Metric, machine string) string {
	if m.Machine {
		return machine
	}
	return AnyMachine
}

// Lookup gives the value of a metric on a machine.
func (b *Baseline) Lookup(m Metric, machine string) (Value, bool) {
	v, ok := b.Machines[class(m, machine)][m.Name]
	return v, ok
}

// Set puts a value in the place of an older one.
func (b *Baseline) Set(m Metric, machine string, v Value) {
	key := class(m, machine)
	if b.Machines[key] == nil {
		b.Machines[key] = map[string]Value{}
	}
	b.Machines[key][m.Name] = v
}

// Encode gives the text of the file.
func (b *Baseline) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("gate: baseline: %w", err)
	}
	return append(text, '\n'), nil
}
