package bench

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

// TestMeasureProfile finds the operators of the toy model in its profile; how long they take is not asked.
func TestMeasureProfile(t *testing.T) {
	var trace bytes.Buffer
	config := Config{Prompt: []int{40}, Gen: []int{3}, Depth: []int{0, 20}}
	profiles, err := MeasureProfile(t.Context(), toy(t), runner.Options{Threads: 1, PrefillChunk: 16}, config, &trace)
	require.NoError(t, err)
	require.Len(t, profiles, 4)
	for i, want := range []struct {
		test string
		runs int
	}{{"pp40", 3}, {"tg3", 3}, {"pp40 @ d20", 3}, {"tg3 @ d20", 3}} {
		p := profiles[i]
		require.Equal(t, want.test, p.Test.String())
		require.Equal(t, want.runs, p.Runs, "%v", p.Test)
		require.Positive(t, p.Time)
		require.Greater(t, p.Kernels, 5)
		require.Positive(t, p.Traffic)
		calls := map[string]int{}
		for _, s := range p.Types {
			calls[s.Name] = s.Calls
		}
		require.Equal(t, p.Runs, calls["GroupQueryAttention"], "%v", p.Types)
		require.Equal(t, 4*p.Runs, calls["MatMul"], "q, k, v and head")
		require.Len(t, p.Layers, 1, "the toy has none")
	}
	require.Greater(t, profiles[0].Traffic, profiles[1].Traffic, "8 tokens, or one")

	var events []map[string]any
	require.NoError(t, json.Unmarshal(trace.Bytes(), &events))
	names := map[string]int{}
	for _, e := range events {
		names[e["name"].(string)]++
	}
	require.Equal(t, 4, names["thread_name"])
	require.Equal(t, 4, names["run 3"])
	require.Equal(t, 12, names["GroupQueryAttention"])
}

func TestMeasureProfileErrors(t *testing.T) {
	_, err := MeasureProfile(t.Context(), toy(t), runner.Options{}, Config{Prompt: []int{-1}}, nil)
	require.ErrorContains(t, err, "a prompt of -1")
	_, err = MeasureProfile(t.Context(), toy(t), runner.Options{}, Config{Gen: []int{2000}}, nil)
	require.ErrorIs(t, err, runner.ErrContext)
}

func TestParseProfile(t *testing.T) {
	runs, err := parseProfile(json.NewDecoder(strings.NewReader(`[
		{"cat": "Session", "name": "model_loading_uri", "dur": 5000, "args": {}},
		{"cat": "Node", "name": "/model/layers.11/mlp/gate/MatMul_kernel_time", "ts": 110, "dur": 9, "ph": "X",
		 "args": {"op_name": "MatMul", "activation_size": "8", "parameter_size": "16", "output_size": "4", "input_type_shape": [{"float": [1]}]}},
		{"cat": "Node", "name": "/model/layers.2/Add_kernel_time", "ts": 120, "dur": 3, "args": {"op_name": "Add"}},
		{"cat": "Node", "name": "/lm_head/MatMul_kernel_time", "ts": 124, "dur": 1, "args": {"op_name": "MatMul"}},
		{"cat": "Session", "name": "model_run", "ts": 100, "dur": 25, "ph": "X"}, {"cat": "Session", "name": "model_run", "dur": 30}
	]`)))
	require.NoError(t, err)
	require.Len(t, runs, 2)
	require.Equal(t, 25*time.Microsecond, runs[0].length)
	require.Empty(t, runs[1].kernels)

	p := phase{Test{Gen: 1}, runs[:1]}
	require.Equal(t, Profile{
		Test: Test{Gen: 1}, Runs: 1, Time: 25000, Kernels: 3, Traffic: 28,
		Types:  []Share{{"MatMul", 2, 10000, 28}, {"Add", 1, 3000, 0}},
		Layers: []Share{{"", 1, 1000, 0}, {"2", 1, 3000, 0}, {"11", 1, 9000, 28}},
	}, p.profile())

	var trace bytes.Buffer
	require.NoError(t, writeTrace(&trace, []phase{p}))
	require.Equal(t, `[
{"args":{"name":"tg1"},"name":"thread_name","ph":"M","pid":1,"tid":1},
{"name":"run 1","cat":"run","ph":"X","ts":100,"dur":25,"pid":1,"tid":1,"args":{"kernels":3}},
{"name":"layer 11","cat":"layer","ph":"X","ts":110,"dur":9,"pid":1,"tid":1},
{"name":"MatMul gate","cat":"MatMul","ph":"X","ts":110,"dur":9,"pid":1,"tid":1,"args":{"bytes":28,"inputs":[{"float":[1]}],"node":"/model/layers.11/mlp/gate/MatMul"}},
{"name":"layer 2","cat":"layer","ph":"X","ts":120,"dur":3,"pid":1,"tid":1},
{"name":"Add","cat":"Add","ph":"X","ts":120,"dur":3,"pid":1,"tid":1,"args":{"bytes":0,"node":"/model/layers.2/Add"}},
{"name":"MatMul lm_head","cat":"MatMul","ph":"X","ts":124,"dur":1,"pid":1,"tid":1,"args":{"bytes":0,"node":"/lm_head/MatMul"}}
]
`, trace.String())

	_, err = parseProfile(json.NewDecoder(strings.NewReader(`[{"name": "model_run", "dur"`)))
	require.Error(t, err, "a profile that was cut off")
}

func TestCount(t *testing.T) {
	c, err := Count(t.Context(), toy(t), runner.Options{Threads: 1}, 3)
	require.NoError(t, err)
	require.Equal(t, 14, c.Nodes)
	require.LessOrEqual(t, c.Kernels, c.Nodes, "ONNX Runtime may fuse, and adds nothing")
	require.Positive(t, c.Kernels)
	require.Positive(t, c.Traffic)
	require.EqualValues(t, 4*parameters+4*8, c.Bytes)
	require.Zero(t, c.Allocs)

	again, err := Count(t.Context(), toy(t), runner.Options{Threads: 2}, 3)
	require.NoError(t, err)
	require.Equal(t, c, again, "they do not change")

	_, err = Count(t.Context(), toy(t), runner.Options{}, contextLength)
	require.ErrorIs(t, err, runner.ErrContext)
}
