package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

// TestMain makes the test binary a worker, where a test asks for one.
func TestMain(m *testing.M) {
	switch os.Getenv("BENCH_TEST_WORKER") {
	case "":
		os.Exit(m.Run())
	case "wordy":
		os.Stdout.WriteString("hello\n")
	case "timeless":
		os.Stdout.WriteString("{}\n")
	case "patient":
		select {}
	case "worker":
		if err := Serve(context.Background(), &scripted{step: time.Millisecond}, os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// scripted is a contender whose times are made up: a step takes step, times the load of the machine.
type scripted struct {
	step time.Duration
	load func() float64 // default: always 1
	runs []Test
	err  error
}

func (s *scripted) Run(_ context.Context, t Test) (time.Duration, error) {
	s.runs = append(s.runs, t)
	if t.Gen > 1000 {
		return 0, errors.New("too long")
	}
	d := s.step * time.Duration(t.tokens())
	if s.load != nil {
		d = time.Duration(float64(d) * s.load())
	}
	return d, s.err
}

func (s *scripted) Close() error { return nil }

// TestCompareSlices looks at what is run: both sides the same, and decoding in parts that follow each other.
func TestCompareSlices(t *testing.T) {
	a, b := &scripted{step: 10 * time.Millisecond}, &scripted{step: 5 * time.Millisecond}
	c, err := Versus{Slice: 30 * time.Millisecond}.Compare(t.Context(), a, b, Test{Gen: 8, Depth: 100})
	require.NoError(t, err)
	require.Equal(t, 3, c.Tokens, "30 ms of the first side")
	require.InDelta(t, 2, c.Ratio.Center, 1e-9)
	require.Equal(t, stats.Faster, c.Ratio.Verdict(0.01))
	require.Len(t, c.A, len(c.B))
	x, y := c.Speeds()
	require.InDelta(t, 100, x, 1e-6)
	require.InDelta(t, 200, y, 1e-6)
	require.Equal(t, Test{Gen: 1, Depth: 100}, b.runs[0], "warm-up")
	require.Equal(t, []Test{{Gen: 3, Depth: 100}, {Gen: 3, Depth: 103}, {Gen: 3, Depth: 100}}, b.runs[1:4])
	require.Equal(t, b.runs[1:30], a.runs[2:31], "the first side is probed")

	for _, test := range []Test{{Prompt: 20}, {Prompt: 20, Gen: 8}} {
		a := &scripted{step: time.Millisecond}
		c, err := Versus{}.Compare(t.Context(), a, a, test)
		require.NoError(t, err)
		require.Equal(t, test.tokens(), c.Tokens, "a prefill is not divided")
	}
}

// TestCompareEnds holds that a comparison goes on until it is sure, and no longer than its budget.
func TestCompareEnds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	noisy := func() *scripted {
		return &scripted{step: time.Millisecond, load: func() float64 { return 1 + 0.2*random.ExpFloat64() }}
	}
	test := Test{Gen: 100}
	quiet, err := Versus{}.Compare(t.Context(), &scripted{step: 1000}, &scripted{step: 1100}, test)
	require.NoError(t, err)
	require.Len(t, quiet.A, 9, "there is no noise")
	require.Greater(t, quiet.Pairs, 100)

	sure, err := Versus{Budget: time.Hour}.Compare(t.Context(), noisy(), noisy(), test)
	require.NoError(t, err)
	require.LessOrEqual(t, sure.Ratio.Spread(), 0.01)
	require.Greater(t, len(sure.A), 9)

	short, err := Versus{Budget: 4 * time.Second}.Compare(t.Context(), noisy(), noisy(), test)
	require.NoError(t, err)
	require.Greater(t, short.Ratio.Spread(), 0.01)
	require.InDelta(t, 4, short.Spent.Seconds(), 1)

	least, err := Versus{Budget: 1}.Compare(t.Context(), noisy(), noisy(), test)
	require.NoError(t, err)
	require.Len(t, least.A, minRounds)
	require.Equal(t, stats.Unsure, least.Ratio.Verdict(0.01))
}

func TestCompareErrors(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Versus{}.Compare(ctx, &scripted{step: 1}, &scripted{step: 1}, Test{Gen: 4})
	require.ErrorIs(t, err, context.Canceled)
	fault := errors.New("fault")
	_, err = Versus{}.Compare(t.Context(), &scripted{step: 1}, &scripted{err: fault}, Test{Gen: 4})
	require.ErrorIs(t, err, fault)
	_, err = Versus{}.Compare(t.Context(), &scripted{}, &scripted{}, Test{Depth: 4})
	require.ErrorContains(t, err, "has no tokens")
}

// TestContend compares an open model with itself; by how much they differ is not asked.
func TestContend(t *testing.T) {
	dir, opened := toy(t), 0
	opener := func(ctx context.Context) (Contender, error) {
		opened++
		s, err := Open(ctx, dir, runner.Options{Threads: 1})
		if err != nil {
			return nil, err
		}
		return s.Contend()
	}
	results, err := Versus{Budget: 1, Round: 1}.CompareAfresh(t.Context(), opener, opener, []Test{{Prompt: 300, Depth: 10}, {Gen: 20}})
	require.NoError(t, err)
	require.Len(t, results, 2)
	for _, c := range results {
		require.Positive(t, c.Ratio.Center)
		require.Len(t, c.A, minRounds)
		require.Equal(t, minRounds, c.Pairs)
	}
	require.Equal(t, 2*minRounds, opened, "afresh for each round, once for all tests")

	side, err := opener(t.Context())
	require.NoError(t, err)
	_, err = side.Run(t.Context(), Test{Prompt: 5, Depth: contextLength})
	require.ErrorIs(t, err, runner.ErrContext)
	require.NoError(t, Close(side, nil))
}

func startWorker(t *testing.T, kind string) Contender {
	t.Helper()
	t.Setenv("BENCH_TEST_WORKER", kind)
	w, err := StartWorker(os.Args[0])
	require.NoError(t, err)
	return w
}

func TestWorker(t *testing.T) {
	w := startWorker(t, "worker")
	d, err := w.Run(t.Context(), Test{Prompt: 3, Gen: 4, Depth: 5})
	require.NoError(t, err)
	require.Equal(t, 7*time.Millisecond, d)
	_, err = w.Run(t.Context(), Test{Gen: 2000})
	require.ErrorContains(t, err, "tg2000: too long")
	d, err = w.Run(t.Context(), Test{Gen: 1})
	require.NoError(t, err, "it goes on behind an error")
	require.Equal(t, time.Millisecond, d)
	require.NoError(t, w.Close())

	for kind, want := range map[string]string{"wordy": `"hello\n" is no answer`, "timeless": "want a time", "mute": "no answer"} {
		w := startWorker(t, kind)
		_, err := w.Run(t.Context(), Test{Gen: 1})
		require.ErrorContains(t, err, want)
		_ = w.Close()
	}

	w = startWorker(t, "patient")
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	_, err = w.Run(ctx, Test{Gen: 1})
	require.ErrorIs(t, err, context.Canceled)
	require.Error(t, w.Close(), "it was killed")

	_, err = StartWorker(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)

	var out bytes.Buffer
	require.ErrorContains(t, Serve(t.Context(), &scripted{}, strings.NewReader("{"), &out), "bench: worker: read a test")
}

func TestChanges(t *testing.T) {
	record := func(test Test, speeds ...float64) Record {
		return Record{ModelType: "m", Threads: 2, Batch: 512, Prompt: test.Prompt, Gen: test.Gen, Depth: test.Depth, SamplesTS: speeds}
	}
	pp, tg, deep := Test{Prompt: 512}, Test{Gen: 64}, Test{Gen: 64, Depth: 9}
	old := []Record{record(pp, 100, 101, 102, 103, 104), record(tg, 40, 41), record(deep, 5)}
	fresh := []Record{record(tg, 41), record(pp, 120, 121, 122), record(tg, 42), record(pp, 123, 124)}
	changes := Changes(old, fresh, 0.95)
	require.Len(t, changes, 2, "what only one of them has is left out")
	require.Equal(t, []Test{tg, pp}, []Test{changes[0].Test, changes[1].Test}, "in the order of the new ones")
	require.Equal(t, []int{2, 2}, []int{changes[0].OldRuns, changes[0].NewRuns}, "two records of one test count as one")
	require.Equal(t, stats.Unsure, changes[0].Ratio.Verdict(0.01))
	require.Equal(t, stats.Faster, changes[1].Ratio.Verdict(0.01))
	require.InDelta(t, 122.0/102, changes[1].Ratio.Center, 1e-9)
	require.Equal(t, []float64{102, 122}, []float64{changes[1].Old, changes[1].New})

	other := record(pp, 100)
	other.Threads = 1
	require.Empty(t, Changes(old, []Record{other}, 0.95), "other settings")
	require.Equal(t, []float64{41}, fresh[0].SamplesTS, "what is given is not changed")
}

func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "results")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o666))
		return path
	}
	for _, f := range []Format{JSON, JSONL} {
		records, err := ReadFile(file(write(t, f, example(), example())))
		require.NoError(t, err)
		require.Equal(t, []Record{example(), example()}, records)
	}
	bare, err := json.Marshal([]map[string]any{{"n_gen": 1, "samples_ts": []int{0}}})
	require.NoError(t, err)
	for text, want := range map[string]string{
		"": "no results", "[]": "no results", "{": "unexpected EOF", "| md |": "want what qwenrt bench",
		`[{"n_gen": 1}]`: "result 0, tg1, has no samples_ts", string(bare): "a speed of 0 tokens/s",
	} {
		_, err := ReadFile(file(text))
		require.ErrorContains(t, err, want)
	}
	_, err = ReadFile(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
