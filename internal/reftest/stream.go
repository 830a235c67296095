package reftest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
)

const (
	pastPrefix    = "past_key_values."
	presentPrefix = "present."
)

// step is the input of one run: columns [from, to) of a batch.
type step struct {
	batch, from, to int
	ids, positions  []int64 // [B, to-from]
	mask            []int64 // [B, to]
}

// window cuts columns [from, to) out of rows that are padded on the left to one length.
func window(rows [][]int64, length, from, to int) step {
	s := step{batch: len(rows), from: from, to: to}
	for _, r := range rows {
		pad := length - len(r)
		for col := range to {
			id, position, mask := int64(0), int64(0), int64(0)
			if col >= pad {
				id, position, mask = r[col-pad], int64(col-pad), 1
			}
			s.mask = append(s.mask, mask)
			if col >= from {
				s.ids, s.positions = append(s.ids, id), append(s.positions, position)
			}
		}
	}
	return s
}

// stream is a KV cache and the model that fills it.
type stream struct {
	model   *Model
	cache   map[string]*ort.Tensor // by the names of the inputs
	binding *ort.Binding           // of a shared cache
}

// start gives an empty cache; one that is shared holds up to capacity tokens.
func (m *Model) start(tb testing.TB, batch, capacity int) *stream {
	tb.Helper()
	s := &stream{model: m, cache: map[string]*ort.Tensor{}}
	tb.Cleanup(s.close)
	length := int64(0)
	if m.shared {
		length = int64(capacity)
	}
	for _, v := range m.past {
		require.Len(tb, v.Shape, 4, v.Name)
		t, err := ort.NewTensor(v.DType, int64(batch), v.Shape[1], length, v.Shape[3])
		require.NoError(tb, err)
		s.cache[v.Name] = t
	}
	if m.shared {
		s.bind(tb)
	}
	return s
}

func (s *stream) bind(tb testing.TB) {
	tb.Helper()
	var err error
	s.binding, err = s.model.session.NewBinding()
	require.NoError(tb, err)
	for name, t := range s.cache {
		require.NoError(tb, s.binding.BindInput(name, t))
		require.NoError(tb, s.binding.BindOutput(present(name), t))
	}
	require.NoError(tb, s.binding.BindOutputTo("logits", ort.Location{}))
}

func present(past string) string { return presentPrefix + strings.TrimPrefix(past, pastPrefix) }

// run feeds a step and gives a copy of its logits.
func (s *stream) run(tb testing.TB, in step) []float32 {
	tb.Helper()
	inputs := map[string]*ort.Tensor{}
	given := map[string][]int64{"input_ids": in.ids, "attention_mask": in.mask, "position_ids": in.positions}
	for _, name := range s.model.inputs {
		if data, ok := given[name]; ok {
			t, err := ort.NewTensor(ort.Int64, int64(in.batch), int64(len(data)/in.batch))
			require.NoError(tb, err)
			defer t.Close()
			copy(ort.Data[int64](t), data)
			inputs[name] = t
		}
	}
	var outputs map[string]*ort.Tensor
	if s.binding != nil {
		outputs = s.runBound(tb, inputs)
	} else {
		outputs = s.runGrowing(tb, inputs)
	}
	logits := outputs["logits"]
	defer logits.Close()
	require.Equal(tb, ort.Float32, logits.DType(), "logits")
	return append([]float32(nil), ort.Data[float32](logits)...)
}

func (s *stream) runBound(tb testing.TB, inputs map[string]*ort.Tensor) map[string]*ort.Tensor {
	tb.Helper()
	for name, t := range inputs {
		require.NoError(tb, s.binding.BindInput(name, t))
	}
	require.NoError(tb, s.binding.Run(nil))
	outputs, err := s.binding.Outputs()
	require.NoError(tb, err)
	return outputs
}

func (s *stream) runGrowing(tb testing.TB, inputs map[string]*ort.Tensor) map[string]*ort.Tensor {
	tb.Helper()
	for name, t := range s.cache {
		inputs[name] = t
	}
	outputs, err := s.model.session.Run(tb.Context(), inputs, nil)
	require.NoError(tb, err)
	for name, past := range s.cache {
		past.Close()
		s.cache[name] = outputs[present(name)]
	}
	return outputs
}

func (s *stream) close() {
	if s.binding != nil {
		s.binding.Close()
	}
	for _, t := range s.cache {
		t.Close()
	}
}
