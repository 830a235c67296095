package accelerate_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/quantize"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

func TestSet(t *testing.T) {
	entries := map[string]string{"a": "1"}
	for _, c := range []struct {
		why, key, value string
		want            accelerate.Config
		fault           string
	}{
		{"text", "spin", "in_run", accelerate.Config{Spin: accelerate.SpinInRun, SessionEntries: entries}, ""},
		{"text that YAML reads as something else", "provider_library", "1", accelerate.Config{ProviderLibrary: "1", SessionEntries: entries}, ""},
		{"a number", "prefix_cache", "1048576", accelerate.Config{PrefixCache: 1 << 20, SessionEntries: entries}, ""},
		{"a choice with a default of its own", "huge_pages", "false", accelerate.Config{HugePages: new(false), SessionEntries: entries}, ""},
		{"a list", "rules", "['*head*=int8', '*q_proj*=int8:b64']", accelerate.Config{SessionEntries: entries, Rules: []quantize.Rule{
			{Match: "*head*", Precision: quantize.Int8}, {Match: "*q_proj*", Precision: quantize.Int8, BlockSize: 64},
		}}, ""},
		{"within another", "calibration.gptq.in_order", "true", accelerate.Config{SessionEntries: entries,
			Calibration: accelerate.Calibration{GPTQ: quantize.GPTQOptions{InOrder: true}}}, ""},
		{"an entry with dots, beside another", "session_entries.session.b", "x=y", accelerate.Config{SessionEntries: map[string]string{"a": "1", "session.b": "x=y"}}, ""},
		{"no such option", "thread", "1", accelerate.Config{}, `no option "thread"`},
		{"no such part", "threads.n", "1", accelerate.Config{}, `no option "threads.n"`},
		{"no name", "", "1", accelerate.Config{}, `no option ""`},
		{"a whole map", "session_entries", "{a: b}", accelerate.Config{}, "session_entries.NAME"},
		{"another type", "threads", "many", accelerate.Config{}, `option "threads": [1:1]`},
		{"another type, within", "calibration.samples", "few", accelerate.Config{}, `option "calibration.samples"`},
	} {
		got := accelerate.Config{SessionEntries: entries}
		err := got.Set(c.key, c.value)
		if c.fault != "" {
			require.ErrorContains(t, err, c.fault, c.why)
			require.Equal(t, accelerate.Config{SessionEntries: entries}, got, c.why)
			continue
		}
		require.NoError(t, err, c.why)
		require.Equal(t, c.want, got, c.why)
	}
	require.Len(t, entries, 1, "the map of another configuration")
}
