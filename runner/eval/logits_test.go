package eval

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// logitsFile makes a file of one chunk of 8 tokens over 5, and the logits in it.
func logitsFile(t testing.TB) ([]byte, [][]float32) {
	t.Helper()
	const context, vocabulary = 8, 5
	var b bytes.Buffer
	w, err := newLogitsWriter(&b, context, vocabulary, []int32{0, 1, 2, 3, 4, 3, 2, 1})
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(9, 10))
	rows := make([][]float32, scoredRows(context))
	w.begin(len(rows))
	for i := range rows {
		rows[i] = make([]float32, vocabulary)
		for j := range rows[i] {
			rows[i][j] = 12 * random.Float32()
		}
		rows[i][i] = -40 // beyond the range of codes
		d := fromLogits(rows[i])
		w.row(i, &d)
	}
	require.NoError(t, w.flush())
	return b.Bytes(), rows
}

func openBytes(t testing.TB, b []byte) (*LogitsFile, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "logits")
	require.NoError(t, os.WriteFile(path, b, 0o666))
	f, err := OpenLogits(path)
	if err == nil {
		t.Cleanup(func() { f.Close() })
	}
	return f, err
}

func TestLogitsFile(t *testing.T) {
	b, rows := logitsFile(t)
	// 20 bytes, 8 tokens, 3 positions of 8 bytes and 6 codes.
	require.Len(t, b, 20+8*4+3*(8+6*2))
	again, _ := logitsFile(t)
	require.Equal(t, b, again, "the same work gives the same bytes")
	f, err := openBytes(t, b)
	require.NoError(t, err)
	require.Equal(t, 8, f.Context())
	require.Equal(t, []int32{0, 1, 2, 3, 4, 3, 2, 1}, f.Tokens())
	source, err := f.open(5)
	require.NoError(t, err)
	require.NoError(t, source.chunk(t.Context(), nil))
	for i, logits := range rows {
		want := fromLogits(logits)
		got, err := source.row(i)
		require.NoError(t, err)
		require.Equal(t, want.top, got.top)
		for j := range logits {
			if j != i {
				require.InDelta(t, want.nll(int32(j)), got.nll(int32(j)), 1.3e-4)
			}
		}
		require.InDelta(t, 16, got.nll(int32(i))-got.nll(int32(got.top)), 1e-3, "clipped")
		require.InDelta(t, 0, divergence(&got, &want), 1e-3)
	}
}

// TestForeignLogitsFile reads a file made byte by byte from the description.
func TestForeignLogitsFile(t *testing.T) {
	le := binary.LittleEndian
	b := []byte("_logits_")
	for _, n := range []uint32{4, 2, 1, 1, 0, 1, 1} { // n_ctx, n_vocab, n_chunk, tokens
		b = le.AppendUint32(b, n)
	}
	// Position 2 alone is scored: probabilities 1/4 and 3/4.
	lowest, scale := float32(math.Log(0.25)), float32(math.Log(3))/65535
	b = le.AppendUint32(b, math.Float32bits(scale))
	b = le.AppendUint32(b, math.Float32bits(lowest))
	b = le.AppendUint16(b, 0)
	b = le.AppendUint16(b, 65535)
	f, err := openBytes(t, b)
	require.NoError(t, err)
	s, err := f.open(2)
	require.NoError(t, err)
	require.NoError(t, s.chunk(t.Context(), nil))
	d, err := s.row(0)
	require.NoError(t, err)
	require.Equal(t, 1, d.top)
	require.InDelta(t, 0.25, math.Exp(-d.nll(0)), 1e-6)
	require.InDelta(t, 0.75, math.Exp(-d.nll(1)), 1e-6)
}

func TestBadLogitsFile(t *testing.T) {
	good, _ := logitsFile(t)
	put := func(at int, n uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[at:], n)
			return b
		}
	}
	for _, c := range []struct {
		why   string
		spoil func([]byte) []byte
	}{
		{"empty", func([]byte) []byte { return nil }},
		{"another kind of file", func(b []byte) []byte { return append([]byte("GGUF"), b[4:]...) }},
		{"a header cut short", func(b []byte) []byte { return b[:15] }},
		{"cut short by a byte", func(b []byte) []byte { return b[:len(b)-1] }},
		{"a byte too many", func(b []byte) []byte { return append(b, 0) }},
		{"no context", put(8, 0)},
		{"a negative context", put(8, 1<<31)},
		{"a huge context", put(8, math.MaxInt32)},
		{"no vocabulary", put(12, 0)},
		{"a huge vocabulary", put(12, math.MaxInt32)},
		{"no chunks", put(16, 0)},
		{"more chunks than bytes", put(16, math.MaxInt32)},
		{"negative chunks", put(16, math.MaxUint32)},
		{"a token outside the vocabulary", put(20, 5)},
		{"a negative token", put(20, math.MaxUint32)},
	} {
		_, err := openBytes(t, c.spoil(append([]byte(nil), good...)))
		require.ErrorIs(t, err, ErrMalformed, c.why)
		require.ErrorContains(t, err, "eval: ", c.why)
	}
	_, err := OpenLogits(t.TempDir())
	require.ErrorIs(t, err, ErrMalformed, "a folder")
	_, err = OpenLogits(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)

	const row = 20 + 8*4
	for _, c := range []struct {
		why           string
		scale, lowest float64
	}{
		{"NaN", math.NaN(), -1}, {"NaN", 0, math.NaN()}, {"a negative scale", -1, -1},
		{"more than certain", 1, -1}, {"infinite", math.Inf(1), -1}, {"impossible", 0, math.Inf(-1)},
	} {
		b := put(row, math.Float32bits(float32(c.scale)))(append([]byte(nil), good...))
		b = put(row+4, math.Float32bits(float32(c.lowest)))(b)
		f, err := openBytes(t, b)
		require.NoError(t, err)
		s, err := f.open(5)
		require.NoError(t, err)
		require.NoError(t, s.chunk(t.Context(), nil))
		_, err = s.row(0)
		require.ErrorIs(t, err, ErrMalformed, c.why)
	}
	f, err := openBytes(t, good)
	require.NoError(t, err)
	_, err = f.open(6)
	require.ErrorIs(t, err, ErrReference)
}

// FuzzOpenLogits holds that whatever a file says is either refused, or can be read to its end.
func FuzzOpenLogits(f *testing.F) {
	good, _ := logitsFile(f)
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte(logitsMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := openBytes(t, b)
		if err != nil {
			return
		}
		s, err := file.open(file.vocab)
		require.NoError(t, err)
		for range len(file.tokens) / file.context {
			require.NoError(t, s.chunk(t.Context(), nil))
			for i := range scoredRows(file.context) {
				if d, err := s.row(i); err == nil {
					require.True(t, d.finite())
				}
			}
		}
	})
}
