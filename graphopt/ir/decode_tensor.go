package ir

import (
	"bytes"
	"encoding/binary"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// tensorProto is a TensorProto as it stands in the file: the data may come in four ways.
type tensorProto struct {
	Tensor
	name           string
	raw            []byte
	hasRaw         bool
	typed          []field // float_data, int32_data, ...
	external       bool
	location       string
	offset, length int64 // of external data; -1 where the length is not given
}

// tensor reads a TensorProto and finds its data, which stays where it is if it can.
func (d *decoder) tensor(b []byte) (string, *Tensor, error) {
	p := tensorProto{length: -1}
	p.Shape = []int64{}
	err := fields(b, "tensor", func(f field) error { return d.tensorField(&p, f) })
	if err == nil {
		err = d.tensorData(&p)
	}
	if err != nil {
		return "", nil, errorf("tensor %q: %w", p.name, err)
	}
	return p.name, &p.Tensor, nil
}

func (d *decoder) tensorField(p *tensorProto, f field) (err error) {
	switch f.num {
	case tensorDims:
		return numbers(f, protowire.VarintType, func(u uint64) error {
			if int64(u) < 0 {
				return malformed("dimension %d", int64(u))
			}
			if p.Shape = append(p.Shape, int64(u)); len(p.Shape) > maxRank {
				return malformed("more than %d dimensions", maxRank)
			}
			return nil
		})
	case tensorDType:
		p.DType, err = decodeDType(f.u)
		return err
	case tensorSegment:
		return errorf("segmented tensors are not supported: store them whole")
	case tensorFloatData, tensorInt32Data, tensorInt64Data, tensorDoubleData, tensorUint64Data:
		p.typed = append(p.typed, f)
		return d.count(1)
	case tensorStringData:
		p.Strings = append(p.Strings, bytes.Clone(f.b))
		return d.count(1)
	case tensorName:
		return text(f, &p.name)
	case tensorRawData:
		p.raw, p.hasRaw = f.b, true
	case tensorExternalData:
		return d.externalData(p, f)
	case tensorDataLocation:
		if f.u > 1 {
			return malformed("data location %d", f.u)
		}
		p.external = f.u == 1
	}
	return nil
}

func (d *decoder) externalData(p *tensorProto, f field) error {
	kv, err := decodeProperty(f.b)
	if err != nil {
		return err
	}
	switch kv.Key {
	case "location":
		err = text(field{b: []byte(kv.Value)}, &p.location)
	case "offset":
		p.offset, err = decodeOffset(kv)
	case "length":
		p.length, err = decodeOffset(kv)
	}
	if err != nil {
		return err
	}
	return d.count(1)
}

func decodeOffset(kv Property) (int64, error) {
	n, err := strconv.ParseInt(kv.Value, 10, 64)
	if err != nil || n < 0 {
		return 0, malformed("external data %s %.32q", kv.Key, kv.Value)
	}
	return n, nil
}

// tensorData turns whichever data p has into bytes and checks their number.
func (d *decoder) tensorData(p *tensorProto) (err error) {
	ways := 0
	for _, given := range []bool{p.external, p.hasRaw, len(p.typed) > 0, len(p.Strings) > 0} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return malformed("it has data in %d ways", ways)
	case p.DType == String && ways == 1 && len(p.Strings) == 0:
		return malformed("its strings are not in string_data")
	case p.DType != String:
		if p.Data, err = d.bytes(p); err != nil {
			return err
		}
	}
	if err := p.check(); err != nil {
		return malformed("%w", err)
	}
	return nil
}

func (d *decoder) bytes(p *tensorProto) (*Buffer, error) {
	want, err := ByteSize(p.DType, p.Shape)
	if err != nil {
		return nil, malformed("%w", err)
	}
	data := p.raw
	switch {
	case p.external:
		if p.length != -1 && p.length != want {
			return nil, malformed("%v%v takes %d bytes, its external data has %d", p.DType, p.Shape, want, p.length)
		}
		data, err = d.ext.slice(p.location, fileRange{p.offset, want, p.name})
	case len(p.typed) > 0:
		data, err = typedData(p.DType, p.typed, want)
	}
	if err != nil {
		return nil, err
	}
	return d.view(data), nil
}

type viewKey struct {
	first *byte
	n     int
}

// view gives equal ranges of a file the same Data.
func (d *decoder) view(b []byte) *Buffer {
	if len(b) == 0 {
		return NewBuffer(b)
	}
	key := viewKey{&b[0], len(b)}
	v := d.views[key]
	if v == nil {
		v = NewBuffer(b)
		d.views[key] = v
	}
	return v
}

// typedField is the field of TensorProto that holds elements of a type, if they are not raw, the
// wire type of its numbers, and how many bytes of raw data one number stands for.
func typedField(d DType) (num protowire.Number, typ protowire.Type, size int) {
	switch d {
	case Float32, Complex64:
		return tensorFloatData, protowire.Fixed32Type, 4
	case Float64, Complex128:
		return tensorDoubleData, protowire.Fixed64Type, 8
	case Int64:
		return tensorInt64Data, protowire.VarintType, 8
	case Uint32, Uint64:
		return tensorUint64Data, protowire.VarintType, d.Bits() / 8
	}
	return tensorInt32Data, protowire.VarintType, max(d.Bits()/8, 1) // below a byte they come packed
}

// typedData turns the typed fields of a TensorProto into the want raw bytes that they stand for.
func typedData(d DType, typed []field, want int64) ([]byte, error) {
	num, typ, size := typedField(d)
	var held int64 // numbers in the file: each takes at least a byte
	for _, f := range typed {
		if f.num != num {
			return nil, malformed("%v data in field %d", d, f.num)
		}
		held += int64(max(len(f.b), 1))
	}
	if want > held*int64(size) {
		return nil, malformed("%d bytes are asked for, the file holds fewer", want)
	}
	if len(typed) == 1 && typed[0].typ == protowire.BytesType && typ != protowire.VarintType {
		return typed[0].b, nil // packed floats are raw data
	}
	out := make([]byte, 0, want)
	for _, f := range typed {
		err := numbers(f, typ, func(u uint64) error {
			if int64(len(out)+size) > want {
				return malformed("it has more data than its shape asks for")
			}
			var word [8]byte
			binary.LittleEndian.PutUint64(word[:], u)
			out = append(out, word[:size]...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
