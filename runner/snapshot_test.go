package runner_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/internal/atomicfile"
	"github.com/qwenrt/qwenrt/runner"
)

// snapshot writes one of n tokens, and gives them.
func snapshot(tb testing.TB, m toy, r *runner.Runner, n int, path string) []int32 {
	tb.Helper()
	s := sequence(tb, r)
	tokens := m.prompt(n)
	_, err := s.Prefill(tb.Context(), tokens)
	require.NoError(tb, err)
	require.NoError(tb, s.Snapshot(path))
	return tokens
}

func TestSnapshot(t *testing.T) {
	for name, m := range map[string]toy{
		"shared": shapes["shared cache"], "unshared": shapes["unshared cache"],
		"a float16 cache": {layers: 2, heads: 2, kvHeads: 1, headDim: 16, kv: ir.Float16},
	} {
		t.Run(name, func(t *testing.T) {
			dir := m.folder(t)
			r := open(t, dir, runner.Options{})
			path := filepath.Join(t.TempDir(), "a")
			for _, n := range []int{300, 1} { // the second replaces the first
				tokens := snapshot(t, m, r, n, path)
				other := open(t, dir, runner.Options{})
				s, err := other.Restore(path)
				require.NoError(t, err)
				require.Equal(t, tokens, s.Tokens())
				if m.kv == ir.Undefined {
					requireFresh(t, other, s, tokens)
				}
				s.Close()
			}
			empty := sequence(t, r)
			require.NoError(t, empty.Snapshot(path))
			s, err := r.Restore(path)
			require.NoError(t, err)
			defer s.Close()
			require.Zero(t, s.Len())
			_, err = s.Prefill(t.Context(), m.prompt(5))
			require.NoError(t, err)
			files, err := os.ReadDir(filepath.Dir(path))
			require.NoError(t, err)
			require.Len(t, files, 1, "nothing stays behind")

			require.ErrorContains(t, s.Snapshot(filepath.Join(path, "below a file")), "runner: snapshot: ")
			s.Close()
			requireError(t, s.Snapshot(path), runner.ErrClosed, "closed")
		})
	}
}

// TestRestoreRefuses holds that nothing but a whole snapshot of the same model is taken.
func TestRestoreRefuses(t *testing.T) {
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{})
	dir := t.TempDir()
	path := filepath.Join(dir, "good")
	snapshot(t, m, r, 20, path)
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	bad := filepath.Join(dir, "bad")
	refused := func(says string, b []byte) {
		t.Helper()
		require.NoError(t, os.WriteFile(bad, b, 0o600))
		_, err := r.Restore(bad)
		requireError(t, err, runner.ErrSnapshot, says)
	}
	patched := func(at int, v uint32) []byte {
		b := slices.Clone(good)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	refused("too few", nil)
	refused("too few", good[:40])
	refused("not a snapshot", patched(0, 0))
	refused("version 2, want 1", patched(8, 2))
	refused("another shape", patched(12, 1<<31))
	refused("bytes, want", patched(28, 21))
	refused("bytes, want", patched(28, 1<<32-1))
	refused("of another model", patched(32, 0))
	refused("bytes, want", good[:len(good)-1])
	refused("bytes, want", append(slices.Clone(good), 0))
	refused("not one of 0 to 15", patched(64, 16))
	refused("checksum", patched(64, 3))
	refused("checksum", patched(len(good)-40, 3))

	short := open(t, r.Info().Dir, runner.Options{MaxContext: 10})
	_, err = short.Restore(path)
	requireError(t, err, runner.ErrContext, "20 tokens, the context is 10")
	m.layers++ // other weights, and one shape else
	_, err = m.open(t, runner.Options{}).Restore(path)
	requireError(t, err, runner.ErrSnapshot, "of another model")
	_, err = r.Restore(dir)
	requireError(t, err, runner.ErrSnapshot, "not a file")
	_, err = r.Restore(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestSnapshotKilled kills a process in the middle of writing: the old snapshot is whole.
func TestSnapshotKilled(t *testing.T) {
	const half = "QWENRT_TEST_HALF_A_SNAPSHOT"
	if path := os.Getenv(half); path != "" {
		_ = atomicfile.WriteDurable(path, 0o600, func(w io.Writer) error {
			_, _ = w.Write(make([]byte, 1000))
			fmt.Println("half")
			select {}
		})
	}
	m := shapes["shared cache"]
	r := m.open(t, runner.Options{})
	path := filepath.Join(t.TempDir(), "a")
	tokens := snapshot(t, m, r, 20, path)
	child := exec.Command(os.Args[0], "-test.run=^TestSnapshotKilled$")
	child.Env = append(os.Environ(), half+"="+path)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = io.ReadFull(out, make([]byte, len("half")))
	require.NoError(t, err)
	require.NoError(t, child.Process.Kill())
	require.Error(t, child.Wait())
	parts, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".a.*.tmp"))
	require.NoError(t, err)
	require.Len(t, parts, 1, "it was in the middle")
	s, err := r.Restore(path)
	require.NoError(t, err)
	defer s.Close()
	requireFresh(t, r, s, tokens)
}

// FuzzRestore has files with a right checksum, or with whatever there is.
func FuzzRestore(f *testing.F) {
	m := toy{}
	r := m.open(f, runner.Options{})
	path := filepath.Join(f.TempDir(), "a")
	for _, n := range []int{1, 3} {
		snapshot(f, m, r, n, path)
		b, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(b[:len(b)-sha256.Size], true)
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, sum bool) {
		if sum {
			all := sha256.Sum256(b)
			b = append(bytes.Clone(b), all[:]...)
		}
		path := filepath.Join(t.TempDir(), "a")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		s, err := r.Restore(path)
		if err != nil {
			require.Regexp(t, "^runner: [^\n]*$", err.Error())
			return
		}
		defer s.Close()
		if s.Left() > 0 {
			_, err = s.Decode(t.Context(), 1)
			require.NoError(t, err)
		}
	})
}
