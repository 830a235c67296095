package ir

import "slices"

// AttrType is the kind of an attribute, numbered as AttributeProto.AttributeType.
type AttrType int32

// The kinds of attributes.
const (
	AttrFloat         AttrType = 1
	AttrInt           AttrType = 2
	AttrString        AttrType = 3
	AttrTensor        AttrType = 4
	AttrGraph         AttrType = 5
	AttrFloats        AttrType = 6
	AttrInts          AttrType = 7
	AttrStrings       AttrType = 8
	AttrTensors       AttrType = 9
	AttrGraphs        AttrType = 10
	AttrSparseTensor  AttrType = 11
	AttrSparseTensors AttrType = 12
	AttrTypeProto     AttrType = 13
	AttrTypeProtos    AttrType = 14
)

// Attr is a named attribute of a node; the field that Type names holds its value.
type Attr struct {
	Name    string
	Type    AttrType
	F       float32
	I       int64
	S       []byte
	T       *Tensor
	G       *Graph
	Floats  []float32
	Ints    []int64
	Strings [][]byte
	Tensors []*Tensor
	Graphs  []*Graph

	raw []byte // fields carried through: references, sparse tensors, types, doc strings
}

// Int makes an integer attribute.
func Int(name string, v int64) *Attr { return &Attr{Name: name, Type: AttrInt, I: v} }

// Ints makes an attribute of integers.
func Ints(name string, v ...int64) *Attr { return &Attr{Name: name, Type: AttrInts, Ints: v} }

// Float makes a float attribute.
func Float(name string, v float32) *Attr { return &Attr{Name: name, Type: AttrFloat, F: v} }

// Str makes a string attribute.
func Str(name, v string) *Attr { return &Attr{Name: name, Type: AttrString, S: []byte(v)} }

// TensorAttr makes a tensor attribute.
func TensorAttr(name string, t *Tensor) *Attr { return &Attr{Name: name, Type: AttrTensor, T: t} }

func (a *Attr) graphs() []*Graph {
	if a.G != nil {
		return []*Graph{a.G}
	}
	return a.Graphs
}

func (a *Attr) tensors() []*Tensor {
	if a.T != nil {
		return []*Tensor{a.T}
	}
	return a.Tensors
}

// Attr is the attribute of this name, nil if the node has none.
func (n *Node) Attr(name string) *Attr {
	i := slices.IndexFunc(n.Attrs, func(a *Attr) bool { return a.Name == name })
	if i < 0 {
		return nil
	}
	return n.Attrs[i]
}

// Int is an integer attribute, or def where it is not given.
func (n *Node) Int(name string, def int64) int64 {
	if a := n.Attr(name); a != nil && a.Type == AttrInt {
		return a.I
	}
	return def
}

// Float is a float attribute, or def where it is not given.
func (n *Node) Float(name string, def float32) float32 {
	if a := n.Attr(name); a != nil && a.Type == AttrFloat {
		return a.F
	}
	return def
}

// Ints is an attribute of integers, nil where it is not given.
func (n *Node) Ints(name string) []int64 {
	if a := n.Attr(name); a != nil && a.Type == AttrInts {
		return a.Ints
	}
	return nil
}

// Str is a string attribute, or def where it is not given.
func (n *Node) Str(name, def string) string {
	if a := n.Attr(name); a != nil && a.Type == AttrString {
		return string(a.S)
	}
	return def
}

// SetAttr sets an attribute, in place of one of the same name.
func (n *Node) SetAttr(a *Attr) {
	i := slices.IndexFunc(n.Attrs, func(b *Attr) bool { return b.Name == a.Name })
	if i < 0 {
		n.Attrs = append(n.Attrs, a)
		return
	}
	n.Attrs[i] = a
}

// HasGraph reports whether n holds a body, as If, Loop and Scan do.
func (n *Node) HasGraph() bool {
	return slices.ContainsFunc(n.Attrs, func(a *Attr) bool { return len(a.graphs()) > 0 })
}
