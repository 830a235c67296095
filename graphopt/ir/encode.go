package ir

import (
	"math"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// encoder writes a model; places says which tensors lie in the data file.
type encoder struct {
	dataFile string
	places   map[*Tensor]place
}

// place is a range of the data file.
type place struct{ off, length int64 }

// Encode is the model as bytes with all data inside. It suits small models; see Save. Like Save it
// validates the model, which sorts the nodes.
func Encode(m *Model) ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return (&encoder{}).model(m)
}

func (e *encoder) model(m *Model) ([]byte, error) {
	var b message
	b.varint(modelIRVersion, uint64(m.IRVersion))
	b.strIf(modelProducerName, m.ProducerName)
	b.strIf(modelProducerVersion, m.ProducerVersion)
	b.strIf(modelDomain, m.Domain)
	if m.ModelVersion != 0 {
		b.varint(modelVersion, uint64(m.ModelVersion))
	}
	b.strIf(modelDoc, m.Doc)
	graph, err := e.graph(m.Graph)
	if err != nil {
		return nil, err
	}
	b.bytes(modelGraph, graph)
	for _, o := range m.Opsets {
		var p message
		p.str(opsetDomain, o.Domain)
		p.varint(opsetVersion, uint64(o.Version))
		b.bytes(modelOpset, p)
	}
	for _, p := range m.Metadata {
		b.property(modelMetadata, p.Key, p.Value)
	}
	for _, f := range m.Functions {
		b.bytes(modelFunction, f.raw)
	}
	if b = append(b, m.raw...); int64(len(b)) >= maxProto {
		return nil, errorf("the graph takes %d bytes, more than protobuf's 2 GiB: keep more of it in the data file", len(b))
	}
	return b, nil
}

func (e *encoder) graph(g *Graph) ([]byte, error) {
	var b message
	for _, n := range g.live() {
		node, err := e.node(n)
		if err != nil {
			return nil, err
		}
		b.bytes(graphNode, node)
	}
	b.str(graphName, g.Name)
	for _, v := range g.initializers {
		t, err := e.tensor(v.Name, v.Const)
		if err != nil {
			return nil, errorf("initializer %q: %w", v.Name, err)
		}
		b.bytes(graphInitializer, t)
	}
	for _, v := range g.inputs {
		b.bytes(graphInput, encodeValueInfo(v))
	}
	for _, v := range g.outputs {
		b.bytes(graphOutput, encodeValueInfo(v))
	}
	for _, n := range g.live() {
		for _, o := range n.outputs {
			if o != nil && o.outs == 0 && (o.Type != nil || o.raw != nil) {
				b.bytes(graphValueInfo, encodeValueInfo(o))
			}
		}
	}
	return append(b, g.raw...), nil
}

func (e *encoder) node(n *Node) ([]byte, error) {
	var b message
	for _, v := range trim(n.inputs) {
		b.str(nodeInput, v.name())
	}
	for _, v := range trim(n.outputs) {
		b.str(nodeOutput, v.name())
	}
	b.strIf(nodeName, n.Name)
	b.str(nodeOpType, n.OpType)
	for _, a := range n.Attrs {
		attr, err := e.attribute(a)
		if err != nil {
			return nil, errorf("%v: attribute %q: %w", n, a.Name, err)
		}
		b.bytes(nodeAttribute, attr)
	}
	b.strIf(nodeDomain, n.Domain)
	return append(b, n.raw...), nil
}

// trim cuts what is left out at the end of a list of operands.
func trim(vs []*Value) []*Value {
	for len(vs) > 0 && vs[len(vs)-1] == nil {
		vs = vs[:len(vs)-1]
	}
	return vs
}

// name is empty for an operand that is left out.
func (v *Value) name() string {
	if v == nil {
		return ""
	}
	return v.Name
}

func (e *encoder) attribute(a *Attr) ([]byte, error) {
	var b message
	b.str(attrName, a.Name)
	switch a.Type {
	case AttrFloat:
		b.fixed32(attrF, math.Float32bits(a.F))
	case AttrInt:
		b.varint(attrI, uint64(a.I))
	case AttrString:
		b.bytes(attrS, a.S)
	case AttrFloats:
		var p []byte
		for _, f := range a.Floats {
			p = protowire.AppendFixed32(p, math.Float32bits(f))
		}
		b.bytes(attrFloats, p)
	case AttrInts:
		b.bytes(attrInts, varints(a.Ints))
	case AttrStrings:
		for _, s := range a.Strings {
			b.bytes(attrStrings, s)
		}
	}
	for _, t := range a.tensors() {
		p, err := e.tensor("", t)
		if err != nil {
			return nil, err
		}
		b.bytes(either(a.Type == AttrTensor, attrT, attrTensors), p)
	}
	for _, g := range a.graphs() {
		p, err := e.graph(g)
		if err != nil {
			return nil, err
		}
		b.bytes(either(a.Type == AttrGraph, attrG, attrGraphs), p)
	}
	b.varint(attrType, uint64(a.Type))
	return append(b, a.raw...), nil
}

func either(one bool, single, list protowire.Number) protowire.Number {
	if one {
		return single
	}
	return list
}

func varints(v []int64) []byte {
	var p []byte
	for _, i := range v {
		p = protowire.AppendVarint(p, uint64(i))
	}
	return p
}

func (e *encoder) tensor(name string, t *Tensor) ([]byte, error) {
	var b message
	if len(t.Shape) > 0 {
		b.bytes(tensorDims, varints(t.Shape))
	}
	b.varint(tensorDType, uint64(t.DType))
	for _, s := range t.Strings {
		b.bytes(tensorStringData, s)
	}
	b.strIf(tensorName, name)
	if t.DType == String {
		return b, nil
	}
	if at, ok := e.places[t]; ok {
		b.property(tensorExternalData, "location", e.dataFile)
		b.property(tensorExternalData, "offset", strconv.FormatInt(at.off, 10))
		b.property(tensorExternalData, "length", strconv.FormatInt(at.length, 10))
		b.varint(tensorDataLocation, 1)
		return b, nil
	}
	data, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	b.bytes(tensorRawData, data)
	return b, nil
}

func encodeValueInfo(v *Value) []byte {
	var b message
	b.str(infoName, v.Name)
	if v.Type != nil {
		b.bytes(infoType, encodeType(v.Type))
	}
	return append(b, v.raw...)
}

func encodeType(t *Type) []byte {
	var b message
	if t.DType != Undefined || t.HasShape() {
		var p message
		if t.DType != Undefined {
			p.varint(tensorTypeElemType, uint64(t.DType))
		}
		if t.HasShape() {
			p.bytes(tensorTypeShape, encodeShape(t.Shape))
		}
		b.bytes(typeTensor, p)
	}
	return append(b, t.raw...)
}

func encodeShape(shape []Dim) []byte {
	var b message
	for _, d := range shape {
		var dim message
		switch {
		case d.Size >= 0:
			dim.varint(dimValue, uint64(d.Size))
		case d.Param != "":
			dim.str(dimParam, d.Param)
		}
		b.bytes(shapeDim, dim)
	}
	return b
}
