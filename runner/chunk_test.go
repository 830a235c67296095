package runner

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChunkAt(t *testing.T) {
	for _, c := range []struct {
		why           string
		scores, heads int64
		past, want    int
	}{
		{"no bound", 0, 16, 4096, 512},
		{"heads are not known", 1 << 20, 0, 4096, 512},
		{"short enough", 32 << 20, 16, 0, 512},
		{"longer past, smaller chunk", 32 << 20, 16, 4096, 124},
		{"one token always runs", 1, 16, 4096, 1},
	} {
		r := &Runner{chunk: 512, scores: c.scores, config: modelConfig{heads: c.heads}}
		n := r.chunkAt(c.past)
		require.Equal(t, c.want, n, c.why)
		if c.scores > 0 && c.heads > 0 && n > 1 {
			require.LessOrEqual(t, 4*c.heads*int64(n)*int64(c.past+n), c.scores, c.why)
		}
	}
}
