package safetensors_test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

// fileOf puts a header before size bytes of data 0, 1, 2, ...
func fileOf(header string, size int) []byte {
	file := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	file = append(file, header...)
	for i := range size {
		file = append(file, byte(i))
	}
	return file
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

// requireOneLine holds the rule that an error is one line, of a length that fits a screen.
func requireOneLine(t *testing.T, err error) {
	t.Helper()
	require.Error(t, err)
	require.NotContains(t, err.Error(), "\n")
	require.Less(t, len(err.Error()), 1000)
}

func TestOpenBytes(t *testing.T) {
	header := `{"__metadata__":{"format":"pt"},` +
		`"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]},` +
		`"a":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]},` +
		`"none":{"dtype":"I64","shape":[3,0],"data_offsets":[8,8]}}   `
	ckpt, err := safetensors.OpenBytes("x", fileOf(header, 8))
	require.NoError(t, err)
	require.Equal(t, []string{"a", "b", "none"}, ckpt.Names(), "by offset, not by name or place in the header")
	require.Equal(t, map[string]string{"format": "pt"}, ckpt.Metadata())

	a, ok := ckpt.Tensor("a")
	require.True(t, ok)
	require.Equal(t, safetensors.BF16, a.DType)
	require.Equal(t, []int64{1, 2}, a.Shape)
	require.Equal(t, []byte{0, 1, 2, 3}, a.Bytes())
	require.Equal(t, 4, cap(a.Bytes()), "append must not reach the neighbour")

	b, _ := ckpt.Tensor("b")
	require.Equal(t, []byte{4, 5, 6, 7}, b.Bytes(), "a scalar has one element")
	part := make([]byte, 4)
	n, err := b.ReadAt(part, 2)
	require.Equal(t, 2, n, "reads end with the tensor, not with the file")
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, []byte{6, 7}, part[:n])

	none, _ := ckpt.Tensor("none")
	require.Zero(t, none.Size())
	require.Empty(t, none.Bytes())

	_, ok = ckpt.Tensor("c")
	require.False(t, ok)

	require.NoError(t, ckpt.Close())
	require.NoError(t, ckpt.Close(), "closing twice is harmless")
	require.Nil(t, a.Bytes())
	_, err = a.ReadAt(part, 0)
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestOpenBytesRefuses(t *testing.T) {
	const ok = `{"dtype":"U8","shape":[4],"data_offsets":[0,4]}`
	tests := []struct {
		why, header string
		size        int
		want        string
	}{
		{"another format", `["a"]`, 0, "begin with '{'"},
		{"padding belongs at the end", ` {"a":` + ok + `}`, 4, "begin with '{'"},
		{"cut off", `{"a":`, 0, "not valid JSON"},
		{"two values", `{}{}`, 0, "not valid JSON"},
		{"names are UTF-8", "{\"\xff\":" + ok + "}", 4, "not UTF-8"},
		{"a tensor named twice has two meanings", `{"a":` + ok + `,"a":` + ok + `}`, 4, `key "a" appears twice`},
		{"the same by escapes", `{"a":` + ok + `,"\u0061":` + ok + `}`, 4, `key "a" appears twice`},
		{"a key given twice", `{"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, `key "dtype" appears twice`},
		{"metadata given twice", `{"__metadata__":{"k":"1","k":"2"}}`, 0, `__metadata__: key "k" appears twice`},
		{"metadata is strings only", `{"__metadata__":{"k":1}}`, 0, "want a string"},
		{"metadata is an object", `{"__metadata__":"pt"}`, 0, "want a JSON object"},
		{"tensor is an object", `{"a":[]}`, 0, `tensor "a": want a JSON object`},
		{"a key is missing", `{"a":{"dtype":"U8","shape":[4]}}`, 4, "want dtype, shape and data_offsets"},
		{"a key too many", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"strides":[1]}}`, 4, `unknown key "strides"`},
		{"key names have no second spelling", `{"a":{"DType":"U8","shape":[4],"data_offsets":[0,4]}}`, 4, `unknown key "DType"`},
		{"dtype of no format", `{"a":{"dtype":"Q4","shape":[4],"data_offsets":[0,4]}}`, 4, `unknown dtype "Q4"`},
		{"dtype is a string", `{"a":{"dtype":8,"shape":[4],"data_offsets":[0,4]}}`, 4, "dtype: want a string"},
		{"shape is an array", `{"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}`, 4, "shape: want an array of integers"},
		{"shape holds numbers", `{"a":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}}`, 4, "shape: want an array of integers"},
		{"negative dimension", `{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}`, 4, "-4 is not an integer from 0"},
		{"negative product of two", `{"a":{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}}`, 4, "-2 is not an integer from 0"},
		{"fraction", `{"a":{"dtype":"U8","shape":[4.0],"data_offsets":[0,4]}}`, 4, "4.0 is not an integer"},
		{"exponent", `{"a":{"dtype":"U8","shape":[4e0],"data_offsets":[0,4]}}`, 4, "4e0 is not an integer"},
		{"over 2^63", `{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]}}`, 4, "is not an integer"},
		{"product wraps round to 0", `{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`, 0, "too large"},
		{"product wraps round to the size", `{"a":{"dtype":"U8","shape":[4611686018427387905,4],"data_offsets":[0,4]}}`, 4, "too large"},
		{"width wraps the product", `{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}`, 0, "too large"},
		{"shape larger than the bytes", `{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}`, 4, "takes 5 bytes"},
		{"shape smaller than the bytes", `{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,4]}}`, 4, "takes 3 bytes"},
		{"another width", `{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}`, 4, "takes 16 bytes"},
		{"half a byte", `{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}`, 1, "whole bytes"},
		{"past the end", `{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}}`, 4, "past the end of the data (4 bytes)"},
		{"far past the end", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[9223372036854775803,9223372036854775807]}}`, 4, "past the end"},
		{"backwards", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}`, 4, "begin <= end"},
		{"one offset", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[4]}}`, 4, "want [begin, end]"},
		{"three offsets", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,2,4]}}`, 4, "want [begin, end]"},
		{"overlap", `{"a":` + ok + `,"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}`, 6, `"a" and "b" overlap`},
		{"the same bytes twice", `{"a":` + ok + `,"b":` + ok + `}`, 4, `"a" and "b" overlap`},
		{"hole before", `{"a":{"dtype":"U8","shape":[4],"data_offsets":[1,5]}}`, 5, "1 bytes before tensor"},
		{"hole behind", `{"a":` + ok + `}`, 5, "1 bytes after the last tensor"},
		{"data without tensors", `{}`, 1, "1 bytes after the last tensor"},
		{"a name of a megabyte with newlines", `{"` + strings.Repeat(`\n`, 1<<20) + `":{"dtype":"?"}}`, 0, "want dtype"},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			_, err := safetensors.OpenBytes("given.safetensors", fileOf(test.header, test.size))
			requireOneLine(t, err)
			require.ErrorIs(t, err, safetensors.ErrFormat)
			require.ErrorContains(t, err, test.want)
			require.ErrorContains(t, err, "given.safetensors")
		})
	}
}

func TestHeaderLengthLies(t *testing.T) {
	for why, length := range map[string]uint64{
		"past the end":            100,
		"over the limit":          100_000_001,
		"negative as an int64":    1 << 63,
		"overflows with its size": 1<<64 - 8,
		"zero":                    0,
	} {
		data := append(binary.LittleEndian.AppendUint64(nil, length), "{}"...)
		_, err := safetensors.OpenBytes("x", data)
		requireOneLine(t, err)
		require.ErrorIs(t, err, safetensors.ErrFormat, why)
	}
}

// Every proper prefix of a good file is a truncated download.
func TestTruncatedAnywhere(t *testing.T) {
	whole := fileOf(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, 4)
	for size := range whole {
		_, err := safetensors.OpenBytes("x", whole[:size])
		require.ErrorIs(t, err, safetensors.ErrFormat, "%d of %d bytes", size, len(whole))

		_, err = safetensors.OpenFile(write(t, t.TempDir(), "x.safetensors", whole[:size]))
		require.ErrorIs(t, err, safetensors.ErrFormat, "%d of %d bytes", size, len(whole))
	}
}

func TestDTypes(t *testing.T) {
	// The names and widths of the reference implementation's enum Dtype.
	for dtype, bits := range map[safetensors.DType]int{
		"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
		"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
		"C64": 64, "F64": 64, "I64": 64, "U64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
		"bf16": 0, "": 0,
	} {
		require.Equal(t, bits, dtype.Bits(), string(dtype))
	}
}

// shards writes a checkpoint of two shards with one byte each, a in the first and b in the second.
func shards(t *testing.T, index string) string {
	dir := t.TempDir()
	write(t, dir, "model-00001-of-00002.safetensors", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
	write(t, dir, "model-00002-of-00002.safetensors", fileOf(`{"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
	write(t, dir, "model.safetensors.index.json", []byte(index))
	return dir
}

func TestOpenShards(t *testing.T) {
	dir := shards(t, `{"metadata":{"total_size":2},"weight_map":{`+
		`"b":"model-00002-of-00002.safetensors","a":"model-00001-of-00002.safetensors"}}`)
	ckpt, err := safetensors.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	require.Equal(t, []string{"a", "b"}, ckpt.Names())
	require.Equal(t, []string{
		filepath.Join(dir, "model-00001-of-00002.safetensors"),
		filepath.Join(dir, "model-00002-of-00002.safetensors"),
	}, ckpt.Files())
	b, _ := ckpt.Tensor("b")
	require.Equal(t, filepath.Join(dir, "model-00002-of-00002.safetensors"), b.File())

	write(t, dir, "model.safetensors", fileOf(`{"c":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
	single, err := safetensors.Open(dir)
	require.NoError(t, err)
	defer single.Close()
	require.Equal(t, []string{"c"}, single.Names(), "the single file goes first, as in transformers")
}

func TestOpenShardsRefuses(t *testing.T) {
	const one, two = `"model-00001-of-00002.safetensors"`, `"model-00002-of-00002.safetensors"`
	tests := []struct{ why, index, want string }{
		{"not JSON", `{`, "not valid JSON"},
		{"not an object", `[]`, "want a JSON object"},
		{"no map", `{"metadata":{}}`, "weight_map is missing or empty"},
		{"empty map", `{"weight_map":{}}`, "weight_map is missing or empty"},
		{"two maps", `{"weight_map":{"a":` + one + `},"weight_map":{"b":` + two + `}}`, `key "weight_map" appears twice`},
		{"a tensor listed twice", `{"weight_map":{"a":` + one + `,"a":` + two + `}}`, `key "a" appears twice`},
		{"shard is a string", `{"weight_map":{"a":1}}`, "want a string"},
		{"out of the folder", `{"weight_map":{"a":"../model.safetensors"}}`, "plain name"},
		{"absolute", `{"weight_map":{"a":"/etc/model.safetensors"}}`, "plain name"},
		{"a folder below", `{"weight_map":{"a":"x/model.safetensors"}}`, "plain name"},
		{"another system's separator", `{"weight_map":{"a":"..\\model.safetensors"}}`, "plain name"},
		{"another kind of file", `{"weight_map":{"a":"config.json"}}`, "plain name"},
		{"no name", `{"weight_map":{"a":""}}`, "plain name"},
		{"shard missing", `{"weight_map":{"a":` + one + `,"b":"model-00003-of-00003.safetensors"}}`,
			`shard "model-00003-of-00003.safetensors" (2 of 2 in model.safetensors.index.json) is missing`},
		{"tensor in no shard", `{"weight_map":{"a":` + one + `,"b":` + two + `,"c":` + one + `}}`, `tensor "c" is not in its shard`},
		{"tensor in the other shard", `{"weight_map":{"a":` + two + `,"b":` + one + `}}`, `tensor "a" is in shard`},
		{"tensor that the index leaves out", `{"weight_map":{"a":` + one + `,"c":` + two + `}}`, `tensor "c" is not in its shard`},
	}
	for _, test := range tests {
		t.Run(test.why, func(t *testing.T) {
			_, err := safetensors.Open(shards(t, test.index))
			requireOneLine(t, err)
			require.ErrorIs(t, err, safetensors.ErrFormat)
			require.ErrorContains(t, err, test.want)
		})
	}

	t.Run("extra tensor in a shard", func(t *testing.T) {
		dir := shards(t, `{"weight_map":{"a":`+one+`}}`)
		write(t, dir, "model-00001-of-00002.safetensors", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},`+
			`"z":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, 2))
		_, err := safetensors.Open(dir)
		require.ErrorContains(t, err, `tensor "z" of shard "model-00001-of-00002.safetensors" is not listed`)
	})
	t.Run("tensor in two shards", func(t *testing.T) {
		dir := shards(t, `{"weight_map":{"a":`+one+`,"b":`+two+`}}`)
		write(t, dir, "model-00002-of-00002.safetensors", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
		_, err := safetensors.Open(dir)
		require.ErrorContains(t, err, `tensor "a" is also in model-00001-of-00002.safetensors`)
	})
	t.Run("truncated shard", func(t *testing.T) {
		dir := shards(t, `{"weight_map":{"a":`+one+`,"b":`+two+`}}`)
		write(t, dir, "model-00002-of-00002.safetensors", []byte{1, 2, 3})
		_, err := safetensors.Open(dir)
		require.ErrorIs(t, err, safetensors.ErrFormat)
		require.ErrorContains(t, err, "model-00002-of-00002.safetensors")
	})
	t.Run("huge index", func(t *testing.T) {
		dir := shards(t, "")
		require.NoError(t, os.Truncate(filepath.Join(dir, "model.safetensors.index.json"), 1<<40))
		_, err := safetensors.Open(dir)
		require.ErrorContains(t, err, "an index has at most 100000000")
	})
}

func TestOpenWithoutCheckpoint(t *testing.T) {
	dir := t.TempDir()
	_, err := safetensors.Open(dir)
	require.ErrorIs(t, err, safetensors.ErrNoCheckpoint)
	requireOneLine(t, err)

	_, err = safetensors.Open(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, os.ErrNotExist)

	write(t, dir, "pytorch_model-00001-of-00002.bin", nil)
	_, err = safetensors.Open(dir)
	require.ErrorIs(t, err, safetensors.ErrNoCheckpoint)
	require.ErrorContains(t, err, "PyTorch pickles")

	require.NoError(t, os.Mkdir(filepath.Join(dir, "model.safetensors"), 0o755))
	_, err = safetensors.Open(dir)
	require.ErrorContains(t, err, "not a regular file")
}

func TestGitLFSPointer(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "model.safetensors", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"))
	_, err := safetensors.Open(dir)
	require.ErrorContains(t, err, "git lfs pull", "a clone without LFS is the usual cause")
}

// A Hugging Face cache links files out of the snapshot's folder.
func TestOpenThroughLinks(t *testing.T) {
	root := t.TempDir()
	snapshot := filepath.Join(root, "snapshots", "0123")
	require.NoError(t, os.MkdirAll(snapshot, 0o755))
	require.NoError(t, os.Mkdir(filepath.Join(root, "blobs"), 0o755))
	write(t, filepath.Join(root, "blobs"), "abc", fileOf(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}`, 1))
	link := filepath.Join(snapshot, "model.safetensors")
	require.NoError(t, os.Symlink("../../blobs/abc", link))

	ckpt, err := safetensors.Open(snapshot)
	require.NoError(t, err)
	require.NoError(t, ckpt.Close())

	require.NoError(t, os.Remove(filepath.Join(root, "blobs", "abc")))
	_, err = safetensors.Open(snapshot)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, link, "a link whose blob is gone is named")
}

// The carried model as a file and as bytes.
func TestCarriedModel(t *testing.T) {
	dir := filepath.FromSlash("../tiny/qwen3-tiny")
	ckpt, err := safetensors.Open(dir)
	require.NoError(t, err)
	defer ckpt.Close()
	data, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
	require.NoError(t, err)
	inMemory, err := safetensors.OpenBytes("embedded", data)
	require.NoError(t, err)
	defer inMemory.Close()

	require.Len(t, ckpt.Names(), 8*11+2, "8 layers of 11, the embedding and the last norm")
	require.Equal(t, ckpt.Names(), inMemory.Names())
	var total int64
	for _, name := range ckpt.Names() {
		mapped, _ := ckpt.Tensor(name)
		given, _ := inMemory.Tensor(name)
		require.Equal(t, safetensors.BF16, mapped.DType)
		require.True(t, string(mapped.Bytes()) == string(given.Bytes()), name)
		streamed, err := io.ReadAll(io.NewSectionReader(mapped, 0, mapped.Size()))
		require.NoError(t, err)
		require.True(t, string(streamed) == string(given.Bytes()), name)
		mapped.Release()
		require.True(t, string(mapped.Bytes()) == string(given.Bytes()), "%s after Release", name)
		total += mapped.Size()
	}
	require.Equal(t, ckpt.Files(), []string{filepath.Join(dir, "model.safetensors")})
	require.Less(t, total, int64(len(data)))
}

// A checkpoint of 32B parameters opens without its weights being read or copied: 64 GiB of holes in 16
// shards of 64 tensors, fewer bytes allocated than one row of a weight would take.
func TestOpeningIsIndependentOfSize(t *testing.T) {
	dir := t.TempDir()
	weightMap := map[string]string{}
	const shardCount, tensorCount, dim = 16, 64, 8192
	for s := range shardCount {
		header := map[string]any{}
		for i := range tensorCount {
			name := string(rune('a'+s)) + string(rune('0'+i))
			begin := i * dim * dim
			header[name] = map[string]any{"dtype": "U8", "shape": []int{dim, dim}, "data_offsets": []int{begin, begin + dim*dim}}
			weightMap[name] = string(rune('a'+s)) + ".safetensors"
		}
		encoded, err := json.Marshal(header)
		require.NoError(t, err)
		path := write(t, dir, string(rune('a'+s))+".safetensors", fileOf(string(encoded), 0))
		require.NoError(t, os.Truncate(path, int64(8+len(encoded)+tensorCount*dim*dim)))
	}
	index, err := json.Marshal(map[string]any{"weight_map": weightMap})
	require.NoError(t, err)
	write(t, dir, "model.safetensors.index.json", index)

	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ckpt, err := safetensors.Open(dir)
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	defer ckpt.Close()
	require.Len(t, ckpt.Names(), shardCount*tensorCount)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
}
