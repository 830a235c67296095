package runner_test

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/grammar"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// orders is a schema with much of what schemas have.
const orders = `{"type": "object", "properties": {
	"id": {"type": "string", "pattern": "^ord-[0-9]{5}$"},
	"customer": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 64}, "email": {"type": "string", "format": "email"}},
		"required": ["name", "email"], "additionalProperties": false},
	"state": {"enum": ["open", "paid", "shipped"]},
	"items": {"type": "array", "minItems": 2, "maxItems": 20, "items": {"type": "object", "properties": {
		"sku": {"type": "string", "minLength": 1, "maxLength": 12}, "count": {"type": "integer", "minimum": 1, "maximum": 999},
		"price": {"type": "number", "minimum": 0}}, "required": ["sku", "count", "price"]}},
	"note": {"type": "string", "minLength": 100, "maxLength": 400}},
	"required": ["id", "customer", "state", "items", "note"]}`

// BenchmarkConstrained finds what a grammar costs in whole answers of the model in QWENRT_BENCH_MODEL. A round has an answer
// without a grammar, and one with each, from a grammar that was never used and again from the same; the metrics are the medians
// of ms a step, and of how many per cent a step takes longer than one of the free answer in the round.
func BenchmarkConstrained(b *testing.B) {
	model := os.Getenv("QWENRT_BENCH_MODEL")
	if model == "" {
		b.Skip("QWENRT_BENCH_MODEL names no model")
	}
	r, err := runner.Open(b.Context(), model, runner.Options{})
	require.NoError(b, err)
	defer r.Close()
	grammars := []struct {
		name string
		make func() (*grammar.Grammar, error)
	}{
		{"json", func() (*grammar.Grammar, error) { // an object might end at once
			return grammar.Schema([]byte(`{"type": "array", "minItems": 100}`), grammar.Options{Space: grammar.Flexible})
		}},
		{"schema", func() (*grammar.Grammar, error) { return grammar.Schema([]byte(orders), grammar.Options{}) }},
		{"pattern", func() (*grammar.Grammar, error) { return grammar.Regexp(`[A-Za-z ,.]{400,500}`, grammar.Options{}) }},
		{"prose", func() (*grammar.Grammar, error) { return grammar.Regexp(`(.|\n)*THE END`, grammar.Options{}) }},
	}
	seed := uint64(0)
	step := func(g *grammar.Grammar) float64 {
		q := runner.Request{Prompt: "Why is the sky blue?", MaxTokens: 80, IgnoreEOS: g == nil, Sampling: &sample.Params{Temperature: 0.6, TopK: 20, Seed: seed}}
		if g != nil {
			q.Constraint, err = r.Constrain(g)
			require.NoError(b, err)
		}
		_, result, err := r.Text(b.Context(), q)
		require.NoError(b, err)
		return float64(result.TPOT()) / float64(time.Millisecond)
	}
	var free []float64
	steps, more := map[string][]float64{}, map[string][]float64{}
	step(nil)
	for b.Loop() {
		seed++
		before := step(nil)
		free = append(free, before)
		for _, c := range grammars {
			g, err := c.make()
			require.NoError(b, err)
			for _, when := range []string{"first", "again"} {
				name, took := c.name+"-"+when, step(g)
				after := step(nil) // a free answer on either side, as the machine's speed changes
				steps[name] = append(steps[name], took)
				more[name] = append(more[name], 100*(2*took/(before+after)-1))
				free, before = append(free, after), after
			}
		}
	}
	b.ReportMetric(median(free), "free-ms")
	for name := range steps {
		b.ReportMetric(median(steps[name]), name+"-ms")
		b.ReportMetric(median(more[name]), name+"-%")
	}
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
