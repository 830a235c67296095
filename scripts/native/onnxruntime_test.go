package main

import (
	"archive/zip"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// pin is a small wheel's; its hash is set by the tests that need one.
func pin() wheelPin {
	return wheelPin{
		project: "onnxruntime", version: "1.2.3", tag: "manylinux_2_28_x86_64",
		library: "onnxruntime/capi/libonnxruntime.so.1.2.3", link: "libonnxruntime.so",
		others: []string{"onnxruntime/capi/libonnxruntime_providers_shared.so"},
	}
}

type member struct {
	name, data string
	mode       fs.FileMode
}

func members(more ...member) []member {
	return append([]member{
		{"onnxruntime/LICENSE", "licence", 0o644},
		{"onnxruntime/ThirdPartyNotices.txt", "notices", 0o644},
		{"onnxruntime/capi/libonnxruntime.so.1.2.3", "library", 0o755},
		{"onnxruntime/capi/libonnxruntime_providers_shared.so", "bridge", 0o755},
	}, more...)
}

func writeWheel(t *testing.T, all []member) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "onnxruntime-1.2.3-cp312-cp312-manylinux_2_28_x86_64.whl")
	f, err := os.Create(path)
	require.NoError(t, err)
	w := zip.NewWriter(f)
	for _, m := range all {
		header := &zip.FileHeader{Name: m.name, Method: zip.Store}
		header.SetMode(m.mode)
		part, err := w.CreateHeader(header)
		require.NoError(t, err)
		_, err = part.Write([]byte(m.data))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
	return path
}

func TestExtract(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, pin().extract(writeWheel(t, members()), dir))
	requireOnly(t, dir, "LICENSE", "ThirdPartyNotices.txt", "libonnxruntime.so", "libonnxruntime.so.1.2.3", "libonnxruntime_providers_shared.so")
	data, err := os.ReadFile(filepath.Join(dir, "libonnxruntime.so"))
	require.NoError(t, err)
	require.Equal(t, "library", string(data), "the link leads to the library")
}

func TestExtractHostileNames(t *testing.T) {
	outer := t.TempDir()
	dir := filepath.Join(outer, "a", "dir")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	wheel := writeWheel(t, members(
		member{"../escaped", "x", 0o644},
		member{"onnxruntime/capi/../../../escaped", "x", 0o644},
		member{filepath.Join(outer, "escaped"), "x", 0o644},
		member{`..\escaped`, "x", 0o644},
		member{"onnxruntime/capi/extra.so", "x", 0o755},
	))
	require.NoError(t, pin().extract(wheel, dir))
	requireOnly(t, outer, "a")
	requireOnly(t, filepath.Join(outer, "a"), "dir")
	requireOnly(t, dir, "LICENSE", "ThirdPartyNotices.txt", "libonnxruntime.so", "libonnxruntime.so.1.2.3", "libonnxruntime_providers_shared.so")
}

func TestExtractRefuses(t *testing.T) {
	replaced := func(m member) []member {
		all := members()
		for i := range all {
			if all[i].name == m.name {
				all[i] = m
			}
		}
		return all
	}
	library := pin().library
	tests := []struct {
		name string
		all  []member
		want string
	}{
		{"library absent: another version under the same file name", members()[:2], "no member"},
		{"library is a link: its target would be loaded as code", replaced(member{library, "/etc/passwd", fs.ModeSymlink | 0o777}), "not a regular file"},
		{"library is a folder", replaced(member{library, "", fs.ModeDir | 0o755}), "not a regular file"},
		{"library twice: tools disagree on which counts", members(member{library, "other", 0o755}), "two members"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			require.ErrorContains(t, pin().extract(writeWheel(t, test.all), t.TempDir()), test.want)
		})
	}
}

func TestExtractRefusesDamage(t *testing.T) {
	wheel := writeWheel(t, members())
	data, err := os.ReadFile(wheel)
	require.NoError(t, err)
	t.Run("contents differ from their checksum", func(t *testing.T) {
		damaged := strings.Replace(string(data), "library", "LIBRARY", 2) // the first hit is part of no name
		require.NotEqual(t, string(data), damaged)
		require.NoError(t, os.WriteFile(wheel, []byte(damaged), 0o644))
		require.ErrorIs(t, pin().extract(wheel, t.TempDir()), zip.ErrChecksum)
	})
	t.Run("cut short", func(t *testing.T) {
		require.NoError(t, os.WriteFile(wheel, data[:len(data)-10], 0o644))
		require.ErrorIs(t, pin().extract(wheel, t.TempDir()), zip.ErrFormat)
	})
}

// pipScript stands in for Python: it copies wheel to the folder after -d.
func pipScript(wheel string) string {
	return `case "$*" in *--version) exit 0;; esac
while [ $# -gt 1 ]; do
	if [ "$1" = -d ]; then cp '` + wheel + `' "$2"; exit; fi
	shift
done
exit 1
`
}

func TestInstallWheel(t *testing.T) {
	wheel := writeWheel(t, members())
	calls := programs(t, map[string]string{"python3": pipScript(wheel)})
	p := pin()
	var err error
	p.sha256, err = hashFile(wheel)
	require.NoError(t, err)
	st := store{t.TempDir()}
	for range 2 {
		require.NoError(t, st.install(t.Context(), p.recipe("linux-amd64"), steps{t.Output()}))
	}
	require.NoError(t, st.verify(p.recipe("linux-amd64")))
	require.Len(t, calls(), 2, "one call for pip's version, one download; nothing at the second run")
	require.Contains(t, calls()[1], "--require-hashes")
	require.Contains(t, calls()[1], "--platform manylinux_2_28_x86_64")
}

func TestInstallRefusesAnotherWheel(t *testing.T) {
	programs(t, map[string]string{"python3": pipScript(writeWheel(t, members()))})
	p := pin()
	p.sha256 = strings.Repeat("0", 64)
	st := store{t.TempDir()}
	err := st.install(t.Context(), p.recipe("linux-amd64"), steps{t.Output()})
	require.ErrorContains(t, err, "not the pinned file")
	requireOnly(t, st.root)
}

func TestPipFailureIsOneLine(t *testing.T) {
	programs(t, map[string]string{"python3": `case "$*" in *--version) exit 0;; esac
echo "WARNING: slow" >&2
echo "ERROR: No matching distribution found" >&2
echo "" >&2
exit 1
`})
	var log strings.Builder
	err := pin().install(t.Context(), t.TempDir(), t.TempDir(), steps{&log})
	require.EqualError(t, err, "python3: ERROR: No matching distribution found; or set QWENRT_ORT_LIB to an existing ONNX Runtime library")
	require.Contains(t, log.String(), "WARNING: slow", "the whole output is shown before the error")
}

func TestMissingPip(t *testing.T) {
	noPrograms(t)
	_, err := findPip(t.Context())
	require.ErrorContains(t, err, "no pip for Python: install it")
}

func TestPins(t *testing.T) {
	hash := regexp.MustCompile(`^[0-9a-f]{64}$`)
	seen := make(map[string]string)
	for _, pins := range []map[string]wheelPin{onnxRuntimeCPU, onnxRuntimeCUDA} {
		for platform, p := range pins {
			require.Regexp(t, hash, p.sha256, platform)
			require.Empty(t, seen[p.sha256], "%s has the hash of %s", platform, seen[p.sha256])
			seen[p.sha256] = platform
		}
	}
}
