package eval

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/qwenrt/qwenrt/runner"
)

// Tokenize gives the tokens of a text as llama-perplexity evaluates it: special tokens in the text are
// recognised, and a BOS token comes first where the tokenizer's configuration asks for one.
func Tokenize(r *runner.Runner, text string) ([]int32, error) {
	tok, err := r.Tokenizer()
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	tokens, err := tok.Encode(text)
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	bos, ok, err := bosToken(r)
	if err != nil {
		return nil, fmt.Errorf("eval: %w", err)
	}
	if ok {
		tokens = slices.Insert(tokens, 0, bos)
	}
	return tokens, nil
}

// maxTokenizerConfig is far above any tokenizer_config.json; Qwen3's has 10 kB.
const maxTokenizerConfig = 16 << 20

// bosToken is the token that begins each chunk; Qwen3 has none.
func bosToken(r *runner.Runner) (token int32, ok bool, err error) {
	path := filepath.Join(r.Info().Dir, "tokenizer_config.json")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	var config struct {
		Add bool    `json:"add_bos_token"`
		BOS content `json:"bos_token"`
	}
	if err := json.NewDecoder(io.LimitReader(f, maxTokenizerConfig)).Decode(&config); err != nil {
		return 0, false, fmt.Errorf("%s: %w", path, err)
	}
	if !config.Add {
		return 0, false, nil
	}
	tok, err := r.Tokenizer()
	if err != nil {
		return 0, false, err
	}
	id, known := tok.TokenID(string(config.BOS))
	if !known {
		return 0, false, fmt.Errorf("%s: add_bos_token is true, but the tokenizer has no token %q", path, string(config.BOS))
	}
	return int32(id), true, nil
}

// content is a token that JSON gives as a string, or as an object with its content.
type content string

func (c *content) UnmarshalJSON(b []byte) error {
	var whole struct{ Content string }
	if err := json.Unmarshal(b, &whole); err == nil {
		*c = content(whole.Content)
		return nil
	}
	return json.Unmarshal(b, (*string)(c))
}
