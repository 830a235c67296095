package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/qwenrt/qwenrt/internal/atomicfile"
)

// Entry describes a tensor to write.
type Entry struct {
	Name  string
	DType DType
	Shape []int64
}

// Create writes a safetensors file at path with the given tensors in the given order, and
// {"format": "pt"} as its metadata, without which transformers refuses a file. fill is called for each
// tensor in turn and must write exactly its bytes. Nothing is held in memory but the header and one
// buffer. The file appears under its name once it is complete, in place of one that was there; after an
// error nothing is left behind.
//
// The data starts at a multiple of 8 bytes; tensors follow each other without padding, so put wide dtypes
// first to keep every element aligned.
func Create(path string, entries []Entry, fill func(name string, w io.Writer) error) error {
	header, err := encodeHeader(entries)
	if err != nil {
		return fmt.Errorf("safetensors: create %s: %w", path, err)
	}
	err = atomicfile.Write(path, 0o666, func(w io.Writer) error { return writeAll(w, header, entries, fill) })
	if err != nil {
		return fmt.Errorf("safetensors: create %s: %w", path, err)
	}
	return nil
}

func writeAll(f io.Writer, header []byte, entries []Entry, fill func(string, io.Writer) error) error {
	buffer := bufio.NewWriterSize(f, 1<<20)
	if _, err := buffer.Write(header); err != nil {
		return err
	}
	for _, e := range entries {
		size, _ := byteSize(e.DType, e.Shape) // encodeHeader has checked it
		w := exactWriter{w: buffer, left: size}
		if err := fill(e.Name, &w); err != nil {
			return fmt.Errorf("tensor %s: %w", quote(e.Name), err)
		}
		if w.left != 0 {
			return fmt.Errorf("tensor %s: %d of %d bytes were not written", quote(e.Name), w.left, size)
		}
	}
	return buffer.Flush()
}

// encodeHeader returns the length and the header, padded with spaces.
func encodeHeader(entries []Entry) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, lengthSize))
	b.WriteString(`{"` + metadataName + `":{"format":"pt"}`)
	seen := map[string]bool{metadataName: true}
	var offset int64
	for _, e := range entries {
		if seen[e.Name] {
			return nil, fmt.Errorf("tensor %s: the name is taken", quote(e.Name))
		}
		seen[e.Name] = true
		size, err := byteSize(e.DType, e.Shape)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", quote(e.Name), err)
		}
		if size > math.MaxInt64-offset {
			return nil, fmt.Errorf("tensor %s: the file would exceed 2^63 bytes", quote(e.Name))
		}
		member, err := encodeMember(e, offset, offset+size)
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", quote(e.Name), err)
		}
		b.Write(member)
		offset += size
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	header := b.Bytes()
	if len(header)-lengthSize > maxHeader {
		return nil, fmt.Errorf("header of %d bytes is over the format's limit of %d", len(header)-lengthSize, maxHeader)
	}
	binary.LittleEndian.PutUint64(header, uint64(len(header)-lengthSize))
	return header, nil
}

func encodeMember(e Entry, begin, end int64) ([]byte, error) {
	name, err := json.Marshal(e.Name)
	if err != nil {
		return nil, err
	}
	shape := e.Shape
	if shape == nil {
		shape = []int64{} // a scalar: [], not null
	}
	info, err := json.Marshal(struct {
		DType   DType    `json:"dtype"`
		Shape   []int64  `json:"shape"`
		Offsets [2]int64 `json:"data_offsets"`
	}{e.DType, shape, [2]int64{begin, end}})
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, ",%s:%s", name, info), nil
}

// exactWriter refuses more bytes than a tensor has, before they spoil the next one.
type exactWriter struct {
	w    io.Writer
	left int64
}

func (e *exactWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		return 0, fmt.Errorf("%d bytes too many", int64(len(p))-e.left)
	}
	n, err := e.w.Write(p)
	e.left -= int64(n)
	return n, err
}
