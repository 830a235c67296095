package calib

import (
	"bufio"
	"bytes"
	_ "embed" // the built-in text
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"unicode/utf8"
)

// ErrNoData is reported for calibration text that is not enough for one sample.
var ErrNoData = errors.New("too little calibration text")

// Defaults of Sampling.
const (
	DefaultSamples = 128
	DefaultLength  = 512
)

//go:embed text/calibration.txt
var builtIn string

// BuiltIn is the calibration text that comes with the package: 180 KB of technical and plain English. Its
// licences are in text/README.md.
func BuiltIn() []Document { return []Document{{Text: builtIn}} }

// Document is a text to calibrate on, or a conversation, which a model's chat template makes into one.
type Document struct {
	Text     string
	Messages []json.RawMessage // objects with role and content
}

// maxLine bounds a line of a file, which comes from strangers.
const maxLine = 64 << 20

// ReadDocuments reads a file of plain text, or one with a JSON object in each line: {"text": "..."} or
// {"messages": [{"role": "user", "content": "..."}, ...]}. A file is of the second kind if its first line
// is such an object.
func ReadDocuments(path string) ([]Document, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("calib: %w", err)
	}
	docs, err := parseDocuments(b)
	if err != nil {
		return nil, fmt.Errorf("calib: %s: %w", path, err)
	}
	return docs, nil
}

func parseDocuments(b []byte) ([]Document, error) {
	b = bytes.TrimPrefix(b, []byte("\ufeff"))
	if len(bytes.TrimSpace(b)) == 0 {
		return nil, fmt.Errorf("%w: the file is empty", ErrNoData)
	}
	first, _, _ := bytes.Cut(bytes.TrimLeft(b, " \t\r\n"), []byte("\n"))
	if _, err := parseDocument(first); err != nil && !json.Valid(first) {
		if !utf8.Valid(b) {
			return nil, errors.New("neither text in UTF-8 nor lines of JSON")
		}
		return []Document{{Text: string(b)}}, nil
	}
	var docs []Document
	lines := bufio.NewScanner(bytes.NewReader(b))
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		d, err := parseDocument(lines.Bytes())
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		docs = append(docs, d)
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return docs, nil
}

// parseDocument reads a line.
func parseDocument(line []byte) (Document, error) {
	var d struct {
		Text     *string           `json:"text"`
		Messages []json.RawMessage `json:"messages"`
	}
	if err := json.Unmarshal(line, &d); err != nil {
		return Document{}, fmt.Errorf("not a JSON object with text or messages: %w", err)
	}
	switch {
	case d.Text != nil && d.Messages != nil:
		return Document{}, errors.New("it has both text and messages")
	case d.Text != nil:
		return Document{Text: strings.ToValidUTF8(*d.Text, "\ufffd")}, nil
	case len(d.Messages) > 0:
		return Document{Messages: d.Messages}, nil
	}
	return Document{}, errors.New("it has neither text nor messages")
}

// Sampling says which samples are taken from calibration text.
type Sampling struct {
	Samples int    // how many; default DefaultSamples
	Length  int    // of a sample in tokens; default DefaultLength
	Seed    uint64 // of the places where samples begin
}

// complete fills in the defaults.
func (s Sampling) complete() (Sampling, error) {
	if s.Samples == 0 {
		s.Samples = DefaultSamples
	}
	if s.Length == 0 {
		s.Length = DefaultLength
	}
	if s.Samples < 0 || s.Length < 0 {
		return s, fmt.Errorf("calib: %d samples of %d tokens: both must be above 0", s.Samples, s.Length)
	}
	return s, nil
}

// Take cuts samples out of the tokens of all documents, one behind the other. They are spread evenly over
// the text, each at a random place in its share; where the text is short they overlap, and where it has
// fewer places than there are to be samples, each place gives one.
func (s Sampling) Take(tokens []int32) ([][]int64, error) {
	s, err := s.complete()
	if err != nil {
		return nil, err
	}
	places := len(tokens) - s.Length + 1
	if places < 1 {
		return nil, fmt.Errorf("calib: %w: %d tokens are less than one sample of %d; give more text or a shorter sample length",
			ErrNoData, len(tokens), s.Length)
	}
	count := min(s.Samples, places)
	random := rand.New(rand.NewPCG(s.Seed, 0))
	samples := make([][]int64, count)
	for i := range samples {
		lo, hi := i*places/count, (i+1)*places/count
		at := lo + random.IntN(hi-lo)
		samples[i] = make([]int64, s.Length)
		for j, id := range tokens[at : at+s.Length] {
			samples[i][j] = int64(id)
		}
	}
	return samples, nil
}
