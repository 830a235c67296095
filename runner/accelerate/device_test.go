//go:build unix

package accelerate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/ort/orttest"
	"github.com/qwenrt/qwenrt/runner"
	"github.com/qwenrt/qwenrt/runner/accelerate"
	"github.com/qwenrt/qwenrt/runner/sample"
)

// TestDevice answers with the carried model on a device of its own memory: as the CPU does, with a row of logits and a few
// bytes copied at each step, however long the context is.
func TestDevice(t *testing.T) {
	for name, conf := range map[string]accelerate.Config{
		"float":               {Precision: accelerate.None},
		"int4":                {Precision: accelerate.Int4},
		"int4, cache in int8": {Precision: accelerate.Int4, KV: accelerate.KVInt8, Calibration: few},
	} {
		t.Run(name, func(t *testing.T) {
			to := out(t, "model")
			_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, to, conf, accelerate.Events{})
			require.NoError(t, err)
			cpu := openFolder(t, to.Dir, 0)
			text := evalTokens(t, cpu, 600)
			want := chosen(t, cpu, text[:90])
			for _, o := range []runner.Options{{}, {FixedSteps: true}, {Slots: 2}} {
				orttest.Register(t)
				o.Providers = []ort.Provider{{Name: orttest.Provider}}
				r, err := runner.Open(t.Context(), to.Dir, o)
				require.NoError(t, err)
				require.Equal(t, want, chosen(t, r, text[:90]))
				if o.Slots == 0 {
					requireSteps(t, r, text)
				}
				require.NoError(t, r.Close())
			}
		})
	}
}

// chosen is what is most likely, token by token.
func chosen(t *testing.T, r *runner.Runner, prompt []int32) (tokens []int32) {
	t.Helper()
	q := runner.Request{Tokens: prompt, MaxTokens: 48, IgnoreEOS: true, Sampling: &sample.Params{}}
	for ev, err := range r.Generate(t.Context(), q) {
		require.NoError(t, err)
		if ev.Result == nil {
			tokens = append(tokens, ev.Token)
		}
	}
	return tokens
}

// requireSteps counts the bytes of decode steps behind some tokens and behind many.
func requireSteps(t *testing.T, r *runner.Runner, text []int32) {
	t.Helper()
	row := int64(4 * r.Info().Vocabulary)
	for _, n := range []int{30, 600} {
		s, err := r.NewSequence()
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.Reserve(700))
		_, err = s.Prefill(t.Context(), text[:n])
		require.NoError(t, err)
		const steps = 4
		var before orttest.Counters
		for i := range 1 + steps { // the first brings a mask of fixed length to that of the prompt
			if i == 1 {
				before = orttest.Read(t)
			}
			_, err := s.Decode(t.Context(), text[i])
			require.NoError(t, err)
		}
		did := orttest.Read(t).Since(before)
		require.LessOrEqual(t, did.BytesIn, int64(steps*32))
		require.Equal(t, steps*row, did.BytesOut)
		require.Zero(t, did.BytesWithin)
	}
}

// TestReduceOverheadOnDevice holds that steps get one shape there, and what is said where they cannot have it.
func TestReduceOverheadOnDevice(t *testing.T) {
	ownCache(t)
	conf := accelerate.Config{
		Precision: accelerate.None, Device: orttest.Provider, ProviderLibrary: orttest.Library(t), Compile: accelerate.ReduceOverhead, MaxContext: 128,
	}
	m := openModel(t, accelerate.Source{Dir: carried}, conf)
	require.True(t, use(t, m).Info().FixedSteps)
	require.Contains(t, outcome(t, m, "compile").Fact, "decode steps have one shape")
	require.NotContains(t, outcome(t, m, "compile").Reason, "fixed shape")
	device := outcome(t, m, "device")
	require.Contains(t, device.Fact, "KV cache in memory TestDevice:0, logits in TestDevice:0")
	require.Empty(t, device.Reason)
	require.Equal(t, "TestDevice:0", m.Info().Model.KVMemory)
	require.Equal(t, "TestDevice:0", m.Info().Model.Logits)

	to := out(t, "plain")
	_, err := accelerate.Build(t.Context(), accelerate.Source{Dir: carried}, to, accelerate.Config{Precision: accelerate.None, Attention: accelerate.Plain}, accelerate.Events{})
	require.NoError(t, err)
	m = openModel(t, accelerate.Source{Dir: to.Dir}, conf)
	require.False(t, use(t, m).Info().FixedSteps)
	require.Contains(t, outcome(t, m, "compile").Reason, "without fused attention")
	conf.Strict = true
	_, err = accelerate.Open(t.Context(), accelerate.Source{Dir: to.Dir}, conf, accelerate.Events{})
	require.ErrorIs(t, err, accelerate.ErrNotApplied)
}

func openModel(t *testing.T, from accelerate.Source, conf accelerate.Config) *accelerate.Model {
	t.Helper()
	m, err := accelerate.Open(t.Context(), from, conf, accelerate.Events{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}
