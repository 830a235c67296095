package ir

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// place is where the data of an initializer goes: inline, or a range of the external file.
type place struct {
	external    bool
	off, length int64
}

type encoder struct {
	dataFile string
	places   map[*Tensor]place
	err      error
}

// buf appends protobuf fields in ascending order, so that equal models give equal bytes.
type buf []byte

func (b *buf) varint(num protowire.Number, v uint64) {
	*b = protowire.AppendVarint(protowire.AppendTag(*b, num, protowire.VarintType), v)
}

func (b *buf) bytes(num protowire.Number, v []byte) {
	*b = protowire.AppendBytes(protowire.AppendTag(*b, num, protowire.BytesType), v)
}

func (b *buf) str(num protowire.Number, v string) {
	*b = protowire.AppendString(protowire.AppendTag(*b, num, protowire.BytesType), v)
}

func (b *buf) strIf(num protowire.Number, v string) {
	if v != "" {
		b.str(num, v)
	}
}

func (b *buf) property(num protowire.Number, key, value string) {
	var p buf
	p.str(1, key)
	p.str(2, value)
	b.bytes(num, p)
}

// Encode is the model as bytes with all data inside. It suits small models; see Save.
func Encode(m *Model) ([]byte, error) {
	e := &encoder{}
	b := e.model(m)
	return b, e.err
}

func (e *encoder) model(m *Model) []byte {
	var b buf
	b.varint(1, uint64(m.IRVersion))
	b.strIf(2, m.ProducerName)
	b.strIf(3, m.ProducerVersion)
	b.strIf(4, m.Domain)
	if m.ModelVersion != 0 {
		b.varint(5, uint64(m.ModelVersion))
	}
	b.strIf(6, m.Doc)
	b.bytes(7, e.graph(m.Graph))
	for _, o := range m.Opsets {
		var p buf
		p.str(1, o.Domain)
		p.varint(2, uint64(o.Version))
		b.bytes(8, p)
	}
	for _, p := range m.Metadata {
		b.property(14, p.Key, p.Value)
	}
	for _, f := range m.Functions {
		b.bytes(25, f.raw)
	}
	return b
}

func (e *encoder) graph(g *Graph) []byte {
	var b buf
	for _, n := range g.nodes {
		b.bytes(1, e.node(n))
	}
	b.str(2, g.Name)
	for _, v := range g.initializers {
		b.bytes(5, e.tensor(v.Name, v.Const))
	}
	b = append(b, g.raw...)
	for _, v := range g.inputs {
		b.bytes(11, valueInfo(v))
	}
	for _, v := range g.outputs {
		b.bytes(12, valueInfo(v))
	}
	for _, n := range g.nodes {
		for _, o := range n.outputs {
			if o != nil && o.outs == 0 && o.Type != nil {
				b.bytes(13, valueInfo(o))
			}
		}
	}
	return b
}

func (e *encoder) node(n *Node) []byte {
	var b buf
	last := len(n.inputs) // operands left out at the end are not written
	for last > 0 && n.inputs[last-1] == nil {
		last--
	}
	for _, v := range n.inputs[:last] {
		b.str(1, valueName(v))
	}
	last = len(n.outputs)
	for last > 0 && n.outputs[last-1] == nil {
		last--
	}
	for _, v := range n.outputs[:last] {
		b.str(2, valueName(v))
	}
	b.strIf(3, n.Name)
	b.str(4, n.OpType)
	for _, a := range n.Attrs {
		b.bytes(5, e.attribute(a))
	}
	b.strIf(7, n.Domain)
	return append(b, n.raw...)
}

func valueName(v *Value) string {
	if v == nil {
		return ""
	}
	return v.Name
}

func (e *encoder) attribute(a *Attr) []byte {
	var b buf
	b.str(1, a.Name)
	switch a.Type {
	case AttrFloat:
		b = protowire.AppendFixed32(protowire.AppendTag(b, 2, protowire.Fixed32Type), math.Float32bits(a.F))
	case AttrInt:
		b.varint(3, uint64(a.I))
	case AttrString:
		b.bytes(4, a.S)
	}
	if a.T != nil {
		b.bytes(5, e.tensor("", a.T))
	}
	if a.G != nil {
		b.bytes(6, e.graph(a.G))
	}
	if len(a.Floats) > 0 {
		var p []byte
		for _, f := range a.Floats {
			p = protowire.AppendFixed32(p, math.Float32bits(f))
		}
		b.bytes(7, p)
	}
	if len(a.Ints) > 0 {
		var p []byte
		for _, i := range a.Ints {
			p = protowire.AppendVarint(p, uint64(i))
		}
		b.bytes(8, p)
	}
	for _, s := range a.Strings {
		b.bytes(9, s)
	}
	for _, t := range a.Tensors {
		b.bytes(10, e.tensor("", t))
	}
	for _, g := range a.Graphs {
		b.bytes(11, e.graph(g))
	}
	if a.Type != 0 {
		b.varint(20, uint64(a.Type))
	}
	return append(b, a.raw...)
}

func (e *encoder) tensor(name string, t *Tensor) []byte {
	var b buf
	if len(t.Shape) > 0 {
		var p []byte
		for _, d := range t.Shape {
			p = protowire.AppendVarint(p, uint64(d))
		}
		b.bytes(1, p)
	}
	b.varint(2, uint64(t.DType))
	if t.DType == String {
		for _, s := range t.Strings {
			b.bytes(6, s)
		}
		b.strIf(8, name)
		return b
	}
	b.strIf(8, name)
	if at := e.places[t]; at.external {
		b.property(13, "location", e.dataFile)
		b.property(13, "offset", strconv.FormatInt(at.off, 10))
		b.property(13, "length", strconv.FormatInt(at.length, 10))
		b.varint(14, 1)
		return b
	}
	data, err := t.Bytes()
	if err != nil && e.err == nil {
		e.err = err
	}
	b.bytes(9, data)
	return b
}

func valueInfo(v *Value) []byte {
	var b buf
	b.str(1, v.Name)
	if v.Type != nil {
		b.bytes(2, typeProto(v.Type))
	}
	return b
}

func typeProto(t *Type) []byte {
	var b buf
	if t.DType != Undefined || t.HasShape() {
		var p buf
		if t.DType != Undefined {
			p.varint(1, uint64(t.DType))
		}
		if t.HasShape() {
			var s buf
			for _, d := range t.Shape {
				var dim buf
				switch {
				case d.Size >= 0:
					dim.varint(1, uint64(d.Size))
				case d.Param != "":
					dim.str(2, d.Param)
				}
				s.bytes(1, dim)
			}
			p.bytes(2, s)
		}
		b.bytes(1, p)
	}
	return append(b, t.raw...)
}
