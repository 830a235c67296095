package accelerate

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/runner/machine"
)

// A stored graph is found again by whoever has the same model, session, library and CPU, and by nobody else.
func TestGraphKey(t *testing.T) {
	require.NoError(t, ort.Init(ort.Environment{}))
	file := filepath.Join(t.TempDir(), "model.onnx")
	require.NoError(t, os.WriteFile(file, []byte("graph"), 0o666))
	require.NoError(t, os.WriteFile(file+".data", []byte("weights"), 0o666))
	conf := ort.SessionConfig{
		Optimization: ort.OptimizeBasic, DisabledOptimizers: []string{"ConstantFolding"},
		ConfigEntries: map[string]string{"a": "1"},
	}
	key := func() graphKey {
		k, err := newGraphKey(file, conf, true)
		require.NoError(t, err)
		return k
	}
	before := key()
	info, err := os.Stat(file + ".data")
	require.NoError(t, err)
	hash, err := contentHash(file)
	require.NoError(t, err)
	require.Equal(t, graphKey{
		Graph: hash, Data: []dataFile{{file + ".data", 7, info.ModTime().UnixNano()}},
		Optimization: ort.OptimizeBasic, DisabledOptimizers: conf.DisabledOptimizers, Entries: conf.ConfigEntries, Packed: true,
		Library: ort.Version(), CPU: machine.Features(),
	}, before)
	require.NotEmpty(t, before.Library)
	require.Equal(t, before.String(), key().String())

	seen := map[string]string{before.String(): "none"}
	for change, apply := range map[string]func(*graphKey){
		"graph":             func(k *graphKey) { k.Graph = "other" },
		"no data":           func(k *graphKey) { k.Data = nil },
		"data elsewhere":    func(k *graphKey) { k.Data[0].Path = "other" },
		"length of data":    func(k *graphKey) { k.Data[0].Bytes++ },
		"age of data":       func(k *graphKey) { k.Data[0].Modified++ },
		"level":             func(k *graphKey) { k.Optimization = ort.OptimizeAll },
		"optimizers":        func(k *graphKey) { k.DisabledOptimizers = []string{"Constant", "Folding"} },
		"entry":             func(k *graphKey) { k.Entries = map[string]string{"a": "2"} },
		"entries":           func(k *graphKey) { k.Entries = map[string]string{"a": "1", "b": ""} },
		"not packed":        func(k *graphKey) { k.Packed = false },
		"library":           func(k *graphKey) { k.Library = "1.0.0" },
		"CPU":               func(k *graphKey) { k.CPU = append(k.CPU, "another") },
		"CPU with one less": func(k *graphKey) { k.CPU = []string{"another"} },
	} {
		k := key()
		apply(&k)
		require.NotContains(t, seen, k.String(), "%s and %s", change, seen[k.String()])
		seen[k.String()] = change
	}

	later := info.ModTime().Add(time.Second)
	require.NoError(t, os.Chtimes(file+".data", later, later))
	require.NotContains(t, seen, key().String(), "the weights were written again")
	conf.DisabledOptimizers = nil
	require.NotContains(t, seen, key().String())
}
