package qwen3

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func build(t *testing.T, name string, d ir.DType) *ir.Model {
	t.Helper()
	s, err := Open(checkpoints + "/" + name)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	m, err := s.Model(Options{DType: d})
	require.NoError(t, err)
	return m
}

// describe gives for example "logits float32 [batch_size 256]".
func describe(values []*ir.Value) []string {
	var all []string
	for _, v := range values {
		var dims []string
		for _, d := range v.Type.Shape {
			if d.Size >= 0 {
				dims = append(dims, fmt.Sprint(d.Size))
			} else {
				dims = append(dims, d.Param)
			}
		}
		all = append(all, fmt.Sprint(v.Name, " ", v.Type.DType, " ", dims))
	}
	return all
}

func initializer(t *testing.T, m *ir.Model, name string) *ir.Tensor {
	t.Helper()
	for _, v := range m.Graph.Initializers() {
		if v.Name == name {
			return v.Const
		}
	}
	require.Fail(t, "no initializer "+name)
	return nil
}

func TestBuildInterface(t *testing.T) {
	for _, c := range []struct {
		dtype ir.DType
		name  string
	}{{ir.Undefined, "float32"}, {ir.Float16, "float16"}, {ir.BFloat16, "bfloat16"}} {
		m := build(t, "headdim-bf16", c.dtype)
		require.Equal(t, []string{
			"input_ids int64 [batch_size sequence_length]",
			"attention_mask int64 [batch_size total_sequence_length]",
			"position_ids int64 [batch_size sequence_length]",
			"past_key_values.0.key " + c.name + " [batch_size 2 past_sequence_length 32]",
			"past_key_values.0.value " + c.name + " [batch_size 2 past_sequence_length 32]",
			"past_key_values.1.key " + c.name + " [batch_size 2 past_sequence_length 32]",
			"past_key_values.1.value " + c.name + " [batch_size 2 past_sequence_length 32]",
		}, describe(m.Graph.Inputs()))
		require.Equal(t, []string{
			"logits float32 [batch_size sequence_length 256]",
			"present.0.key " + c.name + " [batch_size 2 total_sequence_length 32]",
			"present.0.value " + c.name + " [batch_size 2 total_sequence_length 32]",
			"present.1.key " + c.name + " [batch_size 2 total_sequence_length 32]",
			"present.1.value " + c.name + " [batch_size 2 total_sequence_length 32]",
		}, describe(m.Graph.Outputs()))
	}
}

func TestBuildUsesStandardOperatorsAlone(t *testing.T) {
	m := build(t, "untied-f32", ir.Float16)
	require.Equal(t, []ir.Opset{{Domain: "", Version: 21}}, m.Opsets)
	for _, n := range m.Graph.Nodes() {
		require.Empty(t, n.Domain, n)
	}
}

func TestBuildStoresWeightsOnce(t *testing.T) {
	tied := build(t, "gqa1-bf16", ir.Float32) // has an lm_head.weight nonetheless
	embed := initializer(t, tied, "model.embed_tokens.weight")
	require.Equal(t, []int64{256, 64}, embed.Shape)
	for _, v := range tied.Graph.Initializers() {
		require.NotEqual(t, "lm_head.weight", v.Name)
	}
	untied := build(t, "untied-f32", ir.Float32)
	require.Equal(t, []int64{64, 256}, initializer(t, untied, "lm_head.weight").Shape, "as MatMul takes it")
	require.Equal(t, []int64{64, 160}, initializer(t, untied, "model.layers.1.mlp.up_proj.weight").Shape)
	require.Equal(t, []int64{160, 64}, initializer(t, untied, "model.layers.1.mlp.down_proj.weight").Shape)
	require.Equal(t, ir.Float32, initializer(t, untied, "model.norm.weight").DType)
}

// A weight in the checkpoint's own type and order is a view, not a copy: exporting does not grow
// with the model.
func TestBuildReadsNothing(t *testing.T) {
	s, err := Open(checkpoints + "/tied-f16")
	require.NoError(t, err)
	defer s.Close()
	m, err := s.Model(Options{DType: ir.Float16})
	require.NoError(t, err)
	data, err := initializer(t, m, "model.embed_tokens.weight").Bytes()
	require.NoError(t, err)
	stored, _ := s.weights.Tensor("model.embed_tokens.weight")
	require.Same(t, &stored.Bytes()[0], &data[0])
}

func TestBuildIsDeterministic(t *testing.T) {
	encode := func() []byte {
		b, err := ir.Encode(build(t, "sharded-bf16", ir.BFloat16))
		require.NoError(t, err)
		return b
	}
	require.Equal(t, encode(), encode())
}

func TestBuildRefuses(t *testing.T) {
	config, w := smallModel()
	_, err := Build(config, w, Options{DType: ir.Int8})
	require.ErrorContains(t, err, "qwen3: cannot build a model in int8: want float32, float16 or bfloat16")
	config.HeadDim, config.NumKVHeads = 0, 3
	_, err = Build(config, w, Options{})
	require.ErrorContains(t, err, "head_dim is 0")
	require.ErrorContains(t, err, "multiple of num_key_value_heads 3")
}
