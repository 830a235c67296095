package kernels_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
)

// Tables are read without checks, so their form is checked here.
func TestTablesAreWellFormed(t *testing.T) {
	const d = `(float(16|32|64)|bfloat16|bool|string|u?int(4|8|16|32|64))`
	const params = `( \w+=` + d + `(,` + d + `)*)*$`
	kernel := regexp.MustCompile(`^\w+ (ai\.onnx|com\.microsoft) \d+ (\d+|-)` + params)
	schema := regexp.MustCompile(`^\w+ (ai\.onnx|com\.microsoft) \d+ in=[\w,*?]* out=[\w,*?]*` + params)
	for file, form := range map[string]*regexp.Regexp{"cpu": kernel, "cuda": kernel, "coreml": kernel, "schemas": schema} {
		b, err := os.ReadFile("tables/" + file + ".txt")
		require.NoError(t, err)
		rows := 0
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); !strings.HasPrefix(line, "# ") {
				require.Regexp(t, form, line, file)
				rows++
			}
		}
		require.Greater(t, rows, 30, file)
	}
	for _, target := range []graphopt.Target{graphopt.CPU, graphopt.CUDA, graphopt.CoreML} {
		require.Regexp(t, `^1\.\d+\.\d+$`, kernels.Version(target), target)
	}
}

func TestLookup(t *testing.T) {
	for _, c := range []struct {
		why, domain, name string
		opset, since      int64
	}{
		{"the version of the opset itself", "", "Add", 14, 14},
		{"the last version before", "", "Add", 21, 14},
		{"an older one where the opset is older", "", "Add", 13, 13},
		{"the other name of ONNX's domain", "ai.onnx", "ReduceMean", 21, 18},
		{"operators of com.microsoft have nothing to do with the opset", "com.microsoft", "GroupQueryAttention", 14, 1},
	} {
		s := kernels.Lookup(c.domain, c.name, c.opset)
		require.NotNil(t, s, c.why)
		require.Equal(t, c.since, s.Since, c.why)
	}
	require.Nil(t, kernels.Lookup("", "RMSNormalization", 22), "comes with opset 23")
	require.Nil(t, kernels.Lookup("", "GroupQueryAttention", 21), "is not of that domain")
}

func TestSchemaParameters(t *testing.T) {
	attention := kernels.Lookup("com.microsoft", "GroupQueryAttention", 21)
	require.Equal(t, "T_CACHE", attention.Input(3))
	require.Equal(t, "T", attention.Input(14))
	require.Empty(t, attention.Input(17), "there are 17 operands")
	require.True(t, attention.Allows("T", ir.BFloat16))
	require.False(t, attention.Allows("T_KV_SCALE", ir.Float16))
	concat := kernels.Lookup("", "Concat", 21)
	require.Equal(t, "T", concat.Input(9), "the last operand repeats")
	split := kernels.Lookup("", "Split", 21)
	require.Equal(t, "T", split.Output(2), "results repeat too")
}

// node makes a model of one node with operands x of these types.
func node(op, domain string, types ...ir.DType) *ir.Model {
	m := ir.NewModel("one", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	var in []*ir.Value
	for i, d := range types {
		in = append(in, m.Graph.AddInput(fmt.Sprint("x", i), ir.TensorType(d, ir.Sym("n"))))
	}
	n := m.Graph.Add(ir.NodeSpec{Op: op, Domain: domain, Inputs: in})
	m.Graph.AddOutput(n.Output(0))
	return m
}

func TestCheckOneNode(t *testing.T) {
	f32, f16, bf16, i64 := ir.Float32, ir.Float16, ir.BFloat16, ir.Int64
	for _, c := range []struct {
		why    string
		model  *ir.Model
		target graphopt.Target
		effect kernels.Effect // "" where there is a kernel
		types  string
	}{
		{"float32 is everywhere", node("MatMul", "", f32, f32), graphopt.CPU, "", ""},
		{"no float16 product on x86", node("MatMul", "", f16, f16), graphopt.CPU, kernels.Widened, "T=float16"},
		{"but norms", node("SimplifiedLayerNormalization", "", f16, f16), graphopt.CPU, "", ""},
		{"bfloat16 is not widened", node("MatMul", "", bf16, bf16), graphopt.CPU, kernels.Refused, "T=bfloat16"},
		{"movement of data takes all types", node("Gather", "", bf16, i64), graphopt.CPU, "", ""},
		{"bfloat16 product on CUDA", node("MatMul", "", bf16, bf16), graphopt.CUDA, "", ""},
		{"a type that only the CPU has", node("Range", "", f32, f32, f32), graphopt.CoreML, kernels.OnCPU, "T=float32"},
		{"Core ML has no operators of com.microsoft", node("SkipSimplifiedLayerNormalization", "com.microsoft", f32, f32, f32), graphopt.CoreML, kernels.OnCPU, "T=float32"},
		{"an operator that no table has", node("Frobnicate", "", f32), graphopt.CPU, kernels.Refused, ""},
	} {
		missing, err := kernels.Check(c.model, c.target)
		require.NoError(t, err, c.why)
		if c.effect == "" {
			require.Empty(t, missing, c.why)
			continue
		}
		require.Len(t, missing, 1, c.why)
		require.Equal(t, c.effect, missing[0].Effect, c.why)
		require.Equal(t, c.types, missing[0].Types, c.why)
	}
	_, err := kernels.Check(node("Abs", "", f32), "tpu")
	require.ErrorContains(t, err, "tpu")
}

// A decoder as models/qwen3 writes it runs on the CPU in float32; in float16, products and sums are missing.
func TestCheckDecoder(t *testing.T) {
	missing, err := kernels.Check(graphtest.Decoder{}.Model(t), graphopt.CPU)
	require.NoError(t, err)
	require.Empty(t, missing)

	missing, err = kernels.Check(graphtest.Decoder{DType: ir.Float16}.Model(t), graphopt.CPU)
	require.NoError(t, err)
	summary := kernels.Summary(missing)
	require.Regexp(t, `^Mul ×\d+ \(runs in float32, between casts\), MatMul ×\d+, `, summary)
	require.NotContains(t, summary, "Gather")
	require.NotContains(t, summary, "Softmax", "it is computed in float32")
}

func TestCheckLooksIntoBodies(t *testing.T) {
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	missing, err := kernels.Check(m, graphopt.CoreML)
	require.NoError(t, err)
	bodies := 0
	for _, x := range missing {
		if x.Node.Graph() != m.Graph {
			bodies++
		}
	}
	require.Positive(t, bodies)
}

func TestSupports(t *testing.T) {
	for _, c := range []struct {
		target graphopt.Target
		d      ir.DType
		want   string // in the error; "" for none
	}{
		{graphopt.CPU, ir.Float32, ""},
		{graphopt.CPU, ir.Float16, "no float16 MatMul and Mul on the CPU: use float32"},
		{graphopt.CPU, ir.BFloat16, "no bfloat16 MatMul and Mul on the CPU"},
		{graphopt.CUDA, ir.Float32, "no float32 GroupQueryAttention on CUDA: use float16 or bfloat16"},
		{graphopt.CUDA, ir.Float16, ""},
		{graphopt.CUDA, ir.BFloat16, ""},
		{graphopt.CoreML, ir.Float32, ""},
		{graphopt.CoreML, ir.Float16, ""},
		{graphopt.CoreML, ir.BFloat16, "no bfloat16 MatMul and Mul and Softmax on Core ML: use float32 or float16"},
	} {
		err := kernels.Supports(c.target, c.d)
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorIs(t, err, kernels.ErrNoKernel)
		require.ErrorContains(t, err, c.want)
	}
	require.Error(t, kernels.Supports("tpu", ir.Float32))
}
