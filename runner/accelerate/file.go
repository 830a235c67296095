package accelerate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
)

// maxConfig is far above any configuration file.
const maxConfig = 1 << 20

// ReadConfig reads a configuration file, YAML or JSON, whose keys are those in the tags of Config, and beside them
// preset, the name of one on whose settings the file's own are put. The result is not yet validated: what flags
// add to it may mend it.
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
		return Config{}, fmt.Errorf("accelerate: configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig is ReadConfig for the text of a file.
func ParseConfig(text []byte) (Config, error) {
	var file struct {
		Preset string `yaml:"preset"`
		Config `yaml:",inline"`
	}
	var named struct {
		Preset string `yaml:"preset"`
	}
	if err := decode(text, &named); err != nil {
		return Config{}, err
	}
	if named.Preset != "" {
		p, err := ParsePreset(named.Preset)
		if err != nil {
			return Config{}, err
		}
		p.Apply(&file.Config)
	}
	err := decode(text, &file, yaml.Strict())
	return file.Config, err
}

// decode gives errors in one line, with the place: "[3:1] unknown field "thread"".
func decode(text []byte, into any, options ...yaml.DecodeOption) error {
	err := yaml.UnmarshalWithOptions(text, into, options...)
	if err == nil || errors.Is(err, io.EOF) { // an empty file asks for nothing
		return nil
	}
	return errors.New(strings.Join(strings.Fields(yaml.FormatError(err, false, false)), " "))
}
