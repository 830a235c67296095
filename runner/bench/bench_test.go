package bench

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
)

func open(t testing.TB, o runner.Options) Subject {
	t.Helper()
	s, err := Open(t.Context(), toy(t), o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// TestRun goes through all kinds of tests, and looks at everything but speed.
func TestRun(t *testing.T) {
	s := open(t, runner.Options{Threads: 1, PrefillChunk: 16})
	config := Config{
		Prompt: []int{40, 0}, Gen: []int{3}, PromptGen: []PromptGen{{5, 2}}, Depth: []int{0, 300}, Repetitions: 3,
	}
	var runs []int
	var told []Record
	records, err := Run(t.Context(), s, config, Events{
		Repetition: func(_ Test, n, of int) {
			require.Equal(t, 3, of)
			runs = append(runs, n)
		},
		Record: func(r Record) { told = append(told, r) },
	})
	require.NoError(t, err)
	require.Equal(t, records, told)
	require.Equal(t, []int{0, 1, 2, 3}, runs[:4], "warm-up first")
	require.Len(t, runs, 4*len(records))
	var names []string
	for _, r := range records {
		names = append(names, r.Test().String())
		checkRecord(t, r)
		require.Equal(t, s.Model, Model{r.ModelFilename, r.ModelType, r.ModelSize, r.ModelParams, r.ModelHash})
	}
	require.Equal(t, []string{"pp40", "tg3", "pp5+tg2", "pp40 @ d300", "tg3 @ d300", "pp5+tg2 @ d300"}, names)
	perToken := int64(2 * kvHeads * headDim * 4)
	require.Equal(t, 256*perToken, records[0].KVBytes, "as much as is needed, in steps")
	require.Equal(t, 512*perToken, records[3].KVBytes)
}

func checkRecord(t *testing.T, r Record) {
	t.Helper()
	require.Equal(t, "CPU", r.Backends)
	require.Equal(t, "cpu", r.Provider)
	require.Equal(t, 1, r.Threads)
	require.Equal(t, 16, r.Batch)
	require.Equal(t, "float32", r.TypeK)
	require.Equal(t, "float32", r.TypeV)
	require.Len(t, r.ModelHash, 64)
	require.Len(t, r.SamplesNS, 3)
	require.Len(t, r.SamplesTS, 3)
	for _, ns := range r.SamplesNS {
		require.Positive(t, ns)
	}
	require.Positive(t, r.AvgTS)
	require.Positive(t, r.LoadSeconds)
	for name, text := range map[string]string{
		"cpu_info": r.CPUInfo, "test_time": r.TestTime, "qwenrt_version": r.QwenrtVersion, "ort_version": r.ORTVersion,
	} {
		require.NotEmpty(t, text, name)
	}
}

func TestRunOfAnOpenRunner(t *testing.T) {
	dir := toy(t)
	r, err := runner.Open(t.Context(), dir, runner.Options{})
	require.NoError(t, err)
	defer r.Close()
	var first int
	records, err := Run(t.Context(), Subject{Runner: r}, Config{Prompt: []int{2}, Gen: []int{0}, NoWarmup: true}, Events{
		Repetition: func(_ Test, n, _ int) {
			if first == 0 {
				first = n
			}
		},
	})
	require.NoError(t, err)
	require.Equal(t, 1, first, "no warm-up")
	require.Len(t, records, 1)
	require.Len(t, records[0].SamplesNS, DefaultRepetitions)
	require.EqualValues(t, parameters, records[0].ModelParams, "described on the way")
	require.Equal(t, runner.DefaultPrefillChunk, records[0].Batch)
}

func TestRunErrors(t *testing.T) {
	s := open(t, runner.Options{Threads: 1})
	_, err := Run(t.Context(), s, Config{Repetitions: -1}, Events{})
	require.ErrorContains(t, err, "bench: -1 repetitions")

	_, err = Run(t.Context(), s, Config{Prompt: []int{8}, Gen: []int{0}, Depth: []int{1, contextLength - 4}}, Events{
		Record: func(Record) { t.Fatal("a test was run") },
	})
	require.ErrorIs(t, err, runner.ErrContext)
	require.ErrorContains(t, err, "bench: pp8 @ d1020: ")

	ctx, cancel := context.WithCancel(t.Context())
	records, err := Run(ctx, s, Config{Prompt: []int{1, 2, 3}, Gen: []int{0}}, Events{
		Record: func(r Record) {
			if r.Prompt == 2 {
				cancel()
			}
		},
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Len(t, records, 2, "what was complete is kept")
}

// TestDecodeAllocates holds that a decode step takes nothing from Go's heap, be it watched by the
// caller, as Generate and Run do it, or not at all.
func TestDecodeAllocates(t *testing.T) {
	s := open(t, runner.Options{Threads: 1})
	seq, err := s.Runner.NewSequence()
	require.NoError(t, err)
	defer seq.Close()
	require.NoError(t, seq.Reserve(contextLength))
	ctx := context.Background()
	_, err = seq.Prefill(ctx, []int32{1, 2, 3})
	require.NoError(t, err)
	step := func() {
		if _, err := seq.Decode(ctx, 7); err != nil {
			t.Fatal(err)
		}
	}
	step() // the first binds the shapes of a step
	require.Zero(t, testing.AllocsPerRun(200, step))

	watched, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer seq.Watch(watched)()
	require.Zero(t, testing.AllocsPerRun(200, step))
}

// TestMeasureOverhead needs ONNX Runtime's profile to say how long runs took; the figures themselves
// are the machine's.
func TestMeasureOverhead(t *testing.T) {
	dir := toy(t)
	o, err := MeasureOverhead(t.Context(), dir, runner.Options{Threads: 1}, Test{Gen: 5, Depth: 3})
	require.NoError(t, err)
	require.Equal(t, Overhead{Threads: 1, Depth: 3, Steps: 5, Step: o.Step, Own: o.Own, Ratio: o.Ratio}, o)
	require.Positive(t, o.Step)

	for _, test := range []Test{{}, {Gen: 1, Depth: -1}, {Gen: contextLength}} {
		_, err := MeasureOverhead(t.Context(), dir, runner.Options{Threads: 1}, test)
		require.ErrorContains(t, err, "bench: overhead: ", "%+v", test)
	}
	require.ErrorIs(t, func() error {
		_, err := MeasureOverhead(t.Context(), dir, runner.Options{}, Test{Gen: contextLength})
		return err
	}(), runner.ErrContext)
}

// BenchmarkGenerate shows what the whole loop allocates: sampling greedily, without a tokenizer.
func BenchmarkGenerate(b *testing.B) {
	s := open(b, runner.Options{Threads: 1})
	const tokens = 512
	for b.Loop() {
		for _, err := range s.Runner.Generate(b.Context(), runner.Request{Tokens: []int32{1}, MaxTokens: tokens}) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(tokens, "tokens/op")
}

// TestTrialAt holds that context is kept where it is there already, and filled up where it is not.
func TestTrialAt(t *testing.T) {
	s := open(t, runner.Options{Threads: 1})
	b, err := newTrial(t.Context(), s.Runner, 1)
	require.NoError(t, err)
	defer b.close()
	for _, depth := range []int{0, 7, 300, 20, 0} {
		require.NoError(t, b.at(depth))
		require.Equal(t, depth, b.seq.Len())
		_, err := b.run(t.Context(), Test{Prompt: 3, Gen: 2, Depth: depth})
		require.NoError(t, err)
		require.Equal(t, depth+5, b.seq.Len(), "the context is not run again")
	}
}
