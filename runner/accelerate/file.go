package accelerate

import (
	"fmt"
	"io"
	"os"
)

// maxConfig is far above any configuration file.
const maxConfig = 1 << 20

// ReadConfig reads a configuration file, YAML or JSON, whose keys are those in the tags of Config, and beside them
// preset, the name of one on whose settings the file's own are put. The result is not yet validated: what flags
// add to it may mend it. The error lists all that cannot be read, with its places; the rest is in the result, for those who go on
// to say what else is wrong. Of YAML, anchors, aliases and tags are left out.
func ReadConfig(path string) (Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return Config{}, fmt.Errorf("accelerate: configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(text) > maxConfig {
		err = fmt.Errorf("more than %d bytes", maxConfig)
	}
	var c Config
	if err == nil {
		c, err = ParseConfig(text)
	}
	if err != nil {
		err = fmt.Errorf("accelerate: configuration %s: %w", path, err)
	}
	return c, err
}

// ParseConfig is ReadConfig for the text of a file.
func ParseConfig(text []byte) (Config, error) {
	var named struct {
		Preset presetName `yaml:"preset"`
	}
	_ = decode(text, &named) // what is wrong is found below
	var file struct {
		Preset presetName `yaml:"preset"`
		Config `yaml:",inline"`
	}
	if p, err := ParsePreset(string(named.Preset)); err == nil {
		p.Apply(&file.Config)
	}
	err := decode(text, &file)
	return file.Config, err
}

// presetName is that of a preset.
type presetName string

// UnmarshalText reads what ParsePreset reads.
func (n *presetName) UnmarshalText(text []byte) error {
	p, err := ParsePreset(string(text))
	*n = presetName(p.Name)
	return err
}
