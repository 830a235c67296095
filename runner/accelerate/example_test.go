package accelerate_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/chat"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// harbor is a request that the carried model knows the answer to.
var harbor = runner.Request{
	Messages: []chat.Message{{Role: "user", Content: `What does "harbor" mean?`}}, Think: new(false),
	MaxTokens: 6, Sampling: &sample.Params{},
}

// ExampleOpen makes a model of a checkpoint, once, and asks it something.
func ExampleOpen() {
	ctx := context.Background()
	conf, err := accelerate.New(accelerate.WithPrecision(accelerate.Int4), accelerate.WithStrict())
	if err != nil {
		panic(err)
	}
	m, err := accelerate.Open(ctx, accelerate.Source{Dir: carried}, conf, accelerate.Events{})
	if err != nil {
		panic(err)
	}
	defer m.Close()
	for ev, err := range m.Generate(ctx, harbor) {
		if err != nil {
			panic(err)
		}
		fmt.Print(ev.Text)
	}
	fmt.Println()
	for _, o := range m.Info().Options {
		if o.Requested != "" {
			fmt.Printf("%s: %s\n", o.Option, o.Applied)
		}
	}
	// Output:
	// The noun "harbor"
	// precision: int4
	// attention: flash
}

// ExampleModel_Reconfigure changes to one thread and back while answers are given.
func ExampleModel_Reconfigure() {
	ctx := context.Background()
	m, err := accelerate.Open(ctx, accelerate.Source{Dir: carried}, accelerate.Config{}, accelerate.Events{})
	if err != nil {
		panic(err)
	}
	defer m.Close()
	changed := false
	for ev, err := range m.Generate(ctx, harbor) {
		if err != nil {
			panic(err)
		}
		if !changed { // the answer goes on where it began
			changed = true
			if err := m.Reconfigure(ctx, accelerate.Config{Threads: 1}); err != nil {
				panic(err)
			}
		}
		fmt.Print(ev.Text)
	}
	fmt.Println()
	fmt.Println(m.Reconfigure(ctx, accelerate.Config{Attention: "fast"}))
	// Output:
	// The noun "harbor"
	// accelerate: attention "fast": want flash, memory_efficient or plain
}

// TestCompareConfigurations is the loop over configurations that shows what each costs and gives. It logs a table, and
// holds that quality is what it should be: perplexity of a text, close to that of the model as it is.
func TestCompareConfigurations(t *testing.T) {
	ownCache(t)
	const text = `The noun "harbor" means: a sheltered port where ships can take on or discharge cargo.`
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "configuration\tbits a weight\tweights, MB\tlatency, ms\ttokens/s\tperplexity")
	reference := 0.0
	for _, c := range []struct {
		name  string
		conf  accelerate.Config
		worse float64 // the most that perplexity may rise, relatively
	}{
		{"none", accelerate.Config{Precision: accelerate.None}, 0},
		{"fp16", accelerate.Config{Precision: accelerate.Half, Lenient: true}, 0.02},
		{"dynamic INT8", accelerate.Config{Precision: accelerate.DynamicInt8}, 0.2},
		{"INT4", accelerate.Config{Precision: accelerate.Int4}, 0.3},
	} {
		m := open(t, accelerate.Source{Dir: carried}, c.conf)
		p := perplexity(t, use(t, m), text)
		if reference == 0 {
			reference = p
		}
		require.Less(t, p, reference*(1+c.worse)+1e-9, c.name)
		b, err := m.Benchmark(t.Context(), accelerate.Benchmark{Tokens: 8, Iterations: 1})
		require.NoError(t, err)
		info := m.Info()
		fmt.Fprintf(w, "%s\t%.2f\t%.1f\t%.1f\t%.1f\t%.3f\n", c.name, info.BitsPerWeight, float64(info.Memory.Estimate.Packed)/1e6,
			1e3*b.Latency.Seconds(), b.TokensPerSecond, p)
	}
	require.NoError(t, w.Flush())
	t.Log("\n" + table.String())
}

// perplexity of a text, of which the first token is given.
func perplexity(t *testing.T, r *runner.Runner, text string) float64 {
	t.Helper()
	tok, err := r.Tokenizer()
	require.NoError(t, err)
	ids, err := tok.Encode(text)
	require.NoError(t, err)
	s, err := r.NewSequence()
	require.NoError(t, err)
	defer s.Close()
	sum := 0.0
	require.NoError(t, s.Score(t.Context(), ids[:len(ids)-1], func(i int, logits []float32) error {
		norm := 0.0
		for _, x := range logits {
			norm += math.Exp(float64(x - logits[ids[i+1]]))
		}
		sum += math.Log(norm)
		return nil
	}))
	return math.Exp(sum / float64(len(ids)-1))
}

// TestReconfigureUnderLoad changes the set-up again and again while requests come in from several sides. Each answer is
// that of one set-up from its first token to its last.
func TestReconfigureUnderLoad(t *testing.T) {
	ownCache(t)
	confs := []accelerate.Config{{Precision: accelerate.None}, {Precision: accelerate.Int4, BlockSize: 16}}
	ask := runner.Request{Tokens: []int32{1, 2, 3}, MaxTokens: 12, IgnoreEOS: true, Sampling: &sample.Params{}}
	answers := map[string]bool{}
	for _, c := range confs {
		answers[answer(t, open(t, quick, c), ask)] = true
	}
	m := open(t, quick, confs[0])
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				if got := answer(t, m, ask); !answers[got] {
					t.Errorf("an answer of no set-up: %s", got)
					return
				}
			}
		})
	}
	for i := range 10 {
		require.NoError(t, m.Reconfigure(t.Context(), confs[(i+1)%2]))
	}
	cancel()
	all.Wait()
}

func answer(t *testing.T, m *accelerate.Model, q runner.Request) string {
	tokens := []int32{}
	for ev, err := range m.Generate(t.Context(), q) {
		if err != nil {
			t.Error(err)
		}
		tokens = append(tokens, ev.Token)
	}
	return fmt.Sprint(tokens)
}
