package accelerate

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Options of a provider reach it, on machines without one as well.
func TestProviderFacts(t *testing.T) {
	options := func(c Config) map[string]string { return c.options(CUDA).Providers[0].Options }
	require.Equal(t, map[string]string{"device_id": "0"}, options(Config{}))
	require.Equal(t, map[string]string{"device_id": "1"}, options(Config{DeviceID: 1}))
	more := Config{DeviceID: 1, ProviderOptions: map[string]string{"gpu_mem_limit": "1", "device_id": "2"}}
	require.Equal(t, map[string]string{"gpu_mem_limit": "1", "device_id": "2"}, options(more), "the provider's own words win")
	require.Empty(t, more.options(CPU).Providers)
}

func TestSharingConfig(t *testing.T) {
	for text, c := range map[string]Config{
		"slots is -1":              {Slots: -1},
		"queue is -1":              {Slots: 1, Queue: -1},
		"would replay the first":   {Device: CUDA, ProviderOptions: map[string]string{"enable_cuda_graph": "1"}},
		"queue is 3 without slots": {Queue: 3},
		"prefix_cache is -1":       {PrefixCache: -1},
	} {
		require.ErrorContains(t, c.Validate(), text)
	}
	require.NoError(t, Config{Slots: 2, Queue: 3, PrefixCache: 1 << 20}.Validate())
}
