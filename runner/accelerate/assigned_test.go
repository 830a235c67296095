package accelerate

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/folder"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner"
)

func TestAssigned(t *testing.T) {
	cpu := ort.Assignment{Provider: cpuProvider, Nodes: 3, Operators: map[string]int{"Gather": 1, "com.microsoft.MatMulNBits": 2}}
	cuda := ort.Assignment{Provider: "CUDAExecutionProvider", Nodes: 7, Operators: map[string]int{"MatMul": 7}}
	for why, row := range map[string]struct {
		all    []ort.Assignment
		device Device
		fact   string
		reason string
	}{
		"the CPU alone":               {[]ort.Assignment{cpu}, CPU, "3 of 3 nodes on CPUExecutionProvider", ""},
		"a device and the CPU":        {[]ort.Assignment{cuda, cpu}, CUDA, "7 of 10 nodes on CUDAExecutionProvider, 3 of 10 nodes on CPUExecutionProvider (1 Gather, 2 com.microsoft.MatMulNBits); device_id=0; KV cache in memory Cuda:0, logits in Cpu", ""},
		"a device that takes nothing": {[]ort.Assignment{cpu}, CoreML, "3 of 3 nodes on CPUExecutionProvider; KV cache in memory Cuda:0, logits in Cpu", "coreml takes no node of this graph: all run on the CPU"},
	} {
		t.Run(why, func(t *testing.T) {
			c := Config{Device: row.device}
			d := &description{
				p: &Prepared{Device: row.device, Options: runner.Options{Providers: c.provider(row.device)}},
				c: c, runner: runner.Info{Assignments: row.all, KVMemory: "Cuda:0", LogitsMemory: "Cpu"},
			}
			o := d.device()
			require.Equal(t, row.fact, o.Fact)
			require.Equal(t, row.reason, o.Reason)
		})
	}
}

// TestPrecisionOutcome holds what a graph is said to be, of types that no CPU runs too. The cache tells the type of
// activations; where it is quantised, constants do, of which half_scales has some in another type.
func TestPrecisionOutcome(t *testing.T) {
	for _, c := range []struct {
		conf             Config
		cache            string
		precision, dtype string
	}{
		{Config{Precision: None}, "float32", "none", "fp32"},
		{Config{Precision: Half, Lenient: true}, "float16", "fp16", "fp16"},
		{Config{Precision: Brain, Lenient: true}, "bfloat16", "bf16", "bf16"},
		{Config{Precision: Brain, Lenient: true}, "int8", "bf16", "bf16"},
		{Config{Precision: Int8}, "float32", "int8", "fp32"},
		{Config{Precision: Int4}, "int8", "int4", "fp32"},
		{Config{Precision: Int4, HalfScales: true}, "float32", "int4", "fp32"},
		{Config{Precision: Int4, HalfScales: true}, "int8", "int4", "fp32"},
		{Config{Precision: Int4, DType: FP16, Lenient: true}, "int8", "int4", "fp16"},
		{Config{Precision: DynamicInt8, SmoothQuant: SmoothOff}, "float32", "dynamic-int8", "fp32"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		_, err := Build(t.Context(), Source{Dir: "../../models/testdata/checkpoints/small-bf16"}, Output{Dir: dir}, c.conf, Events{})
		require.NoError(t, err)
		p := &Prepared{File: filepath.Join(dir, folder.ModelName), Device: CPU, config: c.conf}
		m, err := ir.Load(p.File)
		require.NoError(t, err)
		p.inspect(m)
		require.NoError(t, m.Close())
		d := p.description(runner.Info{KVType: c.cache})
		precision, dtype := d.precision(), d.dtype()
		require.Equal(t, []string{c.precision, c.dtype}, []string{precision.Applied, dtype.Applied}, "%+v", c.conf)
		require.Empty(t, precision.Reason+dtype.Reason, "%+v", c.conf)
	}
}
