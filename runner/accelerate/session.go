package accelerate

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
)

// Device is what runs a model: one of those below, or the name of an execution provider, as ort.Provider takes it.
type Device string

// The devices.
const (
	Auto   Device = "auto" // the first of CUDA, Core ML and CPU that works
	CPU    Device = "cpu"
	CUDA   Device = "cuda"
	CoreML Device = "coreml" // "mps", as others call it, is read as this
)

// Attention is a form of attention.
type Attention string

// The forms.
const (
	// Flash is GroupQueryAttention. On CPUs its kernel goes through keys and values in blocks that fit the
	// cache, with a running softmax; on CUDA the provider chooses among its flash kernels.
	Flash Attention = "flash"
	// MemoryEfficient is the same operator, with chunks of a prompt made smaller so that the scores of a layer
	// take ScoresBytes at most, whichever kernel ONNX Runtime chooses.
	MemoryEfficient Attention = "memory_efficient"
	// Plain is attention in ONNX's own operators, with a cache that is copied at each step.
	Plain Attention = "plain"
)

// ScoresBytes bounds the scores of one layer where attention is MemoryEfficient.
const ScoresBytes = 32 << 20

// KVType is the type of the KV cache.
type KVType string

// The types. A cache in floating point has the type of the activations; the others have scales, see KVScales.
const (
	KVFP32 KVType = "fp32"
	KVFP16 KVType = "fp16"
	KVBF16 KVType = "bf16"
	KVInt8 KVType = "int8"
	KVInt4 KVType = "int4" // two numbers in a byte
)

// Spin is how idle threads of the CPU wait for work.
type Spin string

// The ways to wait, see ort.Spin.
const (
	SpinOn    Spin = "on"     // in a loop: the next operator starts soonest, and CPUs are busy
	SpinOff   Spin = "off"    // asleep
	SpinInRun Spin = "in_run" // in a loop while a run is under way, asleep between runs
)

// session is s as a session takes it.
func (s Spin) session() ort.Spin {
	switch s {
	case SpinOn:
		return ort.SpinOn
	case SpinOff:
		return ort.SpinOff
	case SpinInRun:
		return ort.SpinInRun
	}
	return ort.SpinDefault
}

// Compile is what is done ahead of the first run.
type Compile string

// The levels.
const (
	// CompileOff runs the graph as it was built.
	CompileOff Compile = "off"
	// CompileDefault has ONNX Runtime optimise the graph fully, once: the result is kept, and loaded from then on.
	CompileDefault Compile = "default"
	// ReduceOverhead also binds all buffers once: a sequence has room for the whole context from its start, and
	// threads spin between operators. On a device, decode steps have one shape and one place in memory besides, which CUDA
	// records and plays back as CUDA graphs; see runner.Options.FixedSteps.
	ReduceOverhead Compile = "reduce_overhead"
	// MaxAutotune takes the settings that tuning has found for this model on this machine; see ReadProfile.
	MaxAutotune Compile = "max_autotune"
)

// What a zero Config stands for.
const (
	DefaultDevice    = Auto
	DefaultAttention = Flash
	DefaultCompile   = CompileDefault
)

// canonical is d as it is compared. What ONNX Runtime calls a provider in full, such as CUDAExecutionProvider, is its device;
// names of other providers keep their case.
func (d Device) canonical() Device {
	switch lower := Device(strings.ToLower(ort.ShortName(string(d)))); lower {
	case "":
		return DefaultDevice
	case "mps":
		return CoreML
	case Auto, CPU, CUDA, CoreML:
		return lower
	}
	return d
}

// target is what graphs for the device are optimised for; "" where the device does not say.
func (d Device) target() graphopt.Target {
	switch d.canonical() {
	case CUDA:
		return graphopt.CUDA
	case CoreML:
		return graphopt.CoreML
	}
	return ""
}

// dtype is the type of activations that the device computes fastest in.
func (d Device) dtype() DType {
	if d.canonical() == CUDA {
		return FP16 // attention has no kernel for float32 there
	}
	return DefaultDType
}

// sessionFaults lists what is wrong with the part of c that says how a model is run.
func (c Config) sessionFaults() (faults []string) {
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	oneOf := func(option, value string, known ...string) {
		fault(value != "" && !slices.Contains(known, value), "%s %q: want %s", option, value, choice(known))
	}
	oneOf("attention", string(c.Attention), string(Flash), string(MemoryEfficient), string(Plain))
	oneOf("compile", string(c.Compile), string(CompileOff), string(CompileDefault), string(ReduceOverhead), string(MaxAutotune))
	oneOf("spin", string(c.Spin), string(SpinOn), string(SpinOff), string(SpinInRun))
	oneOf("kv", string(c.KV), string(KVFP32), string(KVFP16), string(KVBF16), string(KVInt8), string(KVInt4))
	for _, n := range []struct {
		option string
		value  int
	}{{"device_id", c.DeviceID}, {"threads", c.Threads}, {"prefill_chunk", c.PrefillChunk}, {"max_context", c.MaxContext}, {"slots", c.Slots}, {"queue", c.Queue}} {
		fault(n.value < 0, "%s is %d: want 0 for the default, or a positive number", n.option, n.value)
	}
	fault(c.PrefixCache < 0, "prefix_cache is %d: want 0 for none, or a number of bytes", c.PrefixCache)
	fault(c.Queue > 0 && c.Slots == 0, "queue is %d without slots to wait for", c.Queue)
	device := c.Device.canonical()
	fault(device == CPU && len(c.ProviderOptions) > 0, "provider_options are for other devices than the cpu")
	fault(device == Auto && len(c.ProviderOptions) > 0, "provider_options without a device: name the device that they are for")
	fault(device == CUDA && c.Attention == Plain && set(c.ProviderOptions[keyCUDAGraph]),
		"provider option %s with plain attention, in which each step has another shape", keyCUDAGraph)
	fault(c.ProviderLibrary != "" && slices.Contains([]Device{Auto, CPU, CUDA, CoreML}, device),
		"provider_library %q: name the provider that it brings as the device", c.ProviderLibrary)
	return faults
}

// keyDeviceID is that which chooses a GPU.
const keyDeviceID = "device_id"

// keyCUDAGraph is the CUDA provider's option that has runs recorded and replayed.
const keyCUDAGraph = "enable_cuda_graph"

// set reports whether a provider's option is on.
func set(option string) bool {
	on, err := strconv.ParseBool(option)
	return err == nil && on
}

// fixesSteps reports whether decode steps on d have one shape and one place: for graphs of CUDA that somebody asked for by
// name, or as a part of ReduceOverhead.
func (c Config) fixesSteps(d Device) bool {
	if d == CPU || d == CoreML || c.Attention == Plain {
		return false
	}
	return c.Compile == ReduceOverhead && c.ProviderOptions[keyCUDAGraph] == "" || set(c.ProviderOptions[keyCUDAGraph])
}

// choice joins words as in "a, b or c".
func choice(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// provider is the execution provider of a device; the CPU needs none.
func (c Config) provider(d Device) []ort.Provider {
	if d == CPU {
		return nil
	}
	p := ort.Provider{Name: string(d), Options: map[string]string{}}
	if d == CUDA || c.DeviceID != 0 {
		p.Options[keyDeviceID] = fmt.Sprint(c.DeviceID)
	}
	for k, v := range c.ProviderOptions {
		p.Options[k] = v
	}
	return []ort.Provider{p}
}

// options are those of a runner on device d, without what is stored on disk.
func (c Config) options(d Device) runner.Options {
	o := runner.Options{
		Threads: c.Threads, Providers: c.provider(d),
		PrefillChunk: c.PrefillChunk, MaxContext: c.MaxContext,
		Slots: c.Slots, Queue: c.Queue, PrefixCache: c.PrefixCache,
		ConfigEntries: c.SessionEntries,
		Spin:          c.Spin.session(),
	}
	if c.Attention == MemoryEfficient {
		o.ScoresBytes = ScoresBytes
	}
	o.NoArena = c.Arena != nil && !*c.Arena
	if c.HugePages != nil {
		o.SmallPages = !*c.HugePages
	} else {
		o.SmallPages = c.PrepackWeights // what is packed at the start is only compared with the mapped weights, and let go
	}
	switch compile := cmp.Or(c.Compile, DefaultCompile); {
	case compile == CompileOff:
		o.Optimization = ort.OptimizeNone
	case c.FusedKernels != nil && !*c.FusedKernels:
		o.Optimization = ort.OptimizeBasic // the higher levels fuse
	}
	if c.fixesSteps(d) {
		o.FixedSteps = true
		if d == CUDA {
			o.Providers[0].Options[keyCUDAGraph] = "1"
		}
	}
	if c.Compile == ReduceOverhead {
		o.ReserveContext = true
		o.Spin = cmp.Or(o.Spin, ort.SpinOn)
	}
	return o
}
