//go:build unix

package runner_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/ort/orttest"
	"github.com/qwenrt/qwenrt/runner"
)

// onDevice gives options with the tests' device.
func onDevice(t *testing.T, o runner.Options) runner.Options {
	t.Helper()
	orttest.Register(t)
	o.Providers = []ort.Provider{{Name: orttest.Provider}}
	return o
}

// counted gives what the device does in f.
func counted(t *testing.T, f func()) orttest.Counters {
	t.Helper()
	before := orttest.Read(t)
	f()
	return orttest.Read(t).Since(before)
}

// small is an optimised export whose shape is that of most tests here.
var small = toy{layers: 2, heads: 2, headDim: 16, rotary: toyContext}

// TestOperationsOnDevice is TestOperations where cache and logits are out of Go's reach. Memory of the device that was not
// written to is far from zero.
func TestOperationsOnDevice(t *testing.T) {
	for name, c := range map[string]struct {
		model   toy
		options runner.Options
	}{
		"shared cache":         {small, runner.Options{PrefillChunk: 40, PrefixCache: 1 << 16}},
		"unshared cache":       {toy{layers: 2, heads: 2, unshared: true}, runner.Options{PrefillChunk: 40, PrefixCache: 1 << 16}},
		"slots":                {small, runner.Options{PrefillChunk: 40, Slots: 4, PrefixCache: 1 << 16}},
		"fixed steps":          {small, runner.Options{PrefillChunk: 40, FixedSteps: true, PrefixCache: 1 << 16}},
		"fixed steps of slots": {small, runner.Options{PrefillChunk: 40, FixedSteps: true, Slots: 4}},
	} {
		t.Run(name, func(t *testing.T) {
			runs := orttest.Read(t).Runs
			operate(t, c.model.open(t, onDevice(t, c.options)), 600)
			if c.options.FixedSteps {
				requireRecordable(t, runs)
			}
		})
	}
}

// requireRecordable holds that of the runs from one on, those with the same mark are given the same memory in the same
// shapes, and gives how many have which mark.
func requireRecordable(t *testing.T, from int64) map[string]int {
	t.Helper()
	first, count := map[string]orttest.Run{}, map[string]int{}
	for _, r := range orttest.Runs(t, from) {
		count[r.Graph]++
		require.NotEmpty(t, r.Graph)
		if r.Graph == "-1" {
			continue
		}
		if known, ok := first[r.Graph]; ok {
			require.Equal(t, known, r)
		}
		first[r.Graph] = r
	}
	return count
}

// TestDeviceStep counts what a decode step copies between host and device: the token, where it is, and a row of logits,
// however long the context is.
func TestDeviceStep(t *testing.T) {
	for _, c := range []struct {
		why   string
		model toy
		row   int64 // bytes of logits
	}{
		{"an optimised export", small, 4 * 16},
		{"positions are an input", toy{layers: 2, positions: true}, 4 * 16},
		{"all rows of logits are computed", toy{layers: 2, noKeep: true}, 4 * 16},
		{"float16 logits", toy{layers: 2, logits: ir.Float16}, 2 * 16},
		{"a cache of 8 bits", toy{layers: 2, kvBits: 8, headDim: 16}, 4 * 16},
		{"a past that is not written in place", toy{layers: 2, unshared: true}, 4 * 16},
	} {
		for _, fixed := range []bool{false, true} {
			if fixed && c.model.unshared {
				continue
			}
			r := c.model.open(t, onDevice(t, runner.Options{FixedSteps: fixed}))
			for _, context := range []int{20, 1500} {
				s := sequence(t, r)
				require.NoError(t, s.Reserve(context+8))
				did := counted(t, func() { prefill(t, s, c.model.prompt(context)) })
				// A chunk copies its tokens; chunks before the last copy a row of logits that nobody reads.
				require.Less(t, did.BytesIn, int64(16*context+100*8), c.why)
				decode(t, s, 1) // where the mask has a fixed length, it gets the ones of the prompt
				step := counted(t, func() { decode(t, s, 1) })
				require.LessOrEqual(t, step.BytesIn, int64(4*8), "%s, %v: token, position, rows to keep, an entry of the mask", c.why, fixed)
				require.Equal(t, c.row, step.BytesOut, c.why)
				require.EqualValues(t, 1, step.CopiesOut, c.why)
				require.Zero(t, step.BytesWithin, c.why)
				require.EqualValues(t, 1, step.Runs, c.why)
				if fixed {
					require.Zero(t, step.Allocations, c.why)
				} else if !c.model.unshared {
					require.LessOrEqual(t, step.Allocations, int64(1), "%s: rows to keep", c.why)
				}
				s.Close()
			}
		}
	}
}

func prefill(t *testing.T, s *runner.Sequence, tokens []int32) {
	t.Helper()
	_, err := s.Prefill(context.Background(), tokens)
	require.NoError(t, err)
}

func decode(t *testing.T, s *runner.Sequence, token int32) {
	t.Helper()
	_, err := s.Decode(context.Background(), token)
	require.NoError(t, err)
}

// TestDeviceSlotsStep does so for a step of several generations, whose masks differ.
func TestDeviceSlotsStep(t *testing.T) {
	r := small.open(t, onDevice(t, runner.Options{Slots: 2}))
	var slots []runner.Decoder
	for _, n := range []int{900, 20} {
		d, err := runner.NewDecoder(t.Context(), r)
		require.NoError(t, err)
		defer d.Close()
		require.NoError(t, d.Reserve(1000))
		_, err = d.Prefill(t.Context(), small.prompt(n))
		require.NoError(t, err)
		slots = append(slots, d)
	}
	step := func() {
		for _, d := range slots {
			_, err := d.Decode(t.Context(), 1)
			require.NoError(t, err)
		}
	}
	step() // the first one makes the mask
	did := counted(t, step)
	steps := did.Runs // one after the other, or together: each has as many rows as the batch
	require.LessOrEqual(t, did.BytesIn, steps*2*4*8)
	require.LessOrEqual(t, did.BytesOut, steps*2*4*16)
	require.Zero(t, did.BytesWithin)
	require.Zero(t, did.Allocations)
}

// TestDeviceCacheGrows holds that what is in the cache stays on the device when it moves.
func TestDeviceCacheGrows(t *testing.T) {
	r := small.open(t, onDevice(t, runner.Options{}))
	s := sequence(t, r)
	prefill(t, s, small.prompt(300))
	capacity, kv := s.Capacity(), r.Info().KVBytes(1)
	did := counted(t, func() { require.NoError(t, s.Reserve(capacity+1)) })
	require.Equal(t, 300*kv, did.BytesWithin)
	require.LessOrEqual(t, did.BytesIn, int64(8*s.Capacity()), "a new attention mask")
	require.Zero(t, did.BytesOut)
	did = counted(t, func() {
		f, err := s.Fork()
		require.NoError(t, err)
		f.Close()
	})
	require.Equal(t, 300*kv, did.BytesWithin, "a fork")
	require.Zero(t, did.BytesOut)
	did = counted(t, func() { require.NoError(t, s.Truncate(10)) })
	require.Equal(t, orttest.Counters{}, did)
	requireFresh(t, small.open(t, runner.Options{}), s, s.Tokens())
}

// TestDeviceMemory holds that all memory of the device is given back, whoever is closed first.
func TestDeviceMemory(t *testing.T) {
	for name, o := range map[string]runner.Options{
		"sequences": {PrefixCache: 1 << 20}, "slots": {Slots: 3}, "fixed steps": {FixedSteps: true}, "fixed steps of slots": {FixedSteps: true, Slots: 2},
	} {
		before := orttest.Read(t)
		r, err := runner.Open(t.Context(), small.folder(t), onDevice(t, o))
		require.NoError(t, err)
		for range 3 {
			_, err := r.Answers(t.Context(), runner.Request{Tokens: small.prompt(300), MaxTokens: 20, N: 2})
			require.NoError(t, err, name)
		}
		s, err := r.NewSequence()
		require.NoError(t, err)
		prefill(t, s, small.prompt(5))
		require.NoError(t, r.Close())
		s.Close()
		after := orttest.Read(t)
		require.Equal(t, before.Blocks, after.Blocks, name)
		require.Equal(t, before.Bytes, after.Bytes, name)
		require.Equal(t, before.Faults, after.Faults, name)
	}
}

// TestDeviceAllocates nothing on Go's heap in a decode step.
func TestDeviceAllocates(t *testing.T) {
	for _, o := range []runner.Options{{}, {FixedSteps: true}} {
		r := small.open(t, onDevice(t, o))
		s := sequence(t, r)
		require.NoError(t, s.Reserve(1000))
		prefill(t, s, small.prompt(3))
		decode(t, s, 1)
		require.Zero(t, testing.AllocsPerRun(100, func() { decode(t, s, 1) }))
	}
}

// TestResidence holds what is told of where cache and logits lie.
func TestResidence(t *testing.T) {
	dir := small.folder(t)
	cpu := open(t, dir, runner.Options{}).Info()
	require.Equal(t, []string{"Cpu", "Cpu", ""}, []string{cpu.KVMemory, cpu.LogitsMemory, cpu.MemoryReason})
	r := open(t, dir, onDevice(t, runner.Options{}))
	device := r.Info()
	require.Equal(t, []string{"TestDevice:0", "TestDevice:0", ""}, []string{device.KVMemory, device.LogitsMemory, device.MemoryReason})
}

// TestResidenceElsewhere holds what becomes of a cache that has no one place on a device, and of memory that tensors cannot
// be copied to.
func TestResidenceElsewhere(t *testing.T) {
	dir := small.folder(t)
	r, cpu := open(t, dir, onDevice(t, runner.Options{})), open(t, dir, runner.Options{})
	device, err := runner.Session(r).InputLocation("input_ids")
	require.NoError(t, err)
	at := func(others ort.Location, names ...string) func(string) (ort.Location, error) {
		return func(name string) (ort.Location, error) {
			if slices.Contains(names, name) {
				return ort.Location{}, nil
			}
			return others, nil
		}
	}
	for why, c := range map[string]struct {
		model         *runner.Runner
		input, output func(string) (ort.Location, error)
		kv, logits    ort.Location
		reason        string
	}{
		"all on the device":        {r, at(device), at(device), device, device, "^$"},
		"a past on the CPU":        {r, at(device, "past_key_values.1.value"), at(device), ort.Location{}, device, `past_key_values.1.value in memory Cpu, and present.1.value in TestDevice:0`},
		"a present on the CPU":     {r, at(device), at(device, "present.0.key"), ort.Location{}, device, `past_key_values.0.key in memory TestDevice:0, and present.0.key in Cpu`},
		"logits on the CPU":        {r, at(device), at(device, "logits"), device, ort.Location{}, "^$"},
		"memory out of reach":      {cpu, at(device), at(device), ort.Location{}, ort.Location{}, "memory TestDevice:0 cannot be reached"},
		"a session on CPU already": {cpu, at(ort.Location{}), at(ort.Location{}), ort.Location{}, ort.Location{}, "^$"},
	} {
		kv, logits, reason, err := runner.Residence(c.model, c.input, c.output)
		require.NoError(t, err)
		require.Equal(t, c.kv, kv, why)
		require.Equal(t, c.logits, logits, why)
		require.Regexp(t, c.reason, reason, why)
	}
}
