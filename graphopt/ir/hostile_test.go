package ir

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// msg is a field of a message that is made of parts itself.
func msg(num protowire.Number, parts ...[]byte) []byte {
	var b message
	b.bytes(num, bytes.Join(parts, nil))
	return b
}

func scalar(num protowire.Number, v uint64) []byte {
	var b message
	b.varint(num, v)
	return b
}

func property(key, value string) []byte {
	var b message
	b.property(tensorExternalData, key, value)
	return b
}

// model is a file with a graph of these parts.
func model(graph ...[]byte) []byte {
	return slices.Concat(scalar(modelIRVersion, 10), msg(modelGraph, graph...), msg(modelOpset, scalar(opsetVersion, 21)))
}

// initializer is a tensor of type d in a graph.
func initializer(name string, d DType, shape []int64, data ...[]byte) []byte {
	return msg(graphInitializer, msg(tensorName, []byte(name)), scalar(tensorDType, uint64(d)),
		msg(tensorDims, varints(shape)), bytes.Join(data, nil))
}

func external(name string, shape []int64, location, offset, length string) []byte {
	parts := [][]byte{property("location", location), scalar(tensorDataLocation, 1)}
	for key, value := range map[string]string{"offset": offset, "length": length} {
		if value != "" {
			parts = append(parts, property(key, value))
		}
	}
	return initializer(name, Uint8, shape, parts...)
}

func node(op, reads, makes string, more ...[]byte) []byte {
	parts := [][]byte{msg(nodeOpType, []byte(op)), msg(nodeName, []byte(op))}
	for _, s := range strings.Fields(reads) {
		parts = append(parts, msg(nodeInput, []byte(s)))
	}
	for _, s := range strings.Fields(makes) {
		parts = append(parts, msg(nodeOutput, []byte(s)))
	}
	return msg(graphNode, append(parts, more...)...)
}

func attribute(name string, kind AttrType, more ...[]byte) []byte {
	return msg(nodeAttribute, msg(attrName, []byte(name)), scalar(attrType, uint64(kind)), bytes.Join(more, nil))
}

func value(num protowire.Number, name string) []byte {
	return msg(num, msg(infoName, []byte(name)))
}

// nested is bodies within bodies.
func nested(depth int) []byte {
	b := node("Leaf", "", "leaf")
	for i := range depth {
		b = msg(graphNode, msg(nodeOpType, []byte("If")), msg(nodeName, []byte("if"+strconv.Itoa(i))), attribute("b", AttrGraph, msg(attrG, b)))
	}
	return b
}

// requireFault wants one line that names the package and the path once.
func requireFault(t *testing.T, err error, path string, why string) {
	t.Helper()
	require.Error(t, err, why)
	s := err.Error()
	require.NotContains(t, s, "\n", why)
	require.True(t, strings.HasPrefix(s, "ir: "), "%s: %s", why, s)
	require.Equal(t, 1, strings.Count(s, "ir: "), "%s: %s", why, s)
	require.LessOrEqual(t, strings.Count(s, "malformed model"), 1, "%s: %s", why, s)
	require.Less(t, len(s), 4*maxName, why)
	if path != "" {
		require.Equal(t, 1, strings.Count(s, path), "%s: %s", why, s)
	}
}

func TestHostileModels(t *testing.T) {
	good := everything(t)
	huge := []int64{1 << 31, 1 << 31, 1 << 31}
	f32 := func(n int) []byte { return msg(tensorFloatData, make([]byte, 4*n)) }
	for _, c := range []struct {
		why string
		b   []byte
		has string
	}{
		{"empty", nil, "not an ONNX model"},
		{"a page of zeros", make([]byte, 4096), "not a protobuf field"},
		{"text", []byte("version https://git-lfs.github.com/spec/v1\n"), "model:"},
		{"truncated", good[:len(good)*2/3], "cut off"},
		{"a length beyond the file", append(protowire.AppendTag(nil, modelGraph, protowire.BytesType), 0xff, 0xff, 0xff, 0xff, 0x7f), "cut off"},
		{"a length that overflows", append(protowire.AppendTag(nil, modelGraph, protowire.BytesType), bytes.Repeat([]byte{0xff}, 10)...), "cut off"},
		{"two graphs", append(model(), msg(modelGraph)...), "2 graphs"},
		{"no operator set", msg(modelGraph), "no operator set"},
		{"an operator set twice", append(model(), msg(modelOpset, msg(opsetDomain, []byte("ai.onnx")), scalar(opsetVersion, 1))...), "imported twice"},
		{"an operator set of version 0", append(model(), msg(modelOpset, msg(opsetDomain, []byte("x")))...), "version 0"},
		{"a training model", append(model(), msg(modelTraining)...), "training models are not supported"},
		{"a sparse initializer", model(msg(graphSparseInitializer)), "not supported"},

		{"a cycle", model(node("A", "b", "a"), node("B", "a", "b")), "cycle"},
		{"a node that reads itself", model(node("A", "a", "a")), "cycle"},
		{"a body that reads its own node", model(node("If", "", "y", attribute("b", AttrGraph, msg(attrG, node("N", "y", "z"))))), "cycle"},
		{"a result twice", model(node("A", "", "a"), node("B", "", "a")), `two values are named "a"`},
		{"a result that is an initializer", model(initializer("a", Int64, []int64{0}), node("A", "", "a")), `two values are named "a"`},
		{"an initializer twice", model(initializer("a", Int64, []int64{0}), initializer("a", Int64, []int64{0})), `two initializers are named "a"`},
		{"an input twice", model(value(graphInput, "a"), value(graphInput, "a")), `two inputs are named "a"`},
		{"an output twice", model(node("A", "", "a"), value(graphOutput, "a"), value(graphOutput, "a")), "listed twice"},
		{"a node's name twice", model(node("A", "", "a"), node("A", "", "b")), `two nodes are named "A"`},
		{"an attribute twice", model(node("A", "", "a", attribute("x", AttrInt), attribute("x", AttrInt))), `attribute "x" twice`},
		{"an operand of nothing", model(node("A", "ghost", "a")), `reads "ghost", which nothing produces`},
		{"an output of nothing", model(value(graphOutput, "ghost")), `produces its output "ghost"`},
		{"a body that gives away what is outside", model(node("A", "", "a"), node("If", "", "y", attribute("b", AttrGraph, msg(attrG, value(graphOutput, "a"))))), `produces its output "a"`},
		{"a node without operator", model(msg(graphNode, msg(nodeOutput, []byte("y")))), "no operator"},
		{"an attribute without name", model(node("A", "", "a", msg(nodeAttribute))), "no name"},
		{"an attribute of no kind", model(node("A", "", "a", attribute("x", 0))), "unknown kind 0"},
		{"an attribute of a kind to come", model(node("A", "", "a", attribute("x", 99))), "unknown kind 99"},
		{"a tensor that is not there", model(node("A", "", "a", attribute("x", AttrTensor))), "does not hold"},
		{"a body that is not there", model(node("A", "", "a", attribute("x", AttrGraph))), "does not hold"},
		{"two bodies for one", model(node("A", "", "a", attribute("x", AttrGraph, msg(attrG), msg(attrG)))), "does not hold"},
		{"a body in a number", model(node("A", "", "a", attribute("x", AttrInt, msg(attrG)))), "does not hold"},
		{"bodies without end", model(nested(40)), "nested more than 32 deep"},
		{"a name to clear the screen", model(node("A", "", "\x1b[2J")), "not printable"},
		{"a name that is not UTF-8", model(node("A", "", "\xff")), "not printable"},
		{"a name as long as a book", model(node("A", "", strings.Repeat("a", 1<<20))), "a name of 1048576 bytes"},

		{"an element type to come", model(initializer("w", 99, nil)), "element type 99"},
		{"an element type beyond 32 bits", model(initializer("w", Uint8, nil, scalar(tensorDType, 1<<32+1))), "element type 4294967297"},
		{"no element type", model(initializer("w", 0, nil)), "element type 0"},
		{"an element type of an input", model(msg(graphInput, msg(infoName, []byte("x")), msg(infoType, msg(typeTensor, scalar(tensorTypeElemType, 77))))), "element type 77"},
		{"a negative dimension", model(initializer("w", Float32, []int64{-1}, f32(1))), `tensor "w": malformed model: dimension -1`},
		{"a negative dimension of an input", model(msg(graphInput, msg(infoName, []byte("x")), msg(infoType, msg(typeTensor, msg(tensorTypeShape, msg(shapeDim, scalar(dimValue, 1<<64-5))))))), "dimension -5"},
		{"dimensions that overflow", model(initializer("w", Float32, huge, f32(1))), "too many"},
		{"dimensions that overflow to 0", model(initializer("w", Float32, []int64{1 << 62, 4}, f32(0))), "too many"},
		{"a hundred dimensions", model(initializer("w", Float32, make([]int64, 100))), "more than 64 dimensions"},
		{"a hundred dimensions of an input", model(msg(graphInput, msg(infoName, []byte("x")), msg(infoType, msg(typeTensor, msg(tensorTypeShape, bytes.Repeat(msg(shapeDim), 100)))))), "more than 64 dimensions"},
		{"less data than dimensions", model(initializer("w", Float32, []int64{3}, msg(tensorRawData, make([]byte, 8)))), "takes 12 bytes, got 8"},
		{"more data than dimensions", model(initializer("w", Float32, []int64{1}, msg(tensorRawData, make([]byte, 8)))), "takes 4 bytes, got 8"},
		{"terabytes of nothing", model(initializer("w", Float32, []int64{1 << 40})), "got 0"},
		{"terabytes of one number", model(initializer("w", Float32, []int64{1 << 40}, f32(1))), "the file holds fewer"},
		{"more numbers than dimensions", model(initializer("w", Float32, []int64{1}, f32(2))), "takes 4 bytes, got 8"},
		{"more integers than dimensions", model(initializer("w", Int32, []int64{1}, msg(tensorInt32Data, []byte{1, 2}))), "more data than its shape"},
		{"numbers cut off", model(initializer("w", Float32, []int64{2}, msg(tensorFloatData, make([]byte, 4)), msg(tensorFloatData, make([]byte, 3)))), "cut off"},
		{"numbers of another type", model(initializer("w", Int64, []int64{1}, f32(1))), "int64 data in field 4"},
		{"raw and typed data", model(initializer("w", Float32, []int64{1}, f32(1), msg(tensorRawData, make([]byte, 4)))), "data in 2 ways"},
		{"raw strings", model(initializer("w", String, []int64{1}, msg(tensorRawData, []byte{1}))), "strings"},
		{"fewer strings than dimensions", model(initializer("w", String, []int64{2}, msg(tensorStringData))), "1 strings for shape [2]"},
		{"a tensor in segments", model(initializer("w", Float32, nil, msg(tensorSegment))), "not supported"},
		{"an unknown place", model(initializer("w", Float32, nil, scalar(tensorDataLocation, 2))), "data location 2"},
		{"external data without a folder", model(external("w", []int64{1}, "data", "", "")), "has no folder"},
	} {
		_, err := Parse(c.b)
		require.ErrorContains(t, err, c.has, c.why)
		requireFault(t, err, "", c.why)
		if !strings.Contains(c.has, "not supported") {
			require.ErrorIs(t, err, ErrMalformed, c.why)
		}
	}
}

// folder makes a model folder: link → target, or file → content.
func folder(t *testing.T, files map[string]string) string {
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		if to, ok := strings.CutPrefix(content, "link:"); ok {
			require.NoError(t, os.Symlink(strings.ReplaceAll(to, "DIR", dir), path))
			continue
		}
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

func TestExternalDataStaysInside(t *testing.T) {
	w := func(location, offset, length string) string {
		return string(model(external("w", []int64{4}, location, offset, length)))
	}
	two := func(a, b string) string {
		return string(model(external("a", []int64{4}, "data", a, ""), external("b", []int64{4}, "data", b, "")))
	}
	const cache = "hub/models--org--name/"
	for _, c := range []struct {
		why   string
		model string // path; default m/model.onnx
		files map[string]string
		has   string // empty: it loads
	}{
		{why: "in the same folder", files: map[string]string{"m/model.onnx": w("data", "1", "4"), "m/data": "-data"}},
		{why: "in a folder below", files: map[string]string{"m/model.onnx": w("sub/data", "1", ""), "m/sub/data": "-data-"}},
		{why: "by a link to its neighbour", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "link:other", "m/other": "data"}},
		{why: "the folder itself by a link", model: "link/model.onnx", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "data", "link": "link:DIR/m"}},
		{why: "the cache of Hugging Face", model: cache + "snapshots/rev/model.onnx", files: map[string]string{
			cache + "snapshots/rev/model.onnx": "link:../../blobs/aa", cache + "blobs/aa": w("model.onnx.data", "", ""),
			cache + "snapshots/rev/model.onnx.data": "link:../../blobs/bb", cache + "blobs/bb": "data"}},
		{why: "a folder below, in that cache", model: cache + "snapshots/rev/onnx/model.onnx", files: map[string]string{
			cache + "snapshots/rev/onnx/model.onnx":      w("model.onnx.data", "", ""),
			cache + "snapshots/rev/onnx/model.onnx.data": "link:../../../blobs/bb", cache + "blobs/bb": "data"}},
		{why: "that cache, reached by a link", model: "short/model.onnx", files: map[string]string{
			"short": "link:DIR/" + cache + "snapshots/rev", cache + "snapshots/rev/model.onnx": w("model.onnx.data", "", ""),
			cache + "snapshots/rev/model.onnx.data": "link:../../blobs/bb", cache + "blobs/bb": "data"}},
		{why: "one range for two", files: map[string]string{"m/model.onnx": two("0", "0"), "m/data": "data"}},
		{why: "ranges side by side", files: map[string]string{"m/model.onnx": two("4", "0"), "m/data": "datadata"}},

		{why: "absolute", files: map[string]string{"m/model.onnx": w("/etc/hostname", "", "")}, has: "not a path inside"},
		{why: "upward", files: map[string]string{"m/model.onnx": w("../data", "", ""), "data": "data"}, has: "not a path inside"},
		{why: "upward in the middle", files: map[string]string{"m/model.onnx": w("a/../../data", "", ""), "data": "data"}, has: "not a path inside"},
		{why: "no location", files: map[string]string{"m/model.onnx": w("", "", "")}, has: `"" is not a path inside`},
		{why: "a name with a zero", files: map[string]string{"m/model.onnx": w("data\x00", "", "")}, has: "not printable"},
		{why: "a link out", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "link:../secret", "secret": "data"}, has: "escapes"},
		{why: "an absolute link out", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "link:DIR/secret", "secret": "data"}, has: "escapes"},
		{why: "a folder that is a link out", files: map[string]string{"m/model.onnx": w("sub/data", "", ""), "m/sub": "link:..", "data": "data"}, has: "escapes"},
		{why: "a chain of links out", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "link:a", "m/a": "link:../secret", "secret": "data"}, has: "escapes"},
		{why: "links in a circle", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": "link:a", "m/a": "link:data"}, has: "symbolic links"},
		{why: "out of the cache", model: cache + "snapshots/rev/model.onnx", files: map[string]string{
			cache + "snapshots/rev/model.onnx": w("data", "", ""), cache + "snapshots/rev/data": "link:../../../other", "hub/other": "data"}, has: "escapes"},
		{why: "blobs where there is no cache", model: "models/snapshots/rev/model.onnx", files: map[string]string{
			"models/snapshots/rev/model.onnx": w("data", "", ""), "models/snapshots/rev/data": "link:../../blobs/bb", "models/blobs/bb": "data"}, has: "escapes"},
		{why: "a folder", files: map[string]string{"m/model.onnx": w("sub", "", ""), "m/sub/x": ""}, has: "not a regular file"},
		{why: "missing", files: map[string]string{"m/model.onnx": w("data", "", "")}, has: `external data "data" is missing`},
		{why: "below a file", files: map[string]string{"m/model.onnx": w("a/data", "", ""), "m/a": ""}, has: "not a directory"},

		{why: "an offset past the end", files: map[string]string{"m/model.onnx": w("data", "9", ""), "m/data": "data"}, has: `takes 4 bytes at 9 of "data", which has 4`},
		{why: "an end past the end", files: map[string]string{"m/model.onnx": w("data", "1", ""), "m/data": "data"}, has: "takes 4 bytes at 1"},
		{why: "an end that overflows", files: map[string]string{"m/model.onnx": w("data", "9223372036854775806", ""), "m/data": "data"}, has: "takes 4 bytes at 9223372036854775806"},
		{why: "an empty file", files: map[string]string{"m/model.onnx": w("data", "", ""), "m/data": ""}, has: "which has 0"},
		{why: "a negative offset", files: map[string]string{"m/model.onnx": w("data", "-1", ""), "m/data": "data"}, has: `offset "-1"`},
		{why: "an offset that is no number", files: map[string]string{"m/model.onnx": w("data", "1e1", ""), "m/data": "data"}, has: `offset "1e1"`},
		{why: "an offset beyond 64 bits", files: map[string]string{"m/model.onnx": w("data", "99999999999999999999", ""), "m/data": "data"}, has: "offset"},
		{why: "a negative length", files: map[string]string{"m/model.onnx": w("data", "", "-4"), "m/data": "data"}, has: `length "-4"`},
		{why: "a length that is not the shape's", files: map[string]string{"m/model.onnx": w("data", "", "3"), "m/data": "data"}, has: "takes 4 bytes, its external data has 3"},
		{why: "overlap in part", files: map[string]string{"m/model.onnx": two("0", "2"), "m/data": "datadata"}, has: `tensors "a" and "b" overlap in "data"`},
		{why: "overlap under two names", files: map[string]string{"m/data": "datadata", "m/model.onnx": string(model(
			external("a", []int64{4}, "data", "0", ""), external("b", []int64{4}, "./data", "1", "")))}, has: "overlap"},
	} {
		if c.model == "" {
			c.model = "m/model.onnx"
		}
		path := filepath.Join(folder(t, c.files), c.model)
		m, err := Load(path)
		if c.has == "" {
			require.NoError(t, err, c.why)
			for name, w := range initializers(m.Graph) {
				got, err := w.Bytes()
				require.NoError(t, err)
				require.Equal(t, "data", string(got), "%s: %s", c.why, name)
			}
			require.NoError(t, m.Close())
			continue
		}
		require.ErrorContains(t, err, c.has, c.why)
		requireFault(t, err, path, c.why)
	}
}

func TestLoadErrors(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	_, err := Load(path)
	requireFault(t, err, path, "no file")
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Load(dir)
	requireFault(t, err, dir, "a folder")
	require.ErrorContains(t, err, "not a regular file")

	// Protobuf has an end at 2 GiB; a hole in a file takes no space and this test no time.
	require.NoError(t, os.WriteFile(path, nil, 0o644))
	require.NoError(t, os.Truncate(path, 3<<30))
	_, err = Load(path)
	requireFault(t, err, path, "too long")
	require.ErrorIs(t, err, ErrMalformed)
	require.ErrorContains(t, err, "more than protobuf's 2 GiB")

	require.NoError(t, os.WriteFile(path, model(external("w", []int64{4}, "data", "", "")), 0o644))
	_, err = Load(path)
	require.ErrorIs(t, err, os.ErrNotExist, "callers may want to download it")
}

// A file must not make this package allocate out of all proportion to its size.
func TestMemoryIsBounded(t *testing.T) {
	repeat := func(n int, f func(i int) []byte) []byte {
		var b []byte
		for i := range n {
			b = append(b, f(i)...)
		}
		return b
	}
	id := func(i int) string { return strconv.FormatInt(int64(i), 36) }
	const n = 50_000
	for _, c := range []struct {
		why string
		b   []byte
	}{
		{"nodes", model(repeat(n, func(i int) []byte { return msg(graphNode, msg(nodeOpType, []byte("A"))) }))},
		{"results", model(node("A", "", "", repeat(n, func(i int) []byte { return msg(nodeOutput, []byte(id(i))) })))},
		{"results of many nodes", model(repeat(n, func(i int) []byte {
			return msg(graphNode, msg(nodeOpType, []byte("A")), msg(nodeOutput, []byte(id(i))))
		}))},
		{"operands", model(value(graphInput, "x"), node("A", "", "", repeat(n, func(int) []byte { return msg(nodeInput, []byte("x")) })))},
		{"operands left out", model(node("A", "", "", repeat(n, func(int) []byte { return msg(nodeInput) })))},
		{"inputs", model(repeat(n, func(i int) []byte { return value(graphInput, id(i)) }))},
		{"types without name", model(repeat(n, func(i int) []byte { return value(graphValueInfo, "a") }))},
		{"initializers", model(repeat(n, func(i int) []byte { return initializer(id(i), Uint8, []int64{0}) }))},
		{"attributes", model(repeat(n/20, func(i int) []byte {
			return msg(graphNode, msg(nodeOpType, []byte("A")), repeat(20, func(i int) []byte { return attribute(id(i), AttrInt) }))
		}))},
		{"bodies", model(node("A", "", "", attribute("b", AttrGraphs, repeat(n, func(int) []byte { return msg(attrGraphs) }))))},
		{"bodies in bodies", model(nested(30), repeat(n, func(i int) []byte { return value(graphInput, id(i)) }))},
		{"strings", model(initializer("w", String, []int64{n}, repeat(n, func(int) []byte { return msg(tensorStringData) })))},
		{"integers one by one", model(initializer("w", Int64, []int64{n}, repeat(n, func(int) []byte { return scalar(tensorInt64Data, 1) })))},
		{"integers", model(initializer("w", Int64, []int64{n}, msg(tensorInt64Data, make([]byte, n))))},
		{"lists", model(node("A", "", "", attribute("a", AttrInts, msg(attrInts, make([]byte, n)))))},
		{"dimensions", model(repeat(n/30, func(i int) []byte { return initializer(id(i), Uint8, make([]int64, 60)) }))},
		{"dimensions of types", model(repeat(n/60, func(i int) []byte {
			return msg(graphInput, msg(infoName, []byte(id(i))), msg(infoType, msg(typeTensor, msg(tensorTypeShape, repeat(60, func(int) []byte { return msg(shapeDim) })))))
		}))},
		{"functions", append(model(), repeat(n, func(int) []byte { return msg(modelFunction) })...)},
		{"metadata", append(model(), repeat(n, func(int) []byte { return msg(modelMetadata) })...)},
		{"unknown fields", append(model(), repeat(n, func(int) []byte { return msg(99) })...)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := Parse(c.b)
		runtime.ReadMemStats(&after)
		require.NoError(t, err, c.why)
		perByte := float64(after.TotalAlloc-before.TotalAlloc) / float64(len(c.b))
		t.Logf("%-22s %7d bytes, %4.0f allocated for each", c.why, len(c.b), perByte)
		require.Less(t, perByte, 256.0, c.why)
		encoded, err := Encode(m)
		require.NoError(t, err, c.why)
		require.Less(t, len(encoded), 20*len(c.b), "%s: written again", c.why)
	}

	million := make([]byte, maxItems+1)
	_, err := Parse(model(node("A", "", "", attribute("a", AttrInts, msg(attrInts, million)))))
	require.ErrorContains(t, err, "more than 1048576 nodes, values and attributes")
	_, err = Parse(model(node("A", "", "", repeat(1025, func(i int) []byte { return attribute(id(i), AttrInt) }))))
	require.ErrorContains(t, err, "more than 1024 attributes")
}

func TestFaultsNameThePackageOnce(t *testing.T) {
	inner := errorf("inner %w", os.ErrNotExist)
	outer := errorf("outer: %w", errorf("middle: %w", inner))
	require.EqualError(t, outer, "ir: outer: middle: inner file does not exist")
	require.ErrorIs(t, outer, os.ErrNotExist)
	require.ErrorIs(t, fmt.Errorf("graphopt: %w", outer), os.ErrNotExist)
	var f *fault
	require.True(t, errors.As(outer, &f))
}
