package accelerate

import (
	"fmt"
	"slices"
)

// An Option changes a configuration; see New.
type Option func(*Config)

// New makes a configuration of the options, which apply in order, on top of flash attention and no quantisation.
// The error lists all that is wrong with the result. (The zero Config, in contrast, stands for what is fastest on
// a CPU, with weights in INT4.)
func New(options ...Option) (Config, error) {
	c := Config{Precision: None, Attention: Flash}
	for _, o := range options {
		o(&c)
	}
	return c, c.Validate()
}

// With sets anything: accelerate.With(func(c *accelerate.Config) { c.BlockSize = 128 }).
func With(set func(*Config)) Option { return set }

// WithPrecision stores weights in p.
func WithPrecision(p Precision) Option { return func(c *Config) { c.Precision = p } }

// WithDevice runs the model on d.
func WithDevice(d Device) Option { return func(c *Config) { c.Device = d } }

// WithAttention takes this form of attention.
func WithAttention(a Attention) Option { return func(c *Config) { c.Attention = a } }

// WithCompile does this ahead of the first run.
func WithCompile(l Compile) Option { return func(c *Config) { c.Compile = l } }

// WithKV keeps keys and values in t.
func WithKV(t KVType) Option { return func(c *Config) { c.KV = t } }

// WithThreads runs on n threads.
func WithThreads(n int) Option { return func(c *Config) { c.Threads = n } }

// WithPrefillChunk runs n tokens of a prompt at once.
func WithPrefillChunk(n int) Option { return func(c *Config) { c.PrefillChunk = n } }

// WithStrict makes an error of what cannot be applied.
func WithStrict() Option { return func(c *Config) { c.Strict = true } }

// Preset is a configuration for a purpose.
type Preset struct {
	Name, Doc string
	// Apply sets what the preset is about, and leaves the rest.
	Apply Option
}

// Presets lists the presets.
func Presets() []Preset {
	return []Preset{
		{"development", "exact results and the shortest way to them: nothing quantised, nothing kept on disk but the model", func(c *Config) {
			c.Precision, c.Device, c.Compile = None, CPU, CompileOff
		}},
		{"cpu-production", "the fastest on a CPU: INT4, the optimised graph and packed weights mapped from disk", func(c *Config) {
			c.Precision, c.Device, c.Compile, c.PrepackWeights = Int4, CPU, CompileDefault, true
		}},
		{"gpu-production", "CUDA in float16, weights in INT4, buffers bound once", func(c *Config) {
			c.Precision, c.DType, c.Device, c.Compile = Int4, FP16, CUDA, ReduceOverhead
		}},
		{"apple", "Core ML in fp32, in the ML Program format, with compiled models kept", func(c *Config) {
			c.Precision, c.Device = None, CoreML
			c.ProviderOptions = map[string]string{"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
		}},
		{"low-memory", "INT4 with the least memory beside the weights: small chunks, bounded scores, packed weights mapped from disk", func(c *Config) {
			c.Precision, c.Device, c.Attention, c.PrefillChunk, c.PrepackWeights = Int4, CPU, MemoryEfficient, 64, true
		}},
	}
}

// ParsePreset finds a preset by its name.
func ParsePreset(name string) (Preset, error) {
	all := Presets()
	i := slices.IndexFunc(all, func(p Preset) bool { return p.Name == name })
	if i >= 0 {
		return all[i], nil
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name
	}
	return Preset{}, fmt.Errorf("accelerate: preset %q: want %s", name, choice(names))
}
