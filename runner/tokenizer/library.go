package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/daulet/tokenizers"
)

// library is the tokenizers library's reading of a tokenizer.json, made when it is first needed: for Qwen3 it takes half a
// second of a CPU, and 100 MB.
type library struct {
	text    string            // of the file
	entries map[string]string // top-level entries that are replaced

	once sync.Once
	lib  *tokenizers.Tokenizer
	err  error
}

func (l *library) open() (*tokenizers.Tokenizer, error) {
	l.once.Do(func() {
		data := []byte(l.text)
		if len(l.entries) > 0 {
			if data, l.err = edit(data, l.entries); l.err != nil {
				return
			}
		}
		if l.lib, l.err = tokenizers.FromBytes(data); l.err != nil {
			l.err = fmt.Errorf("the tokenizers library refuses it: %w", l.err)
		}
	})
	return l.lib, l.err
}

// close ends the library's part. Nobody uses it any more, nor opens it.
func (l *library) close() error {
	l.once.Do(func() { l.err = errors.New("closed") })
	if l.lib == nil {
		return nil
	}
	return l.lib.Close()
}

// edit returns the file's text with top-level entries replaced.
func edit(data []byte, entries map[string]string) ([]byte, error) {
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	for name, value := range entries {
		file[name] = json.RawMessage(value)
	}
	return json.Marshal(file)
}
