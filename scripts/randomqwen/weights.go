package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/qwenrt/qwenrt/models/safetensors"
)

const (
	stdDev     = 0.02 // initializer_range of Qwen3
	normStdDev = 0.1
	shardBytes = 4_000_000_000
)

// writeWeights writes model.safetensors, or shards of about shardBytes with an index.
func writeWeights(dir string, s shape, seed uint64, sparse bool) error {
	shards := split(s.tensors())
	weights, norms := newQuantiles(0, stdDev), newQuantiles(1, normStdDev)
	weightMap := map[string]string{}
	for i, entries := range shards {
		file := "model.safetensors"
		if len(shards) > 1 {
			file = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, len(shards))
		}
		counts := map[string]int64{}
		for _, e := range entries {
			weightMap[e.Name] = file
			counts[e.Name] = elements(e)
		}
		fill := func(name string, w io.Writer) error {
			table := weights
			if strings.HasSuffix(name, "norm.weight") {
				table = norms
			}
			return table.write(w, counts[name], seed, name)
		}
		create := func(path string) error { return safetensors.Create(path, entries, fill) }
		if sparse {
			create = func(path string) error { return createSparse(path, entries) }
		}
		if err := create(filepath.Join(dir, file)); err != nil {
			return err
		}
	}
	if len(shards) == 1 {
		return nil
	}
	return writeJSON(filepath.Join(dir, "model.safetensors.index.json"), map[string]any{
		"metadata":   map[string]int64{"total_size": 2 * s.parameters()},
		"weight_map": weightMap,
	})
}

// split cuts the list where a file would pass shardBytes.
func split(entries []safetensors.Entry) [][]safetensors.Entry {
	var shards [][]safetensors.Entry
	var size int64
	for i, e := range entries {
		n := 2 * elements(e)
		if i == 0 || size+n > shardBytes {
			shards, size = append(shards, nil), 0
		}
		shards[len(shards)-1] = append(shards[len(shards)-1], e)
		size += n
	}
	return shards
}

// quantiles holds bf16 values at equal steps of a normal distribution's probability: one look-up with a
// uniform index is one normal sample, at over a gigabyte a second and core. 4,096 steps reach 3.7 standard
// deviations, and the table fits the L1 cache.
type quantiles [4096]uint16

func newQuantiles(mean, deviation float64) *quantiles {
	var q quantiles
	for i := range q {
		p := (float64(i) + 0.5) / float64(len(q))
		value := mean + deviation*math.Sqrt2*math.Erfinv(2*p-1)
		q[i] = uint16((math.Float32bits(float32(value)) + 0x8000) >> 16) // nearest; ties do not matter here
	}
	return &q
}

// write writes n samples, little endian, that depend on the seed and the name only.
func (q *quantiles) write(w io.Writer, n int64, seed uint64, name string) error {
	hash := fnv.New64a()
	hash.Write([]byte(name))
	source := rand.NewPCG(seed, hash.Sum64())
	buffer := make([]byte, 1<<20)
	for bytes := 2 * n; bytes > 0; {
		for i := 0; i < len(buffer); i += 8 {
			r := source.Uint64()
			binary.LittleEndian.PutUint64(buffer[i:], uint64(q[r&0xfff])|uint64(q[r>>16&0xfff])<<16|
				uint64(q[r>>32&0xfff])<<32|uint64(q[r>>48&0xfff])<<48)
		}
		part := buffer[:min(int64(len(buffer)), bytes)]
		if _, err := w.Write(part); err != nil {
			return err
		}
		bytes -= int64(len(part))
	}
	return nil
}

// createSparse writes the header of a safetensors file and gives the file its length. Package safetensors
// writes whole files only, and rightly so.
func createSparse(path string, entries []safetensors.Entry) (err error) {
	type info struct {
		DType   safetensors.DType `json:"dtype"`
		Shape   []int64           `json:"shape"`
		Offsets [2]int64          `json:"data_offsets"`
	}
	tensors, offset := map[string]info{}, int64(0)
	for _, e := range entries {
		end := offset + 2*elements(e)
		tensors[e.Name] = info{e.DType, e.Shape, [2]int64{offset, end}}
		offset = end
	}
	header, err := json.Marshal(tensors)
	if err != nil {
		return err
	}
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(header)))); err != nil {
		return err
	}
	if _, err := f.Write(header); err != nil {
		return err
	}
	return f.Truncate(8 + int64(len(header)) + offset)
}
