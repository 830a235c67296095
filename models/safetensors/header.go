package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"unicode/utf8"
)

const (
	lengthSize   = 8
	maxHeader    = 100_000_000 // bytes; the reference implementation's limit
	metadataName = "__metadata__"
)

// readHeader reads and checks the header of f, and returns its tensors in the order of their offsets.
func readHeader(f *file) ([]*Tensor, map[string]string, error) {
	header, err := headerBytes(f)
	if err != nil {
		return nil, nil, err
	}
	start := lengthSize + int64(len(header))
	h := headerParser{file: f, start: start, data: f.size - start}
	if err := h.parse(header); err != nil {
		return nil, nil, malformed(f.path, "%w", err)
	}
	if err := h.checkLayout(); err != nil {
		return nil, nil, malformed(f.path, "%w", err)
	}
	return h.tensors, h.metadata, nil
}

func headerBytes(f *file) ([]byte, error) {
	if f.size < lengthSize {
		return nil, malformed(f.path, "%d bytes is too short for a header", f.size)
	}
	var prefix [lengthSize]byte
	if _, err := f.reader.ReadAt(prefix[:], 0); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	if string(prefix[:]) == "version " {
		return nil, fmt.Errorf("safetensors: %s: a Git LFS pointer, not the weights; run git lfs pull in its folder", f.path)
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > maxHeader {
		return nil, malformed(f.path, "header of %d bytes is over the format's limit of %d", length, maxHeader)
	}
	if int64(length) > f.size-lengthSize {
		return nil, malformed(f.path, "header of %d bytes runs past the end of the file (%d bytes)", length, f.size)
	}
	header := make([]byte, length)
	if _, err := f.reader.ReadAt(header, lengthSize); err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	return header, nil
}

// headerParser collects what one header says.
type headerParser struct {
	file     *file
	start    int64 // where the data begins in the file
	data     int64 // how many bytes of data there are
	tensors  []*Tensor
	metadata map[string]string
}

func (h *headerParser) parse(header []byte) error {
	// The format fixes the first byte, so that a file is told apart from others by its start; padding
	// is allowed at the end only.
	if len(header) == 0 || header[0] != '{' {
		return fmt.Errorf("header does not begin with '{'")
	}
	dec, err := decoder(header)
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	return members(dec, func(name string) error {
		if name == metadataName {
			return h.parseMetadata(dec)
		}
		if err := h.parseTensor(dec, name); err != nil {
			return fmt.Errorf("tensor %s: %w", quote(name), err)
		}
		return nil
	})
}

func (h *headerParser) parseMetadata(dec *json.Decoder) error {
	h.metadata = map[string]string{}
	err := members(dec, func(key string) error {
		value, err := stringValue(dec)
		h.metadata[key] = value
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", metadataName, err)
	}
	return nil
}

func (h *headerParser) parseTensor(dec *json.Decoder, name string) error {
	t := &Tensor{Name: name, file: h.file}
	var offsets []int64
	seen := 0
	err := members(dec, func(key string) (err error) {
		seen++
		switch key {
		case "dtype":
			var dtype string
			dtype, err = stringValue(dec)
			t.DType = DType(dtype)
		case "shape":
			t.Shape, err = intArray(dec)
		case "data_offsets":
			offsets, err = intArray(dec)
		default:
			return fmt.Errorf("unknown key %s", quote(key))
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if seen != 3 { // keys are distinct and known, so three are all
		return fmt.Errorf("want dtype, shape and data_offsets")
	}
	if err := h.place(t, offsets); err != nil {
		return err
	}
	h.tensors = append(h.tensors, t)
	return nil
}

// place checks that the offsets lie inside the data and span exactly what dtype and shape need.
func (h *headerParser) place(t *Tensor, offsets []int64) error {
	if len(offsets) != 2 || offsets[0] > offsets[1] {
		return fmt.Errorf("data_offsets %v: want [begin, end] with begin <= end", offsets)
	}
	begin, end := offsets[0], offsets[1]
	if end > h.data {
		return fmt.Errorf("data_offsets [%d, %d] run past the end of the data (%d bytes)", begin, end, h.data)
	}
	size, err := byteSize(t.DType, t.Shape)
	if err != nil {
		return err
	}
	if size != end-begin {
		return fmt.Errorf("%s %v takes %d bytes, data_offsets [%d, %d] span %d", t.DType, t.Shape, size, begin, end, end-begin)
	}
	t.offset, t.size = h.start+begin, size
	return nil
}

// checkLayout sorts the tensors by place and checks that they cover the data without overlap or hole, as
// the format demands: bytes that nothing points to could carry anything.
func (h *headerParser) checkLayout() error {
	slices.SortFunc(h.tensors, func(a, b *Tensor) int {
		return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.size, b.size), cmp.Compare(a.Name, b.Name))
	})
	next := h.start
	for i, t := range h.tensors {
		if t.offset < next {
			return fmt.Errorf("tensors %s and %s overlap", quote(h.tensors[i-1].Name), quote(t.Name))
		}
		if t.offset > next {
			return fmt.Errorf("%d bytes before tensor %s belong to no tensor", t.offset-next, quote(t.Name))
		}
		next += t.size
	}
	if rest := h.start + h.data - next; rest > 0 {
		return fmt.Errorf("%d bytes after the last tensor belong to no tensor", rest)
	}
	return nil
}

// byteSize returns the bytes that a tensor takes.
func byteSize(dtype DType, shape []int64) (int64, error) {
	width := dtype.Bits()
	if width == 0 {
		return 0, fmt.Errorf("unknown dtype %s", quote(string(dtype)))
	}
	total := uint64(width)
	for _, dim := range shape {
		if dim < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		high, low := bits.Mul64(total, uint64(dim))
		if high != 0 {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		total = low
	}
	if total%8 != 0 {
		return 0, fmt.Errorf("%s %v does not fill whole bytes", dtype, shape)
	}
	return int64(total / 8), nil // at most 2^61
}

// decoder returns a token decoder over data, once data is known to be one well-formed JSON value.
func decoder(data []byte) (*json.Decoder, error) {
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("not UTF-8")
	}
	if !json.Valid(data) {
		return nil, fmt.Errorf("not valid JSON")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	return dec, nil
}

// members hands each key of a JSON object to value, which must consume the key's value. A repeated key is
// an error: encoding/json would keep the last and other readers the first.
func members(dec *json.Decoder, value func(key string) error) error {
	if tok, err := dec.Token(); err != nil || tok != json.Delim('{') {
		return fmt.Errorf("want a JSON object")
	}
	seen := map[string]struct{}{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		key := tok.(string) // the JSON is valid: a member starts with a string
		if _, ok := seen[key]; ok {
			return fmt.Errorf("key %s appears twice", quote(key))
		}
		seen[key] = struct{}{}
		if err := value(key); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

func stringValue(dec *json.Decoder) (string, error) {
	tok, err := dec.Token()
	if err != nil {
		return "", err
	}
	s, ok := tok.(string)
	if !ok {
		return "", fmt.Errorf("want a string")
	}
	return s, nil
}

// intArray reads an array of integers from 0 to 2^63-1 in plain decimal notation.
func intArray(dec *json.Decoder) ([]int64, error) {
	if tok, err := dec.Token(); err != nil || tok != json.Delim('[') {
		return nil, fmt.Errorf("want an array of integers")
	}
	ints := []int64{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, err
		}
		number, ok := tok.(json.Number)
		if !ok {
			return nil, fmt.Errorf("want an array of integers")
		}
		n, err := strconv.ParseUint(number.String(), 10, 64)
		if err != nil || n > math.MaxInt64 {
			return nil, fmt.Errorf("%s is not an integer from 0 to 2^63-1", clip(number.String()))
		}
		ints = append(ints, int64(n))
	}
	_, err := dec.Token()
	return ints, err
}

// malformed reports a file that contradicts the format.
func malformed(path, format string, args ...any) error {
	return fmt.Errorf("safetensors: %s: %w: %w", path, fmt.Errorf(format, args...), ErrFormat)
}

// quote and clip keep what a stranger chose to one short line.
func quote(s string) string { return strconv.Quote(clip(s)) }

func clip(s string) string {
	const limit = 120
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}
