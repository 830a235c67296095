package reftest

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Tolerance is how far float32 logits may be off, see MaxError.
const Tolerance = 2e-4

// Model is a model that is run for comparison.
type Model struct {
	session *ort.Session
	inputs  []string
	past    []ort.ValueInfo // the KV cache's inputs
	// shared: past and present are one tensor of fixed length, in which GroupQueryAttention writes
	// in place; otherwise each run gives a longer present.
	shared bool
}

// Open loads the model at path, and closes it with the test. A missing ONNX Runtime fails the test.
// The KV cache is shared where the graph has GroupQueryAttention.
func Open(tb testing.TB, path string) *Model {
	tb.Helper()
	require.NoError(tb, ort.Init(ort.Environment{}))
	session, err := ort.NewSession(path, ort.SessionConfig{})
	require.NoError(tb, err)
	tb.Cleanup(session.Close)
	m := &Model{session: session, shared: hasGroupQueryAttention(tb, path)}
	for _, v := range session.Inputs() {
		m.inputs = append(m.inputs, v.Name)
		if strings.HasPrefix(v.Name, pastPrefix) {
			m.past = append(m.past, v)
		}
	}
	require.NotEmpty(tb, m.past, "%s has no KV cache", path)
	return m
}

// Unshared gives the same model with a KV cache that grows from run to run, which
// GroupQueryAttention takes as well.
func (m *Model) Unshared() *Model {
	other := *m
	other.shared = false
	return &other
}

func hasGroupQueryAttention(tb testing.TB, path string) bool {
	tb.Helper()
	model, err := ir.Load(path)
	require.NoError(tb, err)
	defer model.Close()
	return slices.ContainsFunc(model.Graph.Nodes(), func(n *ir.Node) bool {
		return n.Is("com.microsoft", "GroupQueryAttention")
	})
}

// Check compares the model with the reference on every prompt: logits of every position within
// Tolerance, computed at once, in chunks of 7 and token by token, and the greedy tokens the same.
func (m *Model) Check(t *testing.T, prompts []Prompt) {
	t.Helper()
	m.CheckWithin(t, prompts, Tolerance)
}

// CheckWithin is Check with another tolerance.
func (m *Model) CheckWithin(t *testing.T, prompts []Prompt, tolerance float64) {
	t.Helper()
	for _, c := range []struct {
		name  string
		chunk int
	}{{"whole", 0}, {"chunks", 7}, {"tokens", 1}} {
		t.Run(c.name, func(t *testing.T) {
			for i, p := range prompts {
				worst := MaxError(t, m.Logits(t, p.IDs, c.chunk), p.Logits, p.Vocab)
				require.LessOrEqual(t, worst, tolerance, "prompt %d", i)
			}
		})
	}
	t.Run("greedy", func(t *testing.T) {
		for i, p := range prompts {
			require.Equal(t, p.Greedy, m.Greedy(t, p.IDs, len(p.Greedy)), "prompt %d", i)
		}
	})
}

// Logits runs the tokens in pieces of chunk (0: all at once) through the KV cache and gives the
// logits of every position, [S, vocabulary].
func (m *Model) Logits(tb testing.TB, ids []int64, chunk int) []float32 {
	tb.Helper()
	return m.BatchLogits(tb, [][]int64{ids}, chunk)[0]
}

// BatchLogits is Logits for several rows at once. Rows that are shorter than the longest are padded
// on the left; the padding's logits are left out. An optimised graph has no position_ids and cannot
// be padded on the left: give it rows of one length.
func (m *Model) BatchLogits(tb testing.TB, rows [][]int64, chunk int) [][]float32 {
	tb.Helper()
	length := 0
	for _, r := range rows {
		length = max(length, len(r))
	}
	if chunk == 0 {
		chunk = length
	}
	s := m.start(tb, len(rows), length)
	result := make([][]float32, len(rows))
	for from := 0; from < length; from += chunk {
		to := min(from+chunk, length)
		logits := s.run(tb, window(rows, length, from, to))
		vocab := len(logits) / len(rows) / (to - from)
		for i, r := range rows {
			first := max(from, length-len(r)) // of the row's own tokens
			if first < to {
				base := i * (to - from)
				result[i] = append(result[i], logits[(base+first-from)*vocab:(base+to-from)*vocab]...)
			}
		}
	}
	return result
}

// Greedy gives the n most likely tokens that follow ids, one after the other.
func (m *Model) Greedy(tb testing.TB, ids []int64, n int) []int64 {
	tb.Helper()
	s := m.start(tb, 1, len(ids)+n)
	sequence := slices.Clone(ids)
	for from := 0; len(sequence) < len(ids)+n; {
		logits := s.run(tb, window([][]int64{sequence}, len(sequence), from, len(sequence)))
		vocab := len(logits) / (len(sequence) - from)
		from = len(sequence)
		sequence = append(sequence, argmax(logits[len(logits)-vocab:]))
	}
	return sequence[len(ids):]
}

func argmax(v []float32) int64 {
	best := 0
	for i, x := range v {
		if x > v[best] {
			best = i
		}
	}
	return int64(best)
}
