package accelerate_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/runner/accelerate"
)

// TestPanicOfCallbacks holds that a panic in a function of Events reaches the caller of Build, who can recover from it.
func TestPanicOfCallbacks(t *testing.T) {
	for name, e := range map[string]accelerate.Events{
		"Step":     {Step: func(accelerate.Step) { panic("mine") }},
		"Progress": {Progress: func(int64, int64) { panic("mine") }},
		"Trace":    {Trace: func(graphopt.Event) { panic("mine") }},
	} {
		o := out(t, "out")
		func() {
			defer func() { require.Contains(t, recover(), "mine", name) }()
			_, _ = accelerate.Build(t.Context(), quick, o, accelerate.Config{}, e)
		}()
		_, err := os.Stat(o.Dir)
		require.ErrorIs(t, err, os.ErrNotExist, name)
		_, err = accelerate.Build(t.Context(), quick, o, accelerate.Config{}, accelerate.Events{})
		require.NoError(t, err, name)
	}
}
