package bench

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTests(t *testing.T) {
	tests, err := Config{}.Tests()
	require.NoError(t, err)
	require.Equal(t, []Test{{Prompt: 512}, {Gen: 128}}, tests, "llama-bench's defaults")

	for _, c := range []struct {
		why    string
		config Config
		want   []string
	}{
		{"0 is no test", Config{Prompt: []int{0}}, []string{"tg128"}},
		{"an empty list too", Config{Prompt: []int{}, Gen: []int{4}}, []string{"tg4"}},
		{"depths are the outer loop", Config{Prompt: []int{1, 2}, Gen: []int{3}, Depth: []int{0, 9}},
			[]string{"pp1", "pp2", "tg3", "pp1 @ d9", "pp2 @ d9", "tg3 @ d9"}},
		{"pairs come on top", Config{PromptGen: []PromptGen{{6, 7}}}, []string{"pp512", "tg128", "pp6+tg7"}},
	} {
		tests, err := c.config.Tests()
		require.NoError(t, err, c.why)
		var names []string
		for _, test := range tests {
			names = append(names, test.String())
		}
		require.Equal(t, c.want, names, c.why)
	}

	_, err = Config{Prompt: []int{-1}, Gen: []int{-2}, PromptGen: []PromptGen{{1, 0}}, Depth: []int{-3}, Repetitions: -4}.Tests()
	for _, want := range []string{"prompt of -1", "generation of -2", "prompt of 1 with a generation of 0", "depth of -3", "-4 repetitions"} {
		require.ErrorContains(t, err, want, "all faults at once")
	}
	_, err = Config{Prompt: []int{0}, Gen: []int{0}}.Tests()
	require.ErrorContains(t, err, "nothing to measure")
}

// example is a record with round numbers: 100 tokens in 1, 2 and 4 seconds.
func example() Record {
	r := Record{
		CPUInfo: `a "fast" CPU`, Backends: "CPU", ModelFilename: "m/model.onnx", ModelType: "qwen3 0.60B int4 b32",
		ModelSize: 3 << 27, ModelParams: 596_049_920, Threads: 2, Prompt: 100, Depth: 8,
		QwenrtVersion: "v1.0.0", ORTVersion: "1.32.0", LoadSeconds: 0.5, PeakRSS: 900e6, RSSAnon: 400e6,
	}
	r.setSamples([]time.Duration{time.Second, 4 * time.Second, 2 * time.Second})
	return r
}

func TestSamples(t *testing.T) {
	r := example()
	require.Equal(t, []int64{1e9, 4e9, 2e9}, r.SamplesNS)
	require.Equal(t, []float64{100, 25, 50}, r.SamplesTS)
	require.EqualValues(t, 2333333333, r.AvgNS)
	require.EqualValues(t, 1527525232, r.StddevNS)
	require.InDelta(t, 58.3333, r.AvgTS, 1e-4, "the mean of the speeds, not the speed of the mean")
	require.InDelta(t, 38.1881, r.StddevTS, 1e-4)
	require.Equal(t, 50.0, r.MedianTS)

	require.EqualValues(t, 2e9, r.TTFT)
	require.Zero(t, r.TPOT)
	require.Zero(t, r.MedianHiTS, "three repetitions have no interval")
	six := Record{Gen: 10}
	six.setSamples([]time.Duration{1e9, 2e9, 3e9, 4e9, 5e9, 6e9})
	require.InDelta(t, 10.0/6, six.MedianLoTS, 1e-9)
	require.InDelta(t, 10, six.MedianHiTS, 1e-9)
	require.EqualValues(t, 35e7, six.TPOT)

	r.setSamples([]time.Duration{2 * time.Second})
	require.Zero(t, r.StddevTS, "one repetition has no deviation")
	r.setSamples([]time.Duration{time.Second, 2 * time.Second})
	require.Equal(t, 75.0, r.MedianTS)
}

func write(t *testing.T, f Format, records ...Record) string {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, f)
	require.NoError(t, err)
	for _, r := range records {
		require.NoError(t, w.Write(r))
	}
	require.NoError(t, w.Close())
	return out.String()
}

func TestWriteMarkdown(t *testing.T) {
	require.Equal(t, strings.TrimPrefix(`
| model                          |       size |     params | backend    | threads |            test |                  t/s |
| ------------------------------ | ---------: | ---------: | ---------- | ------: | --------------: | -------------------: |
| qwen3 0.60B int4 b32           | 384.00 MiB |   596.05 M | CPU        |       2 |      pp100 @ d8 |        58.33 ± 38.19 |

qwenrt v1.0.0, ONNX Runtime 1.32.0; loaded in 0.50 s; peak memory 900 MB resident (VmHWM), 400 MB anonymous at the end (RssAnon)
`, "\n"), write(t, Markdown, example()))
	require.Empty(t, write(t, Markdown))

	first := example()
	first.EnergyJ = new(600.0) // three repetitions of 100 tokens
	table := strings.Split(write(t, Markdown, first, example()), "\n")
	require.True(t, strings.HasSuffix(table[0], "|  J/token |"), table[0])
	require.True(t, strings.HasSuffix(table[2], "|        2 |"), table[2])
	require.True(t, strings.HasSuffix(table[3], "|          |"), table[3])
}

// llamaFields are the names that readers of llama-bench's output look for.
var llamaFields = strings.Fields(`build_commit build_number cpu_info gpu_info backends model_filename model_type model_size
	model_n_params n_batch n_ubatch n_threads type_k type_v n_prompt n_gen n_depth test_time avg_ns stddev_ns avg_ts stddev_ts`)

func TestWriteJSON(t *testing.T) {
	for _, records := range [][]Record{nil, {example()}, {example(), example()}} {
		var got []Record
		require.NoError(t, json.Unmarshal([]byte(write(t, JSON, records...)), &got))
		require.Len(t, got, len(records))
		for i := range got {
			require.Equal(t, records[i], got[i])
		}
		lines := write(t, JSONL, records...)
		require.Equal(t, len(records), strings.Count(lines, "\n"))
	}
	var fields map[string]any
	require.NoError(t, json.Unmarshal([]byte(write(t, JSONL, example())), &fields))
	for _, name := range append([]string{"samples_ns", "samples_ts"}, llamaFields...) {
		require.Contains(t, fields, name)
	}
}

func TestWriteCSV(t *testing.T) {
	rows, err := csv.NewReader(strings.NewReader(write(t, CSV, example(), example()))).ReadAll()
	require.NoError(t, err)
	require.Len(t, rows, 3)
	require.Equal(t, llamaFields, rows[0][:len(llamaFields)])
	require.NotContains(t, rows[0], "samples_ts")
	require.Contains(t, rows[1], `a "fast" CPU`)
	require.Empty(t, write(t, CSV))

	known := example()
	known.EnergyJ = new(12.5)
	rows, err = csv.NewReader(strings.NewReader(write(t, CSV, known, example()))).ReadAll()
	require.NoError(t, err)
	at := slices.Index(rows[0], "energy_j")
	require.Equal(t, []string{"12.5", ""}, []string{rows[1][at], rows[2][at]}, "what is not known is empty")
}

// TestWriteGo holds to the format of golang.org/design/14313-benchmark-format: a line for each repetition, no blanks in names.
func TestWriteGo(t *testing.T) {
	text := write(t, GoBench, example())
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	require.Equal(t, `cpu: a "fast" CPU`, lines[2])
	require.Equal(t, "BenchmarkQwenrt/model=qwen3_0.60B_int4_b32/test=pp100_@_d8/threads=2 1 1000000000 ns/op 100 tokens/s", lines[4])
	require.Len(t, lines, 4+3)
	require.Empty(t, write(t, GoBench))
}

func TestWriteOther(t *testing.T) {
	_, err := NewWriter(&bytes.Buffer{}, "xml")
	require.ErrorContains(t, err, `bench: format "xml": want one of [md json jsonl csv gobench]`)
}
