package folder

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// graph is a model of two layers with these inputs before the cache's; fused has one
// GroupQueryAttention in it. It is not meant to run.
func graph(fused bool, inputs ...string) *ir.Model {
	m := ir.NewModel("test", 10, 21)
	t := ir.TensorType(ir.Float32)
	var first *ir.Value
	for _, name := range inputs {
		first = m.Graph.AddInput(name, t)
	}
	var outputs []string
	for i := range 2 {
		for _, kind := range []string{"key", "value"} {
			m.Graph.AddInput(fmt.Sprintf("past_key_values.%d.%s", i, kind), t)
			outputs = append(outputs, fmt.Sprintf("present.%d.%s", i, kind))
		}
	}
	spec := ir.NodeSpec{Op: "Split", Inputs: []*ir.Value{first}, Outputs: append([]string{"logits"}, outputs...)}
	if fused {
		spec.Op, spec.Domain = "GroupQueryAttention", "com.microsoft"
	}
	for _, v := range m.Graph.Add(spec).Outputs() {
		m.Graph.AddOutput(v)
	}
	return m
}

func facts() Facts {
	return Facts{Type: "qwen3", ContextLength: 40960, VocabSize: 151936, HiddenSize: 1024, HeadDim: 128, NumHeads: 16,
		NumKVHeads: 8, NumLayers: 2, BOS: 151643, EOS: []int{151645, 151643}, Pad: -1,
		Sampling: Sampling{DoSample: true, Temperature: 0.6, TopK: 20, TopP: 0.95, RepetitionPenalty: 1}}
}

// Checked with onnxruntime-genai 0.18.0, which opens such a folder and generates.
func TestWriteGenAI(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, WriteGenAI(dir, facts(), graph(true, "input_ids", "attention_mask")))
	data, err := os.ReadFile(filepath.Join(dir, GenAIName))
	require.NoError(t, err)
	require.JSONEq(t, `{
		"model": {
			"type": "qwen3", "context_length": 40960, "vocab_size": 151936,
			"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151645,
			"decoder": {
				"filename": "model.onnx", "head_size": 128, "hidden_size": 1024,
				"num_attention_heads": 16, "num_hidden_layers": 2, "num_key_value_heads": 8,
				"session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
				"inputs": {
					"input_ids": "input_ids", "attention_mask": "attention_mask",
					"past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"
				},
				"outputs": {
					"logits": "logits",
					"present_key_names": "present.%d.key", "present_value_names": "present.%d.value"
				}
			}
		},
		"search": {
			"do_sample": true, "max_length": 40960, "min_length": 0, "num_beams": 1, "past_present_share_buffer": true,
			"repetition_penalty": 1, "temperature": 0.6, "top_k": 20, "top_p": 0.95
		}
	}`, string(data))
}

func TestGenAIFollowsTheGraph(t *testing.T) {
	plain, err := newGenAI(facts(), graph(false, "input_ids", "attention_mask", "position_ids"))
	require.NoError(t, err)
	require.Equal(t, "position_ids", plain.Model.Decoder.Inputs["position_ids"])
	require.False(t, plain.Search.ShareBuffer, "only GroupQueryAttention writes in place")

	fewer := facts()
	fewer.EOS, fewer.BOS = nil, -1
	c, err := newGenAI(fewer, graph(true, "input_ids"))
	require.NoError(t, err)
	require.Nil(t, c.Model.BOS)
	require.Nil(t, c.Model.Pad)
}

func TestGenAINeedsTheUsualNames(t *testing.T) {
	_, err := newGenAI(facts(), graph(true, "tokens"))
	require.ErrorContains(t, err, "no input input_ids")
	more := facts()
	more.NumLayers = 3
	_, err = newGenAI(more, graph(true, "input_ids"))
	require.ErrorContains(t, err, "no output present.%d.key")
	require.ErrorContains(t, WriteGenAI(t.TempDir(), more, graph(true, "input_ids")), "folder: genai_config.json: ")
}

// What is written is read back, and so is what onnxruntime-genai's model builder writes.
func TestReadGenAI(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, WriteGenAI(dir, facts(), graph(true, "input_ids", "attention_mask")))
	got, err := ReadGenAI(dir)
	require.NoError(t, err)
	want := facts()
	want.Pad = want.EOS[0] // as it is written where there is none
	require.Equal(t, want, got)

	got, err = ReadGenAI("../../graphopt/testdata/foreign/genai-int4")
	require.NoError(t, err)
	require.Equal(t, Facts{Type: "qwen3", ContextLength: 512, VocabSize: 128, HiddenSize: 32, HeadDim: 16, NumHeads: 4, NumKVHeads: 2, NumLayers: 2,
		BOS: got.BOS, EOS: got.EOS, Pad: got.Pad, Sampling: got.Sampling}, got)
	require.NotEmpty(t, got.EOS)
}

func TestReadGenAIErrors(t *testing.T) {
	_, err := ReadGenAI(t.TempDir())
	require.ErrorIs(t, err, ErrNoFacts)
	const sizes = `"context_length": 9, "decoder": {"head_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1}`
	for _, c := range []struct{ why, text, want string }{
		{"no JSON", `{`, "unexpected end"},
		{"no sizes", `{"model": {"context_length": 9}}`, "head_size"},
		{"negative", `{"model": {"context_length": -9, "decoder": {"head_size": 8}}}`, "above 0"},
		{"end tokens of another kind", `{"model": {"eos_token_id": "x", ` + sizes + `}}`, "eos_token_id"},
		{"too large", strings.Repeat(" ", maxGenAI) + `{}`, "more than"},
	} {
		dir := t.TempDir()
		require.NoError(t, os.WriteFile(filepath.Join(dir, GenAIName), []byte(c.text), 0o644))
		_, err := ReadGenAI(dir)
		require.ErrorContains(t, err, c.want, c.why)
		require.ErrorContains(t, err, GenAIName, c.why)
	}
	for _, c := range []struct {
		eos  string
		want []int
	}{{"7", []int{7}}, {"[7, 8]", []int{7, 8}}, {"null", nil}} {
		dir := t.TempDir()
		text := `{"model": {"eos_token_id": ` + c.eos + `, ` + sizes + `}}`
		require.NoError(t, os.WriteFile(filepath.Join(dir, GenAIName), []byte(text), 0o644))
		got, err := ReadGenAI(dir)
		require.NoError(t, err)
		require.Equal(t, c.want, got.EOS)
		require.Equal(t, -1, got.BOS, "none")
	}
}

func TestSideFilesIsACopy(t *testing.T) {
	names := SideFiles()
	names[0] = "x"
	require.False(t, slices.Contains(SideFiles(), "x"))
}
