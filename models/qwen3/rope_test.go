package qwen3

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// rope.json is made by testdata/make.py with transformers.
func TestInvFreqIsThatOfTransformers(t *testing.T) {
	data, err := os.ReadFile("testdata/rope.json")
	require.NoError(t, err)
	var golden struct {
		Cases []struct {
			Name      string
			Config    json.RawMessage
			InvFreq   []float64 `json:"inv_freq"`
			Attention float64   `json:"attention_factor"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &golden))
	require.Greater(t, len(golden.Cases), 10)
	for _, c := range golden.Cases {
		t.Run(c.Name, func(t *testing.T) {
			config, err := ParseConfig(c.Config)
			require.NoError(t, err)
			got := config.Rope.InvFreq(config.HeadDim)
			require.Len(t, got, len(c.InvFreq))
			for i, want := range c.InvFreq {
				// One unit in the last place of float32 is up to 1.2e-7; two libraries' powers and a
				// blend of two numbers may each be off by one.
				require.InEpsilon(t, want, float64(got[i]), 4e-7, "dimension %d", i)
			}
			require.InEpsilon(t, c.Attention, config.Rope.AttentionFactor(), 1e-12)
		})
	}
}
