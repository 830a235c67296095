package safetensors

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// openShards opens every shard that the index in dir names, and checks that index and shards name the same
// tensors in the same places: a folder that mixes two checkpoints must not pass for one.
func openShards(dir string) (*Checkpoint, error) {
	index := filepath.Join(dir, indexFile)
	shardOf, err := readIndex(index)
	if err != nil {
		return nil, err
	}
	files, err := openAll(dir, shardOf)
	if err != nil {
		return nil, err
	}
	c, err := newCheckpoint(files...)
	if err != nil {
		return nil, err
	}
	if err := c.checkIndex(index, shardOf); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func openAll(dir string, shardOf map[string]string) ([]*file, error) {
	shards := slices.Compact(slices.Sorted(maps.Values(shardOf)))
	var files []*file
	for i, shard := range shards {
		f, err := openFile(filepath.Join(dir, shard))
		if err == nil {
			files = append(files, f)
			continue
		}
		for _, open := range files {
			err = errors.Join(err, open.close())
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil, malformed(dir, "shard %s (%d of %d in %s) is missing", quote(shard), i+1, len(shards), indexFile)
		}
		return nil, err
	}
	return files, nil
}

func (c *Checkpoint) checkIndex(index string, shardOf map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(shardOf)) {
		t, ok := c.tensors[name]
		if !ok {
			return malformed(index, "tensor %s is not in its shard %s", quote(name), quote(shardOf[name]))
		}
		if found := filepath.Base(t.file.path); found != shardOf[name] {
			return malformed(index, "tensor %s is in shard %s, not in %s", quote(name), quote(found), quote(shardOf[name]))
		}
	}
	for _, name := range c.names {
		if _, ok := shardOf[name]; !ok {
			return malformed(index, "tensor %s of shard %s is not listed", quote(name), quote(filepath.Base(c.tensors[name].file.path)))
		}
	}
	return nil
}

// readIndex returns the index's weight_map: tensor name to shard file name.
func readIndex(path string) (map[string]string, error) {
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	dec, err := decoder(data)
	if err != nil {
		return nil, malformed(path, "%w", err)
	}
	shardOf := map[string]string{}
	err = members(dec, func(key string) error {
		if key != "weight_map" {
			var ignored json.RawMessage
			return dec.Decode(&ignored)
		}
		return members(dec, func(name string) error {
			shard, err := stringValue(dec)
			if err == nil {
				err = checkShardName(shard)
			}
			if err != nil {
				return fmt.Errorf("tensor %s: %w", quote(name), err)
			}
			shardOf[name] = shard
			return nil
		})
	})
	if err != nil {
		return nil, malformed(path, "%w", err)
	}
	if len(shardOf) == 0 {
		return nil, malformed(path, "weight_map is missing or empty")
	}
	return shardOf, nil
}

// checkShardName accepts plain file names alone: a path could lead out of the folder.
func checkShardName(name string) error {
	if !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) || !strings.HasSuffix(name, ".safetensors") {
		return fmt.Errorf("shard %s: want the plain name of a .safetensors file", quote(name))
	}
	return nil
}

// readSmall reads a regular file of at most maxHeader bytes.
func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("safetensors: %s: not a regular file (%s)", path, info.Mode().Type())
	}
	if info.Size() > maxHeader {
		return nil, malformed(path, "%d bytes; an index has at most %d", info.Size(), maxHeader)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	return data, nil
}
