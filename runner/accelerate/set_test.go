package accelerate_test

import (
	"reflect"
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
		{"another type", "threads", "many", accelerate.Config{}, `accelerate: threads "many": want a whole number`},
		{"a fraction", "prefill_chunk", "1.5", accelerate.Config{}, `prefill_chunk "1.5": want a whole number`},
		{"several faults", "rules", "[x, 'y=z']", accelerate.Config{}, `rules: rule "x": want GLOB=VALUE, such as 'model.layers.0.*=int8'; rules: rule "y=z"`},
		{"no YAML", "rules", "[x", accelerate.Config{}, `option "rules": [1:1]`},
		{"the default", "huge_pages", "", accelerate.Config{SessionEntries: entries}, ""},
		{"another type, within", "calibration.samples", "few", accelerate.Config{}, `calibration.samples "few": want a whole number`},
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

// TestSetEveryOption sets each option that a Config has, by its name in configuration files.
func TestSetEveryOption(t *testing.T) {
	samples := map[reflect.Type]string{
		reflect.TypeFor[[]string]():          "[a, b]",
		reflect.TypeFor[[]quantize.Rule]():   "['a=int8']",
		reflect.TypeFor[*bool]():             "true",
		reflect.TypeFor[*float64]():          "1.5",
		reflect.TypeFor[map[string]string](): "v",
	}
	kinds := map[reflect.Kind]string{reflect.String: "text", reflect.Bool: "true", reflect.Int: "3", reflect.Int64: "4", reflect.Uint64: "5", reflect.Float64: "2.5"}
	var set func(c *accelerate.Config, t *testing.T, v reflect.Value, prefix string)
	set = func(c *accelerate.Config, t *testing.T, v reflect.Value, prefix string) {
		for i := range v.NumField() {
			field := v.Type().Field(i)
			name := prefix + field.Tag.Get("yaml")
			require.NotEqual(t, prefix, name, "%s has no name", field.Name)
			if field.Type.Kind() == reflect.Struct {
				set(c, t, v.Field(i), name+".")
				continue
			}
			sample := samples[field.Type]
			if sample == "" {
				sample = kinds[field.Type.Kind()]
			}
			if field.Type.Kind() == reflect.Map {
				name += ".key"
			}
			require.NotEmpty(t, sample, "%s is of a kind that this test does not know", name)
			require.NoError(t, c.Set(name, sample), name)
			require.False(t, v.Field(i).IsZero(), name)
		}
	}
	var c accelerate.Config
	set(&c, t, reflect.ValueOf(&c).Elem(), "")
}
