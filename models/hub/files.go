package hub

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// plainName is a file at the top of a repository. Names in folders, hidden files and anything that a path
// could be made of are of no use to us.
var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)

// supportFiles are the files beside the weights that qwenrt reads or copies along.
var supportFiles = []string{
	"config.json", "generation_config.json",
	"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
	"chat_template.jinja",
	"LICENSE", "LICENSE.md", "LICENSE.txt",
}

// selectFiles picks what to download from a repository's listing, sorted: the supporting files, and
// model.safetensors or else the index with all shards.
func selectFiles(listing []string) ([]string, error) {
	listing = slices.DeleteFunc(slices.Clone(listing), func(name string) bool {
		return !plainName.MatchString(name) || !filepath.IsLocal(name)
	})
	has := func(name string) bool { return slices.Contains(listing, name) }
	single, sharded := has(weightsName), has(indexName)
	for _, name := range []string{"config.json", "tokenizer.json"} {
		if !has(name) {
			return nil, fmt.Errorf("%w: the repository has no %s", ErrNoCheckpoint, name)
		}
	}
	if !single && !sharded {
		return nil, fmt.Errorf("%w: the repository has neither %s nor %s; choose one with safetensors weights",
			ErrNoCheckpoint, weightsName, indexName)
	}
	wanted := func(name string) bool {
		switch {
		case slices.Contains(supportFiles, name):
			return true
		case single:
			return name == weightsName
		}
		return name == indexName || strings.HasSuffix(name, ".safetensors")
	}
	selected := slices.DeleteFunc(listing, func(name string) bool { return !wanted(name) })
	slices.Sort(selected)
	return slices.Compact(selected), nil
}
