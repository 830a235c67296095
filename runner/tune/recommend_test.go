package tune

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/machine"
)

var small = Qwen3Small()

// rates were measured on two cores of an AMD EPYC with AVX-512-VNNI.
var rates = Rates{
	Products: map[Kernel]machine.Rate{
		{machine.Float32, 0}:     {Decode: 9e9, Prefill: 95e9},
		{machine.Int8, 32}:       {Decode: 25e9, Prefill: 135e9},
		{machine.DynamicInt8, 0}: {Decode: 24e9, Prefill: 350e9},
		{machine.StaticInt8, 0}:  {Decode: 21e9, Prefill: 340e9},
		{machine.Int4, 32}:       {Decode: 40e9, Prefill: 125e9},
		{machine.Int4, 128}:      {Decode: 50e9, Prefill: 176e9},
	},
	Rest: map[machine.Cache]machine.Rest{
		machine.CacheFloat32: {Decode: 17 * time.Microsecond, DecodeKV: 380 * time.Nanosecond, Prefill: 19 * time.Microsecond},
		machine.CacheInt8:    {Decode: 18 * time.Microsecond, DecodeKV: 150 * time.Nanosecond, Prefill: 35 * time.Microsecond},
	},
}

func TestChoose(t *testing.T) {
	const gb = 1 << 30
	for _, c := range []struct {
		why  string
		q    Request
		want string
	}{
		{"the fewest bits decode fastest", Request{Goal: Latency, Memory: 24 * gb}, "int4-b128-kv8"},
		{"the bits of a cache that holds next to nothing do not matter", Request{Goal: Latency, Context: 16, Memory: 24 * gb}, "int4-b128"},
		{"nothing is as exact as fp32", Request{Goal: Quality, Memory: 24 * gb}, "none"},
		{"fp32 does not fit: the next best", Request{Goal: Quality, Memory: 2 * gb}, "int8"},
		{"an answer a quarter as long as the prompt takes longer than the prompt", Request{Goal: Throughput, Memory: 24 * gb}, "int4-b128-kv8"},
		{"the smallest", Request{Goal: LowMemory}, "int4-b128-kv8"},
	} {
		q, err := c.q.resolve(small, machine.Machine{})
		require.NoError(t, err)
		a, err := choose(small, q, machine.Machine{}, rates)
		require.NoError(t, err)
		require.Equal(t, c.want, a.Best.Name, c.why)
		require.NotEmpty(t, a.Why)
		require.Len(t, a.All, len(candidates))
		require.NoError(t, a.Best.Config.Validate())
	}
	_, err := choose(small, Request{Device: accelerate.CPU, Goal: Latency, Context: 2048, Memory: gb / 4}, machine.Machine{}, rates)
	require.ErrorIs(t, err, ErrNothingFits)
	require.ErrorContains(t, err, "int4-b128-kv8 takes the least")
}

// Where estimates are within a hair of each other, quality decides.
func TestChooseAlike(t *testing.T) {
	same := rates.Rest[machine.CacheFloat32]
	even := Rates{
		Products: map[Kernel]machine.Rate{},
		Rest:     map[machine.Cache]machine.Rest{machine.CacheFloat32: same, machine.CacheInt8: same},
	}
	for _, c := range candidates {
		even.Products[c.kernel] = machine.Rate{Decode: 30e9, Prefill: 100e9}
	}
	a, err := choose(small, Request{Device: accelerate.CPU, Goal: Latency, Context: 2048}, machine.Machine{}, even)
	require.NoError(t, err)
	require.Equal(t, "none", a.Best.Name)
}

func TestRequestFaults(t *testing.T) {
	_, err := Request{Device: "tpu", Goal: "cheap", Context: 50000, Memory: -1}.resolve(small, machine.Machine{})
	require.ErrorContains(t, err, `goal "cheap"`)
	require.ErrorContains(t, err, "the model takes 1 to 40960 tokens")
	require.ErrorContains(t, err, "memory -1")
	require.ErrorContains(t, err, `device "tpu"`)
	q, err := Request{}.resolve(small, machine.Machine{Memory: machine.Memory{Available: 7}})
	require.NoError(t, err)
	require.Equal(t, Request{Device: accelerate.CPU, Goal: Latency, Context: DefaultContext, Memory: 7}, q)
}

// Where no speed is known, none is claimed: bytes decide, and the GPU's memory is the limit.
func TestOtherDevices(t *testing.T) {
	gpu := machine.Machine{Memory: machine.Memory{Total: 1}, GPUs: []machine.GPU{{Name: "NVIDIA T4", Memory: 16 << 30}}}
	for goal, want := range map[Goal]string{Latency: "int4-fp16", Quality: "fp16", LowMemory: "int4-fp16"} {
		q, err := Request{Device: accelerate.CUDA, Goal: goal}.resolve(small, gpu)
		require.NoError(t, err)
		a, err := choose(small, q, gpu, Rates{})
		require.NoError(t, err)
		require.Equal(t, want, a.Best.Name)
		require.Zero(t, a.Best.Speed)
		require.Equal(t, int64(16<<30), a.Limit)
		decode, _ := a.Formula(small, a.Best)
		require.Empty(t, decode)
	}
	a, err := choose(small, Request{Device: accelerate.CoreML, Goal: Latency, Context: 128}, gpu, Rates{})
	require.NoError(t, err)
	require.Equal(t, "none", a.Best.Name)
	require.Contains(t, a.Why[0], "never measured")
}

// What is best by measurement is told apart from what was recommended.
func TestJudge(t *testing.T) {
	a, err := choose(small, Request{Device: accelerate.CPU, Goal: Latency, Context: 2048}, machine.Machine{}, rates)
	require.NoError(t, err)
	var all []Measured
	for i, e := range a.All {
		all = append(all, Measured{Expectation: e, MeasuredSpeed: e.Speed, MeasuredMemory: e.Memory.Total, MeasuredKLD: float64(i)})
	}
	for _, c := range a.Judge(all) {
		require.Equal(t, c.Best, c.Recommended, c.Goal)
		require.InDelta(t, 1, c.Ratio, 0.02, c.Goal)
	}
	all[1].MeasuredSpeed.Decode *= 10
	latency := a.Judge(all)[0]
	require.Equal(t, Check{Latency, "int4-b128-kv8", "int8", latency.Ratio}, latency)
	require.Less(t, latency.Ratio, 0.5)
}

// Kernels are measured, and the answer fits.
func TestRecommend(t *testing.T) {
	a, err := Recommend(t.Context(), small, Request{Context: 64})
	require.NoError(t, err)
	require.True(t, a.Best.Fits)
	for _, e := range a.All {
		require.Positive(t, e.Speed.Decode, e.Name)
		require.Positive(t, e.Speed.Prefill, e.Name)
	}
	decode, prefill := a.Formula(small, a.Best)
	require.Contains(t, decode, "28 layers")
	require.Contains(t, prefill, "0.440 G weights")
}

// On the carried model each candidate is made, runs, and is compared with fp32.
func TestMeasure(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CACHE_HOME", home)
	t.Setenv("HOME", home)
	a, err := choose(small, Request{Device: accelerate.CPU, Goal: Latency, Context: 64}, machine.Machine{}, rates)
	require.NoError(t, err)
	a.All = slices.DeleteFunc(a.All, func(e Expectation) bool { return e.Name != "none" && e.Name != "int4-b32" })
	all, err := Measure(t.Context(), accelerate.Source{Dir: "../../models/tiny/qwen3-tiny"}, a, sentences(80), Events{})
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Zero(t, all[0].MeasuredKLD)
	require.Positive(t, all[1].MeasuredKLD)
	require.Less(t, all[1].MeasuredKLD, 0.3)
	require.Greater(t, all[1].Top1, 0.8)
	require.Positive(t, all[1].MeasuredSpeed.Decode)
	require.Len(t, a.Judge(all), len(Goals()))
}

func sentences(n int) string {
	var b []byte
	for range n {
		b = append(b, "A harbor is a sheltered port where ships can take on or discharge cargo. "...)
	}
	return string(b)
}
