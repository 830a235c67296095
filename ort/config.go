package ort

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/klauspost/cpuid/v2"
	binding "github.com/yalue/onnxruntime_go"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// SessionConfig says how a session runs. The zero value runs on all CPUs that the
// process may use, with all of ONNX Runtime's graph optimizations.
type SessionConfig struct {
	// Providers are tried in order for each node; what none of them takes runs on
	// the CPU. Default: the CPU alone.
	Providers []Provider
	// Threads work on one node together, the calling one among them. Default:
	// DefaultThreads.
	Threads int
	// InterOpThreads above 1 let independent nodes run at the same time. Default: 1.
	InterOpThreads int
	// Spin says whether idle threads wait for work in a loop, which answers faster
	// and burns their CPUs. Default: ONNX Runtime's, which is to spin.
	Spin Spin
	// Optimization is the level of graph optimization. Default: all of it.
	Optimization Optimization
	// DisabledOptimizers are left out, by the names they have in ONNX Runtime, such
	// as "ConstantFolding".
	DisabledOptimizers []string
	// OptimizedModelPath, if set, is where the optimized graph is written.
	OptimizedModelPath string
	// ProfilePrefix, if set, turns on profiling; it begins the name of the file that
	// Session.EndProfiling returns.
	ProfilePrefix string
	// NoArena takes memory for activations from the system rather than from an arena
	// that keeps it.
	NoArena bool
	// NoMemPattern keeps ONNX Runtime from laying out activations in one block
	// after the first run of a shape.
	NoMemPattern bool
	// HugePages has the weights that kernels pack on pages of 2 MB, on Linux: a decode step, which
	// reads all of them, is a tenth faster and more. Activations then go back to the system behind a run but for some MB,
	// as nearly with NoArena. For sessions on the CPU; elsewhere it does nothing.
	HugePages bool
	// RecordAssignment keeps which execution provider was given which nodes, for Session.Assignments.
	RecordAssignment bool
	// ConfigEntries are further settings, with the keys of ONNX Runtime's
	// onnxruntime_session_options_config_keys.h. They win over the fields above, and over the one setting that is made
	// here: on x86 CPUs without VNNI instructions session.x64quantprecision is 1. Their fastest instructions for products
	// of 8-bit integers saturate; with it slower ones are taken, which give the same results as other CPUs.
	ConfigEntries map[string]string
}

// A Provider is an execution provider and its options.
type Provider struct {
	// Name is cpu, cuda, tensorrt, coreml, directml or openvino, in any case; or the
	// name that OrtApi::SessionOptionsAppendExecutionProvider takes, such as WebGPU;
	// or that of a plug-in (RegisterProviderLibrary).
	Name string
	// Options are the provider's own, such as device_id.
	Options map[string]string
}

// Spin says how idle threads wait for work.
type Spin int

// The ways to wait.
const (
	SpinDefault Spin = iota // as ONNX Runtime has it
	SpinOn                  // in a loop
	SpinOff                 // asleep
	SpinInRun               // in a loop while a run is under way, asleep between runs: for sessions that take turns
)

// Optimization is a level of graph optimization.
type Optimization int

// Levels, as in ONNX Runtime's documentation of graph optimizations.
const (
	OptimizeAll      Optimization = iota // everything, layout changes too
	OptimizeNone                         // the graph as it is
	OptimizeBasic                        // constant folding and redundant nodes
	OptimizeExtended                     // fusions as well
)

// Keys of onnxruntime_session_options_config_keys.h.
const (
	keySpinning      = "session.intra_op.allow_spinning"
	keySpinningEnds  = "session.force_spinning_stop"
	keyOptimizers    = "optimization.disable_specified_optimizers"
	keyExactIntegers = "session.x64quantprecision"
	keyAllocators    = "session.use_env_allocators"
	keyAssignment    = "session.record_ep_graph_assignment_info"
)

// validate reports all that is wrong with c, at once.
func (c *SessionConfig) validate() error {
	var faults []string
	fault := func(wrong bool, format string, args ...any) {
		if wrong {
			faults = append(faults, fmt.Sprintf(format, args...))
		}
	}
	fault(c.Threads < 0, "Threads is %d, want 0 or more", c.Threads)
	fault(c.InterOpThreads < 0, "InterOpThreads is %d, want 0 or more", c.InterOpThreads)
	fault(c.Spin < SpinDefault || c.Spin > SpinInRun, "Spin is %d", c.Spin)
	fault(c.Optimization < OptimizeAll || c.Optimization > OptimizeExtended, "Optimization is %d", c.Optimization)
	fault(hasZero(c.OptimizedModelPath), "OptimizedModelPath holds a zero byte")
	fault(hasZero(c.ProfilePrefix), "ProfilePrefix holds a zero byte")
	for _, name := range c.DisabledOptimizers {
		fault(name == "" || hasZero(name) || strings.Contains(name, ";"), "DisabledOptimizers holds %q", name)
	}
	for _, key := range slices.Sorted(maps.Keys(c.ConfigEntries)) {
		fault(key == "" || hasZero(key) || hasZero(c.ConfigEntries[key]), "ConfigEntries holds %q = %q", key, c.ConfigEntries[key])
	}
	for i, p := range c.Providers {
		fault(p.Name == "" || hasZero(p.Name), "Providers[%d] is called %q", i, p.Name)
		for _, key := range slices.Sorted(maps.Keys(p.Options)) {
			fault(key == "" || hasZero(key) || hasZero(p.Options[key]), "Providers[%d] has the option %q = %q", i, key, p.Options[key])
		}
	}
	if len(faults) > 0 {
		return invalid("SessionConfig: %s", strings.Join(faults, "; "))
	}
	return nil
}

func hasZero(s string) bool { return strings.ContainsRune(s, 0) }

// options returns c as ONNX Runtime's session options. The caller destroys them.
func (c *SessionConfig) options(lib *runtimeLibrary) (*binding.SessionOptions, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	o, err := binding.NewSessionOptions()
	if err != nil {
		return nil, optionError(err)
	}
	if err := c.apply(lib, o); err != nil {
		_ = o.Destroy()
		return nil, err
	}
	return o, nil
}

func (c *SessionConfig) apply(lib *runtimeLibrary, o *binding.SessionOptions) error {
	threads := c.Threads
	if threads == 0 {
		threads = DefaultThreads()
	}
	steps := []error{
		o.SetIntraOpNumThreads(threads),
		o.SetGraphOptimizationLevel(c.Optimization.level()),
		o.SetCpuMemArena(!c.NoArena),
		o.SetMemPattern(!c.NoMemPattern),
	}
	if c.InterOpThreads > 1 {
		steps = append(steps, o.SetExecutionMode(binding.ExecutionModeParallel), o.SetInterOpNumThreads(c.InterOpThreads))
	}
	if c.OptimizedModelPath != "" {
		steps = append(steps, o.SetOptimizedModelFilePath(c.OptimizedModelPath))
	}
	if c.ProfilePrefix != "" {
		steps = append(steps, o.EnableProfiling(c.ProfilePrefix))
	}
	entries := c.entries()
	if _, set := entries[keyAllocators]; !set && c.HugePages && lib.hugePages && len(c.Providers) == 0 {
		entries[keyAllocators] = "1"
	}
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		steps = append(steps, o.AddSessionConfigEntry(key, entries[key]))
	}
	for _, err := range steps {
		if err != nil {
			return optionError(err)
		}
	}
	for _, p := range c.Providers {
		if err := p.append(lib, o); err != nil {
			return err
		}
	}
	return nil
}

// saturates reports whether pairs of products of unsigned and signed 8-bit integers are added in 16 bits, which is too
// few. ONNX Runtime's own test is coarser: with the setting it gives up VNNI instructions too (1.32, mlas/lib/platform.cpp).
func saturates(cpu cpuid.CPUInfo) bool {
	return cpu.Supports(cpuid.AVX2) && !cpu.Supports(cpuid.AVX512VNNI) && !cpu.Supports(cpuid.AVXVNNI)
}

// entries returns the configuration entries, those that stand for fields too.
func (c *SessionConfig) entries() map[string]string {
	entries := map[string]string{}
	if saturates(cpuid.CPU) {
		entries[keyExactIntegers] = "1"
	}
	switch c.Spin {
	case SpinOn:
		entries[keySpinning] = "1"
	case SpinOff:
		entries[keySpinning] = "0"
	case SpinInRun:
		entries[keySpinningEnds] = "1"
	}
	if c.RecordAssignment {
		entries[keyAssignment] = "1"
	}
	if len(c.DisabledOptimizers) > 0 {
		entries[keyOptimizers] = strings.Join(c.DisabledOptimizers, ";")
	}
	maps.Copy(entries, c.ConfigEntries)
	return entries
}

func (l Optimization) level() binding.GraphOptimizationLevel {
	switch l {
	case OptimizeNone:
		return binding.GraphOptimizationLevelDisableAll
	case OptimizeBasic:
		return binding.GraphOptimizationLevelEnableBasic
	case OptimizeExtended:
		return binding.GraphOptimizationLevelEnableExtended
	}
	return binding.GraphOptimizationLevelEnableAll
}

// optionError is for errors of the Go binding, which keeps the text alone.
func optionError(err error) error {
	return fmt.Errorf("ort: session options: %w: %s", ErrInvalidArgument, capi.OneLine(err.Error()))
}
