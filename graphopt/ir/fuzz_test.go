package ir

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzParse: whatever is accepted is valid, is written in a form that is read as the same model,
// and takes memory in proportion to the file.
func FuzzParse(f *testing.F) {
	f.Add(everything(f))
	f.Add(model(node("If", "", "y", attribute("b", AttrGraph, msg(attrG, node("N", "", "z"), value(graphOutput, "z")))), value(graphOutput, "y")))
	f.Add(model(initializer("w", Int4, []int64{3}, msg(tensorInt32Data, []byte{1, 2})), value(graphInput, "w")))
	f.Add(append(model(), msg(modelFunction, msg(functionName, []byte("f")))...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := Parse(b)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+256*len(b)))
		if err != nil {
			requireFault(t, err, "", "")
			return
		}
		first, err := Encode(m)
		require.NoError(t, err)
		again, err := Parse(first)
		require.NoError(t, err)
		second, err := Encode(again)
		require.NoError(t, err)
		require.Equal(t, first, second)
		sorted, err := LargestFirst(first)
		require.NoError(t, err)
		require.Len(t, sorted, len(first))
		m.Graph.Prune()
		require.NoError(t, m.Validate())
	})
}

// FuzzLoad: external data are read from the model's folder or refused, and survive being saved.
func FuzzLoad(f *testing.F) {
	f.Add(model(external("a", []int64{4}, "data", "0", "4"), external("b", []int64{2, 2}, "data", "0", "")), []byte("datadata"))
	f.Add(model(external("a", []int64{4}, "data", "0", "4"), external("b", []int64{4}, "./data", "4", "")), []byte("datadata"))
	f.Add(model(external("a", []int64{4}, "../data", "0", "4")), []byte("data"))
	f.Add(model(initializer("s", Float16, []int64{2}, property("location", "data"), scalar(tensorDataLocation, 1))), []byte("data"))
	f.Fuzz(func(t *testing.T, b, data []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "model.onnx")
		require.NoError(t, os.WriteFile(path, b, 0o644))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "data"), data, 0o644))
		m, err := Load(path)
		if err != nil {
			requireFault(t, err, path, "")
			return
		}
		for name, w := range initializers(m.Graph) {
			if w.DType != String {
				_, err := w.Bytes()
				require.NoError(t, err, name)
			}
		}
		require.NoError(t, Save(context.Background(), m, path, SaveOptions{InlineBytes: -1}))
		again, err := Load(path)
		require.NoError(t, err)
		requireSameModel(t, m, again)
		require.NoError(t, again.Close())
		require.NoError(t, m.Close())
	})
}
