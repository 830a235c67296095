package gate

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner/bench/stats"
)

func limit(t *testing.T, text string) Limit {
	t.Helper()
	l, err := ParseLimit(text)
	require.NoError(t, err)
	return l
}

func TestParseLimit(t *testing.T) {
	require.Equal(t, Limit{0.05, true}, limit(t, "5%"))
	require.Equal(t, Limit{0.01, false}, limit(t, " 0.01"))
	require.Equal(t, "2.5 %", limit(t, "2.5%").String())
	for _, text := range []string{"", "%", "five", "-1%", "NaN", "Inf", "5 percent"} {
		_, err := ParseLimit(text)
		require.ErrorContains(t, err, "want a number of 0 or more", text)
	}
}

func TestSpeed(t *testing.T) {
	for _, c := range []struct {
		why    string
		lo, hi float64
		want   Verdict
	}{
		{"unchanged", 0.98, 1.02, Pass},
		{"faster", 1.1, 1.2, Pass},
		{"slower, within the limit", 0.95, 0.96, Pass},
		{"slower, beyond it", 0.88, 0.94, Regression},
		{"the limit is in the interval", 0.94, 0.96, Noisy},
		{"no interval", 0, math.Inf(1), Noisy},
	} {
		r := stats.Ratio{Center: (c.lo + c.hi) / 2, Lo: c.lo, Hi: c.hi}
		l := Speed("tg64", 100, 95, r, limit(t, "5%"))
		require.Equal(t, c.want, l.Verdict, c.why)
		require.Equal(t, c.want != Noisy, Sure(r, l.Limit), c.why)
	}
}

func TestCompare(t *testing.T) {
	number := func(v float64) Value { return Value{Number: v} }
	for _, c := range []struct {
		why      string
		better   Direction
		old, new Value
		limit    string
		want     Verdict
	}{
		{"nothing is allowed", Lower, number(148), number(149), "0", Regression},
		{"equal", Lower, number(148), number(148), "0", Pass},
		{"better", Lower, number(148), number(1), "0", Pass},
		{"a share", Lower, number(100), number(101), "1%", Pass},
		{"more than the share", Lower, number(100), number(101.1), "1%", Regression},
		{"absolute", Higher, number(0.98), number(0.975), "0.01", Pass},
		{"beyond absolute", Higher, number(0.98), number(0.96), "0.01", Regression},
		{"a share of nothing is nothing", Lower, number(0), number(1), "50%", Regression},
		{"no number", Lower, number(5), number(math.NaN()), "5%", Regression},
		{"the same hash", Equal, Value{Text: "a"}, Value{Text: "a"}, "0", Pass},
		{"another hash", Equal, Value{Text: "a"}, Value{Text: "b"}, "0", Regression},
	} {
		require.Equal(t, c.want, Compare(Metric{Better: c.better}, c.old, c.new, limit(t, c.limit)).Verdict, c.why)
	}
}

// report has a line of each kind.
func report(t *testing.T) *Report {
	ratio := stats.Ratio{Center: 0.9, Lo: 0.88, Hi: 0.92}
	return &Report{Model: "new", Against: "old", Machine: "m", Lines: []Line{
		Speed("tg64", 100, 90, ratio, limit(t, "5%")),
		Compare(Metric{Name: "kernels", Unit: "operators", Better: Lower}, Value{Number: 148}, Value{Number: 148}, Limit{}),
		Compare(Metric{Name: "hash", Better: Equal}, Value{Text: "0123456789abcdef"}, Value{Text: "fedcba9876543210"}, Limit{}),
		Absent(Metric{Name: "ppl", Better: Lower}, Value{Number: 16}, limit(t, "1%"), "no value, at 100%"),
	}}
}

func TestValueString(t *testing.T) {
	for want, v := range map[string]Value{
		"6772528":      {Number: 6772528},
		"-3":           {Number: -3},
		"4.86541":      {Number: 4.865405605816468},
		"1e+300":       {Number: 1e300},
		"NaN":          {Number: math.NaN()},
		"0123456789ab": {Text: "0123456789abcdef"},
		"":             {Absent: true},
	} {
		require.Equal(t, want, v.String())
	}
}

// TestEntryLeavesOut what JSON cannot say, and what was not measured.
func TestEntryLeavesOut(t *testing.T) {
	r := Report{Lines: []Line{
		Compare(Metric{Name: "ppl"}, Value{Number: 1}, Value{Number: math.NaN()}, Limit{}),
		Absent(Metric{Name: "instructions"}, Value{Absent: true}, Limit{}, "no counter"),
		Compare(Metric{Name: "nodes"}, Value{Number: 1}, Value{Number: 2}, Limit{}),
	}}
	e := r.Entry(time.Now(), "")
	require.Equal(t, map[string]float64{"nodes": 2}, e.Values)
	require.NoError(t, e.Write(new(bytes.Buffer)))
}

func TestVerdict(t *testing.T) {
	r := report(t)
	require.Equal(t, Regression, r.Verdict(), "the worst line decides")
	r.Lines = r.Lines[1:2]
	require.Equal(t, Pass, r.Verdict())
	r.Lines = append(r.Lines, report(t).Lines[3])
	require.Equal(t, Noisy, r.Verdict())
}

func TestWriteReport(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, report(t).WriteMarkdown(&out))
	require.Equal(t, strings.TrimPrefix(`
**regression**: new against old, on m

| metric | old | new | unit | change | limit | verdict |
|---|---:|---:|---|---:|---:|---|
| tg64 | 100 | 90 | t/s | 0.900x (0.880–0.920) | 5 % | regression |
| kernels | 148 | 148 | operators | +0.00 % | 0 | pass |
| hash | 0123456789ab | fedcba987654 |  | differs |  | regression |
| ppl |  | 16 |  |  | 1 % | noisy: no value, at 100% |
`, "\n"), out.String())

	out.Reset()
	require.NoError(t, report(t).WriteAnnotations(&out))
	require.Equal(t, strings.TrimPrefix(`
::error title=qwenrt bench gate::tg64: 90 instead of 100 t/s, 0.900x (0.880–0.920); the limit is 5 %25
::error title=qwenrt bench gate::hash: fedcba987654 instead of 0123456789ab
::warning title=qwenrt bench gate::ppl: cannot say: no value, at 100%25
`, "\n"), out.String())

	out.Reset()
	require.NoError(t, report(t).WriteJUnit(&out))
	var suite junitSuite
	require.NoError(t, xml.Unmarshal(out.Bytes(), &suite))
	require.Equal(t, []int{4, 2, 1}, []int{suite.Tests, suite.Failures, suite.Errors})
	require.Contains(t, suite.Cases[0].Failure.Message, "90 instead of 100")
	require.Nil(t, suite.Cases[1].Failure)
	require.Contains(t, suite.Cases[3].Error.Message, "no value")
}

func TestBaseline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "baseline.json")
	b, err := ReadBaseline(path)
	require.NoError(t, err, "the first run has no file")
	speed, count := Metric{Name: "tg64", Machine: true}, Metric{Name: "kernels"}
	_, known := b.Lookup(count, "m")
	require.False(t, known)
	b.Set(speed, "m", Value{Number: 50, Times: []float64{1, 2}})
	b.Set(count, "m", Value{Number: 148})
	b.Set(count, "m", Value{Number: 147})

	text, err := b.Encode()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, text, 0o666))
	again, err := ReadBaseline(path)
	require.NoError(t, err)
	require.Equal(t, b, again)
	for _, c := range []struct {
		m       Metric
		machine string
		want    float64
		known   bool
	}{{speed, "m", 50, true}, {speed, "other", 0, false}, {count, "other", 147, true}} {
		v, known := again.Lookup(c.m, c.machine)
		require.Equal(t, c.known, known)
		require.Equal(t, c.want, v.Number)
	}

	require.NoError(t, os.WriteFile(path, []byte("{}"), 0o666))
	b, err = ReadBaseline(path)
	require.NoError(t, err)
	b.Set(count, "m", Value{})
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o666))
	_, err = ReadBaseline(path)
	require.ErrorContains(t, err, "--update-baseline")
}

func TestHistory(t *testing.T) {
	var file bytes.Buffer
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := report(t)
	require.NoError(t, r.Entry(at, "a").Write(&file))
	r.Lines, r.Machine = r.Lines[1:2], "<m>"
	require.NoError(t, r.Entry(at, "b").Write(&file))
	entries, err := ReadHistory(&file)
	require.NoError(t, err)
	require.Equal(t, []Entry{
		{
			at, "a", "m", Regression, map[string]float64{"tg64": 90, "kernels": 148, "ppl": 16},
			map[string]Verdict{"tg64": Regression, "hash": Regression, "ppl": Noisy}, map[string]float64{"tg64": 0.9},
		},
		{at, "b", "<m>", Pass, map[string]float64{"kernels": 148}, nil, nil},
	}, entries)

	var svg bytes.Buffer
	require.NoError(t, WriteChart(&svg, entries))
	require.NoError(t, xml.Unmarshal(svg.Bytes(), new(struct{})), "well-formed")
	require.Equal(t, 4, strings.Count(svg.String(), "<circle"), "a dot for each value, a hash has none")
	require.Contains(t, svg.String(), "2026-11-23 b: 148 (&lt;m&gt;)")
	for verdict, dots := range map[Verdict]int{Regression: 1, Noisy: 1, Pass: 2} {
		require.Equal(t, dots, strings.Count(svg.String(), color[verdict]), "%s: each metric has its own", verdict)
	}
	require.Equal(t, 1, strings.Count(svg.String(), ">148</text>"), "one mark where all are equal")
	require.Equal(t, Regression, (&Entry{Verdict: Regression}).verdict("tg64"), "of a history without verdicts of metrics")

	svg.Reset()
	require.NoError(t, WriteChart(&svg, []Entry{{Time: at, Label: "c", Machine: "m", Values: map[string]float64{"bytes": 6772528}}}))
	require.Contains(t, svg.String(), "c: 6772528 (m)", "a count is shown in full")

	_, err = ReadHistory(strings.NewReader("\n{\n"))
	require.ErrorContains(t, err, "line 2")
	require.ErrorContains(t, WriteChart(&svg, nil), "no entries")
}

// TestRecorded replays 58 rounds that bench ab measured of qwen3-tiny against an equal build, while the machine had five
// processes for each core; then the same with one side a tenth slower. From each of 20 places in the series the gate says what is
// true, and never that it does not know.
func TestRecorded(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("testdata", "unchanged.json"))
	require.NoError(t, err)
	var recorded struct{ A, B []float64 }
	require.NoError(t, json.Unmarshal(text, &recorded))
	n := len(recorded.A)
	for slower, want := range map[float64]Verdict{1: Pass, 1.1: Regression, 1 / 1.1: Pass} {
		b := make([]float64, n)
		for i := range b {
			b[i] = recorded.B[i] * slower
		}
		for start := range 20 {
			line := replay(recorded.A, b, start*n/20)
			require.Equal(t, want, line.Verdict, "%.2f times as long, from round %d: %v", slower, start*n/20, line.Ratio)
		}
	}
}

// replay gates a series from a round on. It goes on at the beginning when it ends, twice over.
func replay(a, b []float64, start int) Line {
	limit := Limit{0.05, true}
	var series stats.Series
	var ratio stats.Ratio
	for i := range 3 * len(a) {
		k := (start + i) % len(a)
		if !series.Add(a[k:k+1], b[k:k+1]) {
			continue
		}
		if ratio = series.Ratio(); Sure(ratio, limit) {
			break
		}
	}
	return Speed("tg64", 0, 0, ratio, limit)
}
