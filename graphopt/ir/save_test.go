package ir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// weighted makes a model with one initializer for each tensor.
func weighted(ts ...*Tensor) *Model {
	m, g, x := newTestModel()
	vs := []*Value{x}
	for i, t := range ts {
		vs = append(vs, g.AddInitializer(fmt.Sprint("w", i), t))
	}
	g.AddOutput(g.Op("Sum", "sum", vs))
	return m
}

// filled makes a uint8 tensor of n bytes.
func filled(n int, b byte) *Tensor {
	return &Tensor{DType: Uint8, Shape: []int64{int64(n)}, Data: NewBuffer(bytes.Repeat([]byte{b}, n))}
}

func requireFiles(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(names)
	require.Equal(t, append([]string{}, names...), got)
}

// mustLoad reads a model back; it is closed when the test ends.
func mustLoad(t *testing.T, path string) *Model {
	t.Helper()
	m, err := Load(path)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func TestSaveIsDeterministic(t *testing.T) {
	wide, err := Cast(&Tensor{DType: BFloat16, Shape: []int64{300, 700}, Data: NewBuffer(make([]byte, 2*300*700))}, Float32)
	require.NoError(t, err)
	turned, err := Transpose(wide)
	require.NoError(t, err)
	m := weighted(filled(5000, 1), turned, wide, filled(10, 2), filled(9<<20, 3))
	var first []byte
	for _, workers := range []int{0, 1, 7} {
		dir := t.TempDir()
		require.NoError(t, Save(context.Background(), m, filepath.Join(dir, "model.onnx"), SaveOptions{Workers: workers}))
		requireFiles(t, dir, "model.onnx", "model.onnx.data")
		all := append(readAll(t, filepath.Join(dir, "model.onnx")), readAll(t, filepath.Join(dir, "model.onnx.data"))...)
		if first == nil {
			first = all
		}
		require.True(t, bytes.Equal(first, all), "%d workers", workers)
	}
}

func TestSharedDataIsStoredOnce(t *testing.T) {
	table := filled(1<<20, 7)
	turned, err := Reshape(table, 1<<10, 1<<10)
	require.NoError(t, err)
	m := weighted(table, turned, filled(5000, 1))
	dir := t.TempDir()
	path := filepath.Join(dir, "model.onnx")
	require.NoError(t, Save(context.Background(), m, path, SaveOptions{}))
	st, err := os.Stat(path + ".data")
	require.NoError(t, err)
	require.Equal(t, int64(1<<20+5000), st.Size())
	got := mustLoad(t, path)
	ts := initializers(got.Graph)
	require.Same(t, ts["w0"].Data, ts["w1"].Data, "and stays shared")
	require.Equal(t, []int64{1 << 10, 1 << 10}, ts["w1"].Shape)
	requireSameModel(t, m, got)
}

func TestInlineBytes(t *testing.T) {
	for _, c := range []struct {
		why    string
		inline int64
		data   int64 // size of the data file; 0: none
	}{
		{"1,024 bytes by default", 0, pageBytes + 9000},
		{"everything inside", 1 << 20, 0},
		{"everything outside", -1, 2*pageBytes + 9000},
		{"at the limit", 1025, 9000},
	} {
		dir := t.TempDir()
		m := weighted(filled(1024, 1), filled(1025, 2), filled(9000, 3), &Tensor{DType: Float32, Shape: []int64{0}, Data: NewBuffer(nil)})
		require.NoError(t, Save(context.Background(), m, filepath.Join(dir, "m"), SaveOptions{InlineBytes: c.inline}))
		st, err := os.Stat(filepath.Join(dir, "m.data"))
		if c.data == 0 {
			require.ErrorIs(t, err, os.ErrNotExist)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.data, st.Size(), c.why)
		requireSameModel(t, m, mustLoad(t, filepath.Join(dir, "m")))
	}
}

// counter is a producer of two results, of n bytes a shard each: the shard's number, and its square.
type counter struct {
	n    int64
	runs atomic.Int64
	err  error
}

func (c *counter) Shards() int { return 5 }

func (c *counter) Produce(shard int, out []io.WriterAt) error {
	c.runs.Add(1)
	for i, w := range out {
		b := bytes.Repeat([]byte{byte([]int{shard, shard * shard}[i])}, int(c.n))
		if _, err := w.WriteAt(b, int64(shard)*c.n); err != nil {
			return err
		}
	}
	return c.err
}

func TestProduced(t *testing.T) {
	produced := func(n int64) (*counter, []*Tensor) {
		c := &counter{n: n}
		var ts []*Tensor
		for _, d := range Produced(c, 5*n, 5*n) {
			ts = append(ts, &Tensor{DType: Uint8, Shape: []int64{5 * n}, Data: d})
		}
		return c, ts
	}
	want := func(n int64, f func(int) int) (b []byte) {
		for s := range 5 {
			b = append(b, bytes.Repeat([]byte{byte(f(s))}, int(n))...)
		}
		return b
	}
	number, square := func(s int) int { return s }, func(s int) int { return s * s }

	for _, n := range []int64{1, 150, 10_000} { // all inline; together too large for that; large
		c, ts := produced(n)
		dir := t.TempDir()
		path := filepath.Join(dir, "model.onnx")
		require.NoError(t, Save(context.Background(), weighted(ts[1], filled(5000, 9), ts[0]), path, SaveOptions{}))
		require.Equal(t, int64(5), c.runs.Load(), "each shard once for both results")
		if n > 1 {
			require.Nil(t, ts[0].Data.(*part).from.bufs, "nothing was kept in memory")
		}
		got := initializers(mustLoad(t, path).Graph)
		for name, w := range map[string][]byte{"w0": want(n, square), "w2": want(n, number)} {
			b, err := got[name].Bytes()
			require.NoError(t, err)
			require.Equal(t, w, b, "%s of %d bytes", name, n)
		}
	}

	c, ts := produced(1000) // one result is not used
	path := filepath.Join(t.TempDir(), "model.onnx")
	var done, total int64
	require.NoError(t, Save(context.Background(), weighted(ts[1]), path, SaveOptions{Progress: func(d, n int64) { done, total = d, n }}))
	require.Equal(t, []int64{5000, 5000, 5}, []int64{done, total, c.runs.Load()})

	c, ts = produced(1000) // read without Save
	half := make([]byte, 10)
	require.NoError(t, readFull(ts[1].Data, half, 2995))
	require.Equal(t, []byte{4, 4, 4, 4, 4, 9, 9, 9, 9, 9}, half)
	b, err := ts[0].Bytes()
	require.NoError(t, err)
	require.Equal(t, want(1000, number), b)
	require.Equal(t, int64(5), c.runs.Load())

	// A result that is written past its end would otherwise damage its neighbour.
	d := Produced(&counter{n: 1000}, 5000, 4999)
	for i, data := range d {
		dir := t.TempDir()
		w := &Tensor{DType: Uint8, Shape: []int64{data.Len()}, Data: data}
		err := Save(context.Background(), weighted(w), filepath.Join(dir, "m"), SaveOptions{})
		require.ErrorContains(t, err, "1000 bytes at 4000 of a result of 4999", "using result %d", i)
		requireFiles(t, dir)
	}
	_, err = d[0].ReadAt(half, 0)
	require.ErrorIs(t, err, io.ErrShortWrite)
}

func TestProgress(t *testing.T) {
	m := weighted(filled(9<<20, 1), filled(5000, 2), filled(10, 3))
	var calls []int64
	var total int64
	require.NoError(t, Save(context.Background(), m, filepath.Join(t.TempDir(), "m"), SaveOptions{Progress: func(done, of int64) {
		calls, total = append(calls, done), of
	}}))
	require.Equal(t, int64(9<<20+5000), total, "what is inline is no work, gaps are none either")
	require.Len(t, calls, 4)
	require.True(t, slices.IsSorted(calls))
	require.Equal(t, total, calls[3])
}

// broken is data that fails when it is read beyond its first bytes.
type broken struct {
	n   int64
	err error
}

func (b *broken) Len() int64 { return b.n }
func (b *broken) ReadAt(p []byte, off int64) (int, error) {
	if off > 0 {
		return 0, b.err
	}
	return len(p), nil
}

func TestFailedSaveLeavesNothing(t *testing.T) {
	oops := errors.New("oops")
	large := func(d Data) *Tensor { return &Tensor{DType: Uint8, Shape: []int64{d.Len()}, Data: d} }
	good := weighted(filled(9<<20, 1))
	for _, c := range []struct {
		why   string
		m     *Model
		path  string
		o     SaveOptions
		ahead func(dir string) // what is there before
		left  []string
		has   string
		is    error
	}{
		{why: "no such folder", m: good, path: "none/model.onnx", has: "no such file", is: os.ErrNotExist},
		{why: "a folder that is a file", m: good, path: "file/model.onnx", ahead: touch("file"), left: []string{"file"}, is: syscall.ENOTDIR},
		{why: "a model that is a folder", m: good, ahead: mkdir("model.onnx"), left: []string{"model.onnx"}, has: "is a folder"},
		{why: "data that are a folder", m: good, ahead: mkdir("model.onnx.data"), left: []string{"model.onnx.data"}, has: "is a folder"},
		{why: "data elsewhere", m: good, o: SaveOptions{DataFile: "../data"}, has: `"../data" must be a plain name`},
		{why: "data in a folder below", m: good, o: SaveOptions{DataFile: "a/data"}, has: "must be a plain name"},
		{why: "data over the model", m: good, o: SaveOptions{DataFile: "Model.onnx"}, has: "has the name of the model"},
		{why: "data that cannot be read", m: weighted(large(&broken{9 << 20, oops})), has: "model.onnx.data takes 9437184 bytes: initializer \"w0\": oops", is: oops},
		{why: "a full disk", m: weighted(large(&broken{9 << 20, syscall.ENOSPC})), has: "takes 9437184 bytes: initializer \"w0\": no space left on device", is: syscall.ENOSPC},
		{why: "a number that the type does not hold", m: weighted(&Tensor{DType: Float16, Shape: []int64{4096}, Data: &castData{Float32Tensor(append(make([]float32, 4095), -7e4)).Data, Float32, Float16}}), has: `initializer "w0": element 4095 is -70000: number too large for its type: float16`, is: ErrOverflow},
		{why: "data that end early", m: weighted(large(cutOff{5000})), has: "data ends at byte 2500 of 5000", is: io.ErrUnexpectedEOF},
		{why: "small data that cannot be read", m: weighted(large(cutOff{500})), has: `initializer "w0": data ends`},
		{why: "a producer that fails", m: weighted(large(Produced(&counter{n: 1 << 10, err: oops}, 5<<10, 5<<10)[0])), is: oops},
		{why: "a graph that is not valid", m: &Model{Graph: &Graph{outputs: []*Value{{Name: "ghost"}}}}, has: `"ghost"`},
		{why: "over older files", m: weighted(large(&broken{9 << 20, oops})), ahead: touch("model.onnx", "model.onnx.data"), left: []string{"model.onnx", "model.onnx.data"}, is: oops},
	} {
		dir := t.TempDir()
		if c.ahead != nil {
			c.ahead(dir)
		}
		if c.path == "" {
			c.path = "model.onnx"
		}
		path := filepath.Join(dir, c.path)
		err := Save(context.Background(), c.m, path, c.o)
		requireFault(t, err, path, c.why)
		require.ErrorContains(t, err, c.has, c.why)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.why)
		}
		requireFiles(t, dir, c.left...)
		for _, name := range c.left {
			if st, err := os.Stat(filepath.Join(dir, name)); err == nil && !st.IsDir() {
				require.Equal(t, "old", string(readAll(t, filepath.Join(dir, name))), c.why)
			}
		}
	}
}

func touch(names ...string) func(string) {
	return func(dir string) {
		for _, name := range names {
			_ = os.WriteFile(filepath.Join(dir, name), []byte("old"), 0o644)
		}
	}
}

func mkdir(name string) func(string) {
	return func(dir string) { _ = os.Mkdir(filepath.Join(dir, name), 0o755) }
}

func TestCancelledSaveLeavesNothing(t *testing.T) {
	m := weighted(filled(40<<20, 1))
	for _, at := range []int{0, 1, 10} { // calls of Progress; the last comes with the last byte
		dir := t.TempDir()
		touch("model.onnx")(dir)
		ctx, cancel := context.WithCancel(context.Background())
		calls := 0
		stop := func() {
			if calls == at {
				cancel()
			}
			calls++
		}
		stop()
		err := Save(ctx, m, filepath.Join(dir, "model.onnx"), SaveOptions{Workers: 2, Progress: func(int64, int64) { stop() }})
		require.ErrorIs(t, err, context.Canceled, "at %d", at)
		requireFiles(t, dir, "model.onnx")
		require.Equal(t, "old", string(readAll(t, filepath.Join(dir, "model.onnx"))))
		cancel()
	}
}

func TestSaveOverOlderFiles(t *testing.T) {
	dir := t.TempDir()
	touch("elsewhere")(dir)
	f, err := os.Create(filepath.Join(dir, "plain"))
	require.NoError(t, err)
	plain, err := f.Stat()
	require.NoError(t, err)
	require.NoError(t, f.Close())
	path := filepath.Join(dir, "model.onnx")
	require.NoError(t, os.Symlink("elsewhere", path))
	require.NoError(t, os.Symlink("elsewhere", path+".data"))
	m := weighted(filled(5000, 1))
	require.NoError(t, Save(context.Background(), m, path, SaveOptions{}))
	require.Equal(t, "old", string(readAll(t, filepath.Join(dir, "elsewhere"))), "links are replaced, not written through")
	requireSameModel(t, m, mustLoad(t, path))
	requireFiles(t, dir, "elsewhere", "model.onnx", "model.onnx.data", "plain")
	for _, name := range []string{"model.onnx", "model.onnx.data"} {
		st, err := os.Stat(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, plain.Mode(), st.Mode(), "%s: the user's umask holds", name)
	}

	// A reader never finds the old graph over new weights, nor the other way round.
	other := weighted(filled(6000, 2))
	err = Save(context.Background(), other, path, SaveOptions{Progress: func(int64, int64) {
		requireSameModel(t, m, mustLoad(t, path))
	}})
	require.NoError(t, err)
	requireSameModel(t, other, mustLoad(t, path))
}

// Models beyond 2 GiB and 4 GiB, in one file and in many; holes in files take no space.
func TestLargeModels(t *testing.T) {
	dir := t.TempDir()
	const files, size = 100, int64(3 << 30)
	var graph []byte
	for i := range files {
		name := fmt.Sprintf("w%03d", i)
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte{byte(i)}, 0o644))
		require.NoError(t, os.Truncate(path, size))
		graph = append(graph, external(name, []int64{size - 4096}, name, "0", "")...)
		graph = append(graph, external(name+"end", []int64{4096}, name, fmt.Sprint(size-4096), "4096")...)
	}
	path := filepath.Join(dir, "model.onnx")
	require.NoError(t, os.WriteFile(path, model(graph), 0o644))
	m := mustLoad(t, path)
	ts := initializers(m.Graph)
	require.Len(t, ts, 2*files)
	first := make([]byte, 2)
	require.NoError(t, readFull(ts["w099"].Data, first, 0))
	require.Equal(t, []byte{99, 0}, first)
	require.NoError(t, readFull(ts["w099end"].Data, first, 4094))

	// Where everything goes in one file, without writing it.
	l := plan(m, 1024)
	require.Equal(t, files*size, l.size)
	require.Equal(t, place{99 * size, size - 4096}, l.places[ts["w099"]])
	proto, err := (&encoder{"data", l.places}).model(m)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, proto, 0o644))
	data := filepath.Join(dir, "data")
	require.NoError(t, os.WriteFile(data, nil, 0o644))
	require.NoError(t, os.Truncate(data, l.size))
	again := initializers(mustLoad(t, path).Graph)
	require.Equal(t, size-4096, again["w099"].Len())
	require.NoError(t, readFull(again["w099end"].Data, first, 4094), "300 GB into the file")
}
