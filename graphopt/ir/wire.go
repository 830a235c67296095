package ir

import (
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is one field of a protobuf message. Its bytes are those of the file, not copies.
type field struct {
	num protowire.Number
	typ protowire.Type
	b   []byte // of a length-delimited field
	u   uint64 // of a scalar one
	raw []byte // tag and content
}

// fields calls fn for each field of message b.
func fields(b []byte, what string, fn func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed("%s: not a protobuf field: not an ONNX file, or a damaged one", what)
		}
		f := field{num: num, typ: typ}
		var m int
		switch typ {
		case protowire.VarintType:
			f.u, m = protowire.ConsumeVarint(b[n:])
		case protowire.Fixed32Type:
			var v uint32
			v, m = protowire.ConsumeFixed32(b[n:])
			f.u = uint64(v)
		case protowire.Fixed64Type:
			f.u, m = protowire.ConsumeFixed64(b[n:])
		case protowire.BytesType:
			f.b, m = protowire.ConsumeBytes(b[n:])
		default:
			m = protowire.ConsumeFieldValue(num, typ, b[n:])
		}
		if m < 0 {
			return malformed("%s: field %d is cut off or damaged: download the file again", what, num)
		}
		f.raw = b[: n+m : n+m]
		b = b[n+m:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// numbers calls fn for the numbers of a repeated field, which may be packed or stand alone.
func numbers(f field, typ protowire.Type, fn func(uint64) error) error {
	if f.typ != protowire.BytesType {
		return fn(f.u)
	}
	for b := f.b; len(b) > 0; {
		var u uint64
		var n int
		switch typ {
		case protowire.Fixed32Type:
			var v uint32
			v, n = protowire.ConsumeFixed32(b)
			u = uint64(v)
		case protowire.Fixed64Type:
			u, n = protowire.ConsumeFixed64(b)
		default:
			u, n = protowire.ConsumeVarint(b)
		}
		if n < 0 {
			return malformed("a list of numbers is cut off")
		}
		if err := fn(u); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// text reads a name. Names stand in messages, so they must be fit for a terminal.
func text(f field, to *string) error {
	if len(f.b) > maxName {
		return malformed("a name of %d bytes", len(f.b))
	}
	for b := f.b; len(b) > 0; {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) {
			return malformed("the name %.80q is not printable", f.b)
		}
		b = b[n:]
	}
	*to = string(f.b)
	return nil
}

// message appends protobuf fields. They are written in one fixed order, so that equal models give
// equal bytes.
type message []byte

func (m *message) varint(num protowire.Number, v uint64) {
	*m = protowire.AppendVarint(protowire.AppendTag(*m, num, protowire.VarintType), v)
}

func (m *message) fixed32(num protowire.Number, v uint32) {
	*m = protowire.AppendFixed32(protowire.AppendTag(*m, num, protowire.Fixed32Type), v)
}

func (m *message) bytes(num protowire.Number, v []byte) {
	*m = protowire.AppendBytes(protowire.AppendTag(*m, num, protowire.BytesType), v)
}

func (m *message) str(num protowire.Number, v string) {
	*m = protowire.AppendString(protowire.AppendTag(*m, num, protowire.BytesType), v)
}

func (m *message) strIf(num protowire.Number, v string) {
	if v != "" {
		m.str(num, v)
	}
}

func (m *message) property(num protowire.Number, key, value string) {
	var p message
	p.str(propertyKey, key)
	p.str(propertyValue, value)
	m.bytes(num, p)
}
