package folder

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/require"
)

// fill writes files with their names as content; a name that ends in / is a folder.
func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			require.NoError(t, os.MkdirAll(path, 0o755))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(name), 0o644))
	}
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestCommit(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  []string // in the destination; nil: it is not there
		replace bool
	}{
		{"new", nil, false},
		{"an empty folder has nothing to lose", []string{}, false},
		{"a model folder, with force", []string{"model.onnx", "model.onnx.data", "config.json", "qwenrt.json"}, true},
		{"of another program", []string{"model.onnx", "model.onnx_data", "tokenizer.json", "README.md"}, true},
		{"without a model, as after a failed copy", []string{"qwenrt.json"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			out := filepath.Join(parent, "out")
			if c.before != nil {
				fill(t, out, c.before...)
			}
			s, err := Create(out, c.replace)
			require.NoError(t, err)
			fill(t, s.Dir(), "model.onnx")
			if len(c.before) > 0 {
				require.ElementsMatch(t, c.before, list(t, out), "untouched until Commit")
			}
			require.NoError(t, s.Commit())
			require.NoError(t, s.Abort(), "after Commit it does nothing")
			require.Equal(t, []string{"model.onnx"}, list(t, out))
			require.Equal(t, []string{"out"}, list(t, parent), "nothing stays behind")
			require.ErrorContains(t, s.Commit(), "closed")
		})
	}
}

func TestCreateKeepsStrangersFiles(t *testing.T) {
	for _, c := range []struct {
		name    string
		content []string
		replace bool
		want    error
	}{
		{"a model folder, without force", []string{"model.onnx"}, false, ErrExists},
		{"documents", []string{"thesis.odt"}, true, ErrNotReplaceable},
		{"a checkpoint", []string{"config.json", "model.safetensors"}, true, ErrNotReplaceable},
		{"a checkpoint with an export inside", []string{"config.json", "model.safetensors", "model.onnx"}, true, ErrNotReplaceable},
		{"a git repository of models", []string{"model.onnx", ".git/"}, true, ErrNotReplaceable},
		{"a folder with more below", []string{"model.onnx", "variants/"}, true, ErrNotReplaceable},
		{"notes beside a model", []string{"model.onnx", "notes.docx"}, true, ErrNotReplaceable},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			fill(t, out, c.content...)
			before := list(t, out)
			_, err := Create(out, c.replace)
			require.ErrorIs(t, err, c.want)
			require.ErrorContains(t, err, "folder: "+out+": ")
			require.Equal(t, before, list(t, out))
			require.Equal(t, []string{"out"}, list(t, filepath.Dir(out)))
		})
	}
	t.Run("a file", func(t *testing.T) {
		dir := t.TempDir()
		fill(t, dir, "out")
		_, err := Create(filepath.Join(dir, "out"), true)
		require.ErrorIs(t, err, ErrNotReplaceable)
		require.ErrorContains(t, err, "it is a file")
	})
	t.Run("the root", func(t *testing.T) {
		_, err := Create("/", true)
		require.Error(t, err)
	})
	t.Run("no name", func(t *testing.T) {
		_, err := Create("", true)
		require.ErrorContains(t, err, "empty")
	})
}

func TestCommitChecksAgain(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	s, err := Create(out, true)
	require.NoError(t, err)
	fill(t, out, "thesis.odt") // somebody was faster
	require.ErrorIs(t, s.Commit(), ErrNotReplaceable)
	require.NoError(t, s.Abort())
	require.Equal(t, []string{"thesis.odt"}, list(t, out))
	require.Equal(t, []string{"out"}, list(t, filepath.Dir(out)))
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "mine/")
	s, err := Create(filepath.Join(dir, "mine/a/b/out"), false)
	require.NoError(t, err)
	fill(t, s.Dir(), "model.onnx", "deep/")
	require.Equal(t, filepath.Join(dir, "mine/a/b"), filepath.Dir(s.Dir()), "beside the destination, so that renaming is one step")
	require.NoError(t, s.Abort())
	require.NoError(t, s.Abort(), "twice")
	require.Empty(t, list(t, filepath.Join(dir, "mine")), "folders made on the way go, too")
	require.Equal(t, []string{"mine"}, list(t, dir))
}

// A link to a folder, such as one to a larger disk, stays a link.
func TestCommitFollowsLinks(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "disk/", "disk/real/")
	fill(t, filepath.Join(dir, "disk/real"), "model.onnx", "qwenrt.json")
	link := filepath.Join(dir, "out")
	require.NoError(t, os.Symlink("disk/real", link))
	s, err := Create(link, true)
	require.NoError(t, err)
	fill(t, s.Dir(), "model.onnx")
	require.NoError(t, s.Commit())
	target, err := os.Readlink(link)
	require.NoError(t, err)
	require.Equal(t, "disk/real", target)
	require.Equal(t, []string{"model.onnx"}, list(t, filepath.Join(dir, "disk/real")))
	require.Equal(t, []string{"real"}, list(t, filepath.Join(dir, "disk")))
}

func TestRemoveStale(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	living, err := Create(out, false)
	require.NoError(t, err)
	fill(t, living.Dir(), "model.onnx")
	for _, name := range []string{".out.qwenrt-crashed", ".out.qwenrt-replaced.old", ".other.qwenrt-crashed", ".out.backup"} {
		fill(t, filepath.Join(dir, name), "model.onnx")
	}

	second, err := Create(out, false)
	require.NoError(t, err)
	kept := []string{".other.qwenrt-crashed", ".out.backup", ".out.qwenrt-replaced.old", filepath.Base(living.Dir()), filepath.Base(second.Dir())}
	require.ElementsMatch(t, kept, list(t, dir), "what was replaced is all there is while out is missing")

	require.NoError(t, living.Commit())
	require.NoError(t, second.Abort())
	require.ElementsMatch(t, []string{".other.qwenrt-crashed", ".out.backup", ".out.qwenrt-replaced.old", "out"}, list(t, dir))
	third, err := Create(out, true)
	require.NoError(t, err)
	require.NoError(t, third.Abort())
	require.Equal(t, []string{".other.qwenrt-crashed", ".out.backup", "out"}, list(t, dir))
}

// TestLastWrite is for file systems without locks: a folder may be old whose file is not.
func TestLastWrite(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "model.onnx", "model.onnx.data")
	older, newer := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "model.onnx"), older, older))
	require.NoError(t, os.Chtimes(filepath.Join(dir, "model.onnx.data"), newer, newer))
	require.NoError(t, os.Chtimes(dir, older, older))
	require.True(t, newer.Equal(lastWrite(dir)))
	gone, err := RemoveAbandoned(filepath.Join(dir, "none"))
	require.NoError(t, err)
	require.False(t, gone)
}

func TestCopySideFiles(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	s, err := Create(out, false)
	require.NoError(t, err)
	defer s.Abort()
	copied, err := s.CopySideFiles(fstest.MapFS{
		"tokenizer.json":    {Data: []byte("{}")},
		"config.json":       {Data: []byte("[]")},
		"model.safetensors": {Data: []byte("weights")},
		"evil.sh":           {Data: []byte("#!")},
	})
	require.NoError(t, err)
	require.Equal(t, []string{"config.json", "tokenizer.json"}, copied)
	require.Equal(t, copied, list(t, s.Dir()))
	data, err := os.ReadFile(s.Path("tokenizer.json"))
	require.NoError(t, err)
	require.Equal(t, "{}", string(data))

	_, err = s.CopySideFiles(fstest.MapFS{"merges.txt/x": {}})
	require.ErrorContains(t, err, "folder: copy merges.txt: not a regular file")
}

func TestModelFile(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "none/", "one/", "several/", "usual/")
	fill(t, filepath.Join(dir, "one"), "decoder.onnx", "config.json")
	fill(t, filepath.Join(dir, "several"), "a.onnx", "b.onnx")
	fill(t, filepath.Join(dir, "usual"), "a.onnx", "model.onnx")
	for _, c := range []struct{ arg, want, err string }{
		{"usual", "usual/model.onnx", ""},
		{"usual/a.onnx", "usual/a.onnx", ""},
		{"one", "one/decoder.onnx", ""},
		{"several", "", "want model.onnx, or name one of a.onnx, b.onnx"},
		{"none", "", "no ONNX model"},
		{"one/config.json", "", "want a folder or a file that ends in .onnx"},
		{"missing", "", "no such file"},
	} {
		got, err := ModelFile(filepath.Join(dir, c.arg))
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, filepath.Join(dir, c.want), got)
	}
}
