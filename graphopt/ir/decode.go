package ir

import (
	"encoding/binary"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// What a model may hold at most. A real one of 64 layers has some thousands of nodes; a file made
// to exhaust memory claims many more.
const (
	maxItems = 1 << 20 // nodes, values, attributes, dimensions of one model, together
	maxDepth = 32      // bodies within bodies
)

// Load opens a model file and maps it, together with the files that hold its external data. Close
// the model when it and everything made from its weights is no longer needed.
func Load(path string) (*Model, error) {
	file, err := mapRegular(path)
	if err != nil {
		return nil, err
	}
	ext := &externalFiles{model: path, open: map[string]*mapping{}, ranges: map[*mapping][]fileRange{}}
	m, err := decodeModel(file.b, ext)
	files := append([]*mapping{file}, ext.all...)
	if err != nil {
		(&Model{files: files}).Close()
		return nil, fmt.Errorf("%w in %s", err, path)
	}
	m.files = files
	return m, nil
}

// Parse reads a model from memory; it must not have external data. The model's tensors refer to b.
func Parse(b []byte) (*Model, error) {
	return decodeModel(b, &externalFiles{open: map[string]*mapping{}, ranges: map[*mapping][]fileRange{}})
}

type decoder struct {
	ext   *externalFiles
	items int
	views map[viewKey]*Buffer // one Data for one range, so that what was shared stays shared
}

type viewKey struct {
	first *byte
	n     int
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("ir: %w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

func (d *decoder) count(n int) error {
	d.items += n
	if d.items > maxItems {
		return malformed("more than %d nodes, values and attributes", maxItems)
	}
	return nil
}

// field is one field of a protobuf message.
type field struct {
	num protowire.Number
	typ protowire.Type
	b   []byte // of a length-delimited field
	u   uint64 // of a scalar one
	raw []byte // tag and content
}

func (f field) str() string { return string(f.b) }

// fields calls fn for each field of message b.
func fields(b []byte, what string, fn func(field) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed("%s: bad field tag", what)
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
			return malformed("%s: field %d is cut off or not valid: truncated file?", what, num)
		}
		f.raw = b[: n+m : n+m]
		b = b[n+m:]
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

func decodeModel(b []byte, ext *externalFiles) (*Model, error) {
	d := &decoder{ext: ext, views: map[viewKey]*Buffer{}}
	m := &Model{}
	var graph []byte
	seen := false
	err := fields(b, "model", func(f field) error {
		switch {
		case f.num == 1 && f.typ == protowire.VarintType:
			m.IRVersion = int64(f.u)
		case f.typ != protowire.BytesType:
			if f.num == 5 {
				m.ModelVersion = int64(f.u)
			}
		case f.num == 2:
			m.ProducerName = f.str()
		case f.num == 3:
			m.ProducerVersion = f.str()
		case f.num == 4:
			m.Domain = f.str()
		case f.num == 6:
			m.Doc = f.str()
		case f.num == 7:
			if seen {
				return malformed("two graphs")
			}
			graph, seen = f.b, true
		case f.num == 8:
			o, err := decodeOpset(f.b)
			if err != nil {
				return err
			}
			if m.Opset(o.Domain) != 0 {
				return malformed("operator set %q is imported twice", o.Domain)
			}
			m.Opsets = append(m.Opsets, o)
			return d.count(1)
		case f.num == 14:
			p, err := decodeProperty(f.b)
			if err != nil {
				return err
			}
			m.Metadata = append(m.Metadata, p)
			return d.count(1)
		case f.num == 20:
			return fmt.Errorf("ir: training models are not supported")
		case f.num == 25:
			fn := Function{raw: f.b}
			err := fields(f.b, "function", func(f field) error {
				switch f.num {
				case 1:
					fn.Name = f.str()
				case 10:
					fn.Domain = f.str()
				}
				return nil
			})
			m.Functions = append(m.Functions, fn)
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if !seen {
		return nil, malformed("no graph: not an ONNX model?")
	}
	if len(m.Opsets) == 0 {
		return nil, malformed("no operator set is imported")
	}
	if m.Graph, err = d.graph(graph, nil, 0); err != nil {
		return nil, err
	}
	if err := ext.checkRanges(); err != nil {
		return nil, err
	}
	return m, m.Validate()
}

func decodeOpset(b []byte) (o Opset, err error) {
	err = fields(b, "opset import", func(f field) error {
		switch f.num {
		case 1:
			o.Domain = f.str()
		case 2:
			o.Version = int64(f.u)
		}
		return nil
	})
	if err == nil && (o.Version <= 0 || o.Version > 1<<20) {
		err = malformed("operator set %q has version %d", o.Domain, o.Version)
	}
	return o, err
}

func decodeProperty(b []byte) (p Property, err error) {
	err = fields(b, "metadata", func(f field) error {
		switch f.num {
		case 1:
			p.Key = f.str()
		case 2:
			p.Value = f.str()
		}
		return nil
	})
	return p, err
}

// pending is a node whose operands are still names.
type pending struct {
	node   *Node
	inputs []string
	bodies []body
}

type body struct {
	attr *Attr
	many bool
	b    []byte
}

type scope struct {
	values map[string]*Value
	outer  *scope
}

func (s *scope) find(name string) *Value {
	for ; s != nil; s = s.outer {
		if v := s.values[name]; v != nil {
			return v
		}
	}
	return nil
}

func (d *decoder) graph(b []byte, outer *scope, depth int) (*Graph, error) {
	if depth > maxDepth {
		return nil, malformed("bodies are nested more than %d deep", maxDepth)
	}
	g := newGraph("", nil)
	sc := &scope{values: map[string]*Value{}, outer: outer}
	var todo []pending
	var outputs, infos []namedType
	err := fields(b, "graph", func(f field) error {
		if f.typ != protowire.BytesType {
			g.raw = append(g.raw, f.raw...)
			return nil
		}
		switch f.num {
		case 1:
			p, err := d.node(f.b)
			if err != nil {
				return err
			}
			p.node.graph = g
			todo = append(todo, p)
		case 2:
			g.Name = f.str()
		case 5:
			name, t, err := d.tensor(f.b, true)
			if err != nil {
				return err
			}
			if v := sc.values[name]; v != nil {
				if !v.isInput || v.Const != nil {
					return malformed("two initializers are named %q", name)
				}
				v.Const = t
				g.initializers = append(g.initializers, v)
				return d.count(1)
			}
			v := &Value{Name: name, graph: g, Const: t, Type: typeOf(t)}
			sc.values[name] = v
			g.initializers = append(g.initializers, v)
			return d.count(1)
		case 11:
			nt, err := d.valueInfo(f.b)
			if err != nil {
				return err
			}
			v := sc.values[nt.name]
			switch {
			case v == nil:
				v = &Value{Name: nt.name, graph: g}
				sc.values[nt.name] = v
			case v.isInput:
				return malformed("two inputs are named %q", nt.name)
			}
			v.Type, v.isInput = nt.typ, true
			g.inputs = append(g.inputs, v)
		case 12:
			nt, err := d.valueInfo(f.b)
			if err != nil {
				return err
			}
			outputs = append(outputs, nt)
		case 13:
			nt, err := d.valueInfo(f.b)
			if err != nil {
				return err
			}
			infos = append(infos, nt)
		case 15:
			return fmt.Errorf("ir: sparse initializers are not supported")
		default:
			g.raw = append(g.raw, f.raw...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range todo {
		for i, o := range p.node.outputs {
			if o == nil {
				continue
			}
			if sc.values[o.Name] != nil {
				return nil, malformed("two values are named %q", o.Name)
			}
			o.graph, o.producer = g, p.node
			sc.values[o.Name] = p.node.outputs[i]
		}
		g.nodes = append(g.nodes, p.node)
	}
	for _, nt := range infos {
		if v := sc.values[nt.name]; v != nil && v.Type == nil {
			v.Type = nt.typ
		}
	}
	for _, nt := range outputs {
		v := sc.find(nt.name)
		if v == nil {
			return nil, malformed("nothing produces output %q", nt.name)
		}
		if v.Type == nil || v.producer != nil && nt.typ != nil {
			v.Type = nt.typ
		}
		g.outputs = append(g.outputs, v)
		v.outs++
	}
	for name := range sc.values {
		g.names[name] = 0
	}
	for _, p := range todo {
		g.claim(p.node.Name)
		for i, name := range p.inputs {
			if name == "" {
				p.node.inputs = append(p.node.inputs, nil)
				continue
			}
			v := sc.find(name)
			if v == nil {
				return nil, malformed("%v reads %q, which nothing produces", p.node, name)
			}
			p.node.inputs = append(p.node.inputs, v)
			v.uses = append(v.uses, Use{p.node, i})
		}
		for _, body := range p.bodies {
			inner, err := d.graph(body.b, sc, depth+1)
			if err != nil {
				return nil, err
			}
			inner.outer = g
			for name := range inner.names {
				g.names[name] = 0
			}
			if body.many {
				body.attr.Graphs = append(body.attr.Graphs, inner)
			} else {
				body.attr.G = inner
			}
		}
	}
	return g, nil
}

func (d *decoder) node(b []byte) (pending, error) {
	n := &Node{}
	p := pending{node: n}
	err := fields(b, "node", func(f field) error {
		if f.typ != protowire.BytesType {
			n.raw = append(n.raw, f.raw...)
			return nil
		}
		switch f.num {
		case 1:
			p.inputs = append(p.inputs, f.str())
			return d.count(1)
		case 2:
			var v *Value
			if len(f.b) > 0 {
				v = &Value{Name: f.str()}
			}
			n.outputs = append(n.outputs, v)
			return d.count(1)
		case 3:
			n.Name = f.str()
		case 4:
			n.OpType = f.str()
		case 5:
			a, bodies, err := d.attribute(f.b)
			if err != nil {
				return err
			}
			if n.Attr(a.Name) != nil {
				return malformed("%v has attribute %q twice", n, a.Name)
			}
			n.Attrs = append(n.Attrs, a)
			p.bodies = append(p.bodies, bodies...)
			return d.count(1)
		case 7:
			n.Domain = f.str()
		default:
			n.raw = append(n.raw, f.raw...)
		}
		return nil
	})
	if err == nil && n.OpType == "" {
		err = malformed("a node has no operator")
	}
	if err == nil {
		err = d.count(1)
	}
	return p, err
}

func (d *decoder) attribute(b []byte) (*Attr, []body, error) {
	a := &Attr{}
	var bodies []body
	err := fields(b, "attribute", func(f field) error {
		switch f.num {
		case 1:
			a.Name = f.str()
		case 2:
			a.F = math.Float32frombits(uint32(f.u))
		case 3:
			a.I = int64(f.u)
		case 4:
			a.S = slices.Clone(f.b)
		case 5:
			_, t, err := d.tensor(f.b, false)
			a.T = t
			return err
		case 6:
			bodies = append(bodies, body{a, false, f.b})
		case 7:
			return packed(f, protowire.Fixed32Type, func(u uint64) error {
				a.Floats = append(a.Floats, math.Float32frombits(uint32(u)))
				return d.count(1)
			})
		case 8:
			return packed(f, protowire.VarintType, func(u uint64) error {
				a.Ints = append(a.Ints, int64(u))
				return d.count(1)
			})
		case 9:
			a.Strings = append(a.Strings, slices.Clone(f.b))
			return d.count(1)
		case 10:
			_, t, err := d.tensor(f.b, false)
			if err != nil {
				return err
			}
			a.Tensors = append(a.Tensors, t)
			return d.count(1)
		case 11:
			bodies = append(bodies, body{a, true, f.b})
		case 20:
			if f.u > uint64(AttrTypeProtos) {
				return malformed("attribute %q is of unknown kind %d", a.Name, f.u)
			}
			a.Type = AttrType(f.u)
		default:
			a.raw = append(a.raw, f.raw...)
		}
		return nil
	})
	if err == nil && a.Name == "" {
		err = malformed("an attribute has no name")
	}
	if err == nil && a.Type == AttrTensor && a.T == nil && len(a.raw) == 0 {
		err = malformed("attribute %q has no tensor", a.Name)
	}
	return a, bodies, err
}

// packed calls fn for the numbers of a repeated field, which may be packed or stand alone.
func packed(f field, typ protowire.Type, fn func(uint64) error) error {
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

type namedType struct {
	name string
	typ  *Type
}

func (d *decoder) valueInfo(b []byte) (nt namedType, err error) {
	err = fields(b, "value", func(f field) error {
		var err error
		switch f.num {
		case 1:
			nt.name = f.str()
		case 2:
			nt.typ, err = d.typ(f.b)
		}
		return err
	})
	if err == nil && nt.name == "" {
		err = malformed("an input or output has no name")
	}
	if err == nil {
		err = d.count(1)
	}
	return nt, err
}

func (d *decoder) typ(b []byte) (*Type, error) {
	t := &Type{}
	err := fields(b, "type", func(f field) error {
		if f.num != 1 {
			t.raw = append(t.raw, f.raw...) // sequences, maps, optionals, denotations
			return nil
		}
		return fields(f.b, "tensor type", func(f field) error {
			switch f.num {
			case 1:
				t.DType = DType(f.u)
				if f.u != 0 && (f.u > 1<<20 || !t.DType.known()) {
					return malformed("element type %d is not known", f.u)
				}
			case 2:
				t.Rank0 = true
				return fields(f.b, "shape", func(f field) error {
					if f.num != 1 {
						return nil
					}
					dim := Dim{Size: -1}
					err := fields(f.b, "dimension", func(f field) error {
						switch f.num {
						case 1:
							dim.Size = int64(f.u)
							if dim.Size < 0 {
								return malformed("dimension %d", dim.Size)
							}
						case 2:
							dim.Param = f.str()
						}
						return nil
					})
					t.Shape, t.Rank0 = append(t.Shape, dim), false
					if err != nil {
						return err
					}
					return d.count(1)
				})
			}
			return nil
		})
	})
	return t, err
}

// tensor reads a TensorProto. Only initializers may lie in external files.
func (d *decoder) tensor(b []byte, initializer bool) (string, *Tensor, error) {
	t := &Tensor{}
	var name, location string
	var offset, length int64 = 0, -1
	var raw []byte
	var lists []field // typed data fields, as they come
	hasRaw, external := false, false
	err := fields(b, "tensor", func(f field) error {
		switch f.num {
		case 1:
			return packed(f, protowire.VarintType, func(u uint64) error {
				if int64(u) < 0 {
					return malformed("tensor %q has dimension %d", name, int64(u))
				}
				t.Shape = append(t.Shape, int64(u))
				return d.count(1)
			})
		case 2:
			t.DType = DType(f.u)
			if f.u > 1<<20 || !t.DType.known() {
				return malformed("element type %d is not known", f.u)
			}
		case 3:
			return fmt.Errorf("ir: segmented tensors are not supported")
		case 4, 5, 7, 10, 11:
			lists = append(lists, f)
			return d.count(1)
		case 6:
			t.Strings = append(t.Strings, slices.Clone(f.b))
			return d.count(1)
		case 8:
			name = f.str()
		case 9:
			raw, hasRaw = f.b, true
		case 13:
			p, err := decodeProperty(f.b)
			if err != nil {
				return err
			}
			switch p.Key {
			case "location":
				location = p.Value
			case "offset":
				offset, err = strconv.ParseInt(p.Value, 10, 64)
			case "length":
				length, err = strconv.ParseInt(p.Value, 10, 64)
				if err == nil && length < 0 {
					err = malformed("tensor %q has length %d", name, length)
				}
			}
			if err != nil {
				return malformed("tensor %q: external data %s %q", name, p.Key, p.Value)
			}
			return d.count(1)
		case 14:
			if f.u > 1 {
				return malformed("tensor %q: data location %d", name, f.u)
			}
			external = f.u == 1
		}
		return nil
	})
	if err != nil {
		return "", nil, err
	}
	if initializer && name == "" {
		return "", nil, malformed("an initializer has no name")
	}
	if t.Shape == nil {
		t.Shape = []int64{}
	}
	switch {
	case t.DType == Undefined:
		return "", nil, malformed("tensor %q has no element type", name)
	case t.DType == String:
		if hasRaw || external {
			return "", nil, malformed("tensor %q: strings cannot be raw data", name)
		}
		if err := t.check(); err != nil {
			return "", nil, malformed("tensor %q: %v", name, err)
		}
		return name, t, nil
	}
	want, err := ByteSize(t.DType, t.Shape)
	if err != nil {
		return "", nil, malformed("tensor %q: %v", name, err)
	}
	switch {
	case external:
		if hasRaw || len(lists) > 0 {
			return "", nil, malformed("tensor %q has data inside the file and outside", name)
		}
		if length != -1 && length != want {
			return "", nil, malformed("tensor %q: %v%v takes %d bytes, its external data has %d", name, t.DType, t.Shape, want, length)
		}
		if raw, err = d.ext.slice(location, offset, want, name); err != nil {
			return "", nil, err
		}
	case hasRaw:
		if len(lists) > 0 {
			return "", nil, malformed("tensor %q has raw and typed data", name)
		}
	default:
		if raw, err = typedData(t.DType, lists, want, name); err != nil {
			return "", nil, err
		}
	}
	if int64(len(raw)) != want {
		return "", nil, malformed("tensor %q: %v%v takes %d bytes, it has %d", name, t.DType, t.Shape, want, len(raw))
	}
	t.Data = d.view(raw)
	return name, t, nil
}

// view gives equal ranges of a file the same Data.
func (d *decoder) view(b []byte) *Buffer {
	if len(b) == 0 {
		return NewBuffer(b)
	}
	key := viewKey{&b[0], len(b)}
	if v := d.views[key]; v != nil {
		return v
	}
	v := NewBuffer(b)
	d.views[key] = v
	return v
}

// typedData turns the typed fields of a TensorProto (float_data, int32_data, ...) into raw bytes.
// Packed floats are such bytes already.
func typedData(dt DType, lists []field, want int64, name string) ([]byte, error) {
	var num protowire.Number
	typ := protowire.VarintType
	size := dt.Bits() / 8 // of an element; what is packed below a byte comes two to a number
	switch dt {
	case Float32, Complex64:
		num, typ, size = 4, protowire.Fixed32Type, 4
	case Float64, Complex128:
		num, typ, size = 10, protowire.Fixed64Type, 8
	case Int64:
		num = 7
	case Uint32, Uint64:
		num = 11
	default:
		num, size = 5, max(size, 1)
	}
	if len(lists) == 1 && typ != protowire.VarintType && lists[0].num == num && lists[0].typ == protowire.BytesType {
		return lists[0].b, nil
	}
	var available int64 // each number takes at least a byte of the file
	for _, f := range lists {
		if f.num != num {
			return nil, malformed("tensor %q: %v data in field %d", name, dt, f.num)
		}
		available += int64(max(len(f.b), 1))
	}
	if want > available*int64(size) {
		return nil, malformed("tensor %q: %d bytes are asked for, the file holds fewer", name, want)
	}
	out := make([]byte, 0, want)
	for _, f := range lists {
		err := packed(f, typ, func(u uint64) error {
			if int64(len(out)+size) > want {
				return malformed("tensor %q has more data than its shape asks for", name)
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

// checkRanges refuses tensors that share some bytes of a file but not all of them.
func (e *externalFiles) checkRanges() error {
	for _, m := range e.all {
		rs := e.ranges[m]
		slices.SortFunc(rs, func(a, b fileRange) int {
			if a.off != b.off {
				return compare(a.off, b.off)
			}
			if a.end != b.end {
				return compare(b.end, a.end)
			}
			return strings.Compare(a.name, b.name)
		})
		for i := 1; i < len(rs); i++ {
			a, b := rs[i-1], rs[i]
			if b.off < a.end && (a.off != b.off || a.end != b.end) {
				return malformed("tensors %q and %q overlap in %s", a.name, b.name, filepath.Base(m.path))
			}
		}
	}
	return nil
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
