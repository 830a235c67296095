package accelerate

import (
	"testing"

	"github.com/stretchr/testify/require"

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
		"a device and the CPU":        {[]ort.Assignment{cuda, cpu}, CUDA, "7 of 10 nodes on CUDAExecutionProvider, 3 of 10 nodes on CPUExecutionProvider (1 Gather, 2 com.microsoft.MatMulNBits); device_id=0", ""},
		"a device that takes nothing": {[]ort.Assignment{cpu}, CoreML, "3 of 3 nodes on CPUExecutionProvider", "coreml takes no node of this graph: all run on the CPU"},
	} {
		t.Run(why, func(t *testing.T) {
			c := Config{Device: row.device}
			d := &description{
				p: &Prepared{Device: row.device, Options: runner.Options{Providers: c.provider(row.device)}},
				c: c, runner: runner.Info{Assignments: row.all},
			}
			o := d.device()
			require.Equal(t, row.fact, o.Fact)
			require.Equal(t, row.reason, o.Reason)
		})
	}
}
