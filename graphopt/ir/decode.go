package ir

import (
	"bytes"
	"math"
	"os"

	"google.golang.org/protobuf/encoding/protowire"
)

// What a model may hold at most. A real one of 64 layers has some thousands of nodes; a file made
// to exhaust memory or time claims many more.
const (
	maxProto    = 2 << 30 // bytes; protobuf's limit for one message, which ONNX Runtime enforces
	maxItems    = 1 << 20 // nodes, values, attributes and their elements: together
	maxSiblings = 1 << 10 // what is searched in order: attributes of a node, operator sets
	maxDepth    = 32      // bodies within bodies
	maxRank     = 64      // dimensions, as in NumPy
	maxName     = 1 << 12 // bytes
)

// Load opens a model file and maps it, together with the files that hold its external data. Close
// the model when it and everything made from its weights is no longer needed. Until then the files
// must not be written to, as a mapped file that is cut off ends the process; Save replaces files.
//
// Data files must lie in the model's folder. Links may lead to them within that folder or, for a
// snapshot in the Hugging Face cache, within the cache's folder of the same repository.
func Load(path string) (*Model, error) {
	m, err := load(path)
	if err != nil {
		return nil, errorf("%s: %w", path, err)
	}
	return m, nil
}

func load(path string) (*Model, error) {
	file, err := mapRegular(path, os.Stat, os.Open)
	if err != nil {
		return nil, reason(err, path)
	}
	ext := newExternalFiles(path)
	defer ext.release()
	m, err := decodeModel(file.b, ext)
	files := append([]*mapping{file}, ext.all...)
	if err != nil {
		(&Model{files: files}).Close()
		return nil, err
	}
	m.files = files
	return m, nil
}

// Parse reads a model from memory; it must not have external data. The model's tensors refer to b.
func Parse(b []byte) (*Model, error) {
	return decodeModel(b, newExternalFiles(""))
}

type decoder struct {
	ext   *externalFiles
	items int
	names map[string]int      // of the whole model, for Graph.Fresh
	views map[viewKey]*Buffer // one Data for one range, so that what was shared stays shared
}

// count bounds the work that a file can ask for.
func (d *decoder) count(n int) error {
	d.items += n
	if d.items > maxItems {
		return malformed("more than %d nodes, values and attributes", maxItems)
	}
	return nil
}

func decodeModel(b []byte, ext *externalFiles) (*Model, error) {
	if int64(len(b)) >= maxProto {
		return nil, malformed("%d bytes are more than protobuf's 2 GiB: keep the weights as external data", len(b))
	}
	d := &decoder{ext: ext, names: map[string]int{}, views: map[viewKey]*Buffer{}}
	m, graph, err := d.model(b)
	if err != nil {
		return nil, err
	}
	if m.Graph, err = d.graph(graph, nil, 0); err != nil {
		return nil, err
	}
	m.Graph.names = d.names
	if err := ext.checkRanges(); err != nil {
		return nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, malformed("%w", err)
	}
	return m, nil
}

// model reads all but the graph, which it gives as bytes.
func (d *decoder) model(b []byte) (m *Model, graph []byte, err error) {
	m = &Model{}
	graphs := 0
	err = fields(b, "model", func(f field) error {
		switch f.num {
		case modelIRVersion:
			m.IRVersion = int64(f.u)
		case modelProducerName:
			return text(f, &m.ProducerName)
		case modelProducerVersion:
			return text(f, &m.ProducerVersion)
		case modelDomain:
			return text(f, &m.Domain)
		case modelVersion:
			m.ModelVersion = int64(f.u)
		case modelDoc:
			m.Doc = string(f.b)
		case modelGraph:
			graph = f.b
			graphs++
		case modelOpset:
			o, err := decodeOpset(f.b)
			if err != nil {
				return err
			}
			if m.Opset(o.Domain) != 0 {
				return malformed("operator set %q is imported twice", o.Domain)
			}
			if m.Opsets = append(m.Opsets, o); len(m.Opsets) > maxSiblings {
				return malformed("more than %d operator sets", maxSiblings)
			}
		case modelMetadata:
			p, err := decodeProperty(f.b)
			m.Metadata = append(m.Metadata, p)
			if err != nil {
				return err
			}
			return d.count(1)
		case modelTraining:
			return errorf("training models are not supported: export the model for inference")
		case modelFunction:
			fn, err := decodeFunction(f.b)
			m.Functions = append(m.Functions, fn)
			if err != nil {
				return err
			}
			return d.count(1)
		default:
			m.raw = append(m.raw, f.raw...)
		}
		return nil
	})
	switch {
	case err != nil:
	case graphs != 1:
		err = malformed("%d graphs: not an ONNX model", graphs)
	case len(m.Opsets) == 0:
		err = malformed("no operator set is imported: not an ONNX model")
	}
	return m, graph, err
}

func decodeOpset(b []byte) (o Opset, err error) {
	err = fields(b, "operator set", func(f field) error {
		switch f.num {
		case opsetDomain:
			return text(f, &o.Domain)
		case opsetVersion:
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
	err = fields(b, "property", func(f field) error {
		switch f.num {
		case propertyKey:
			return text(f, &p.Key)
		case propertyValue:
			p.Value = string(f.b)
		}
		return nil
	})
	return p, err
}

func decodeFunction(b []byte) (Function, error) {
	fn := Function{raw: b}
	err := fields(b, "function", func(f field) error {
		switch f.num {
		case functionName:
			return text(f, &fn.Name)
		case functionDomain:
			return text(f, &fn.Domain)
		}
		return nil
	})
	return fn, err
}

// pending is a node whose operands are still names, and whose bodies are still bytes.
type pending struct {
	node   *Node
	inputs []string
	bodies []body
}

// body is a graph to be put into an attribute.
type body struct {
	attr *Attr
	b    []byte
}

// scope is the values that a name can mean in a graph: its own, then those of the graphs around it.
type scope struct {
	graph  *Graph
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
	g := &Graph{}
	if outer != nil {
		g.outer = outer.graph
	}
	if err := d.count(1); err != nil {
		return nil, err
	}
	sc := &scope{graph: g, outer: outer}
	var nodes []pending
	var outputs, infos []valueInfo
	err := fields(b, "graph", func(f field) error {
		switch f.num {
		case graphNode:
			p, err := d.node(f.b)
			nodes = append(nodes, p)
			return err
		case graphName:
			return text(f, &g.Name)
		case graphInitializer:
			return d.initializer(sc, f.b)
		case graphInput:
			return d.input(sc, f.b)
		case graphOutput:
			return d.valueInfos(&outputs, f.b)
		case graphValueInfo:
			return d.valueInfos(&infos, f.b)
		case graphSparseInitializer:
			return errorf("sparse initializers are not supported: store them dense")
		}
		g.raw = append(g.raw, f.raw...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := d.results(sc, nodes); err != nil {
		return nil, err
	}
	for _, info := range infos {
		if v := sc.values[info.name]; v != nil {
			info.describe(v)
		}
	}
	for _, info := range outputs {
		v := sc.values[info.name]
		if v == nil {
			return nil, malformed("nothing in graph %q produces its output %q", g.Name, info.name)
		}
		if v.producer != nil && info.typ != nil {
			v.Type = nil // the graph's interface knows best
		}
		info.describe(v)
		g.AddOutput(v)
	}
	return g, d.operands(sc, nodes, depth)
}

func (d *decoder) initializer(sc *scope, b []byte) error {
	name, t, err := d.tensor(b)
	if err != nil {
		return err
	}
	if name == "" {
		return malformed("an initializer has no name")
	}
	v := sc.values[name]
	switch {
	case v == nil:
		v = d.value(sc, name)
		v.Type = typeOf(t)
	case v.Const != nil:
		return malformed("two initializers are named %q", name)
	}
	v.Const = t
	sc.graph.initializers = append(sc.graph.initializers, v)
	return d.count(1)
}

func (d *decoder) input(sc *scope, b []byte) error {
	info, err := d.valueInfo(b)
	if err != nil {
		return err
	}
	v := sc.values[info.name]
	switch {
	case v == nil:
		v = d.value(sc, info.name)
	case v.isInput:
		return malformed("two inputs are named %q", info.name)
	}
	v.Type, v.raw, v.isInput = info.typ, info.raw, true
	sc.graph.inputs = append(sc.graph.inputs, v)
	return nil
}

func (d *decoder) value(sc *scope, name string) *Value {
	v := &Value{Name: name, graph: sc.graph}
	d.define(sc, v)
	return v
}

func (d *decoder) define(sc *scope, v *Value) {
	if sc.values == nil {
		sc.values = map[string]*Value{}
	}
	sc.values[v.Name] = v
	d.names[v.Name] = 0
}

// results puts the nodes into the graph and the values that they produce into scope.
func (d *decoder) results(sc *scope, nodes []pending) error {
	for _, p := range nodes {
		n := p.node
		n.graph = sc.graph
		d.names[n.Name] = 0
		for _, o := range n.outputs {
			if o == nil {
				continue
			}
			if sc.values[o.Name] != nil {
				return malformed("two values are named %q", o.Name)
			}
			o.graph, o.producer = sc.graph, n
			d.define(sc, o)
		}
		sc.graph.nodes = append(sc.graph.nodes, n)
	}
	return nil
}

// operands resolves the names that nodes read, and then reads their bodies.
func (d *decoder) operands(sc *scope, nodes []pending, depth int) error {
	for _, p := range nodes {
		for i, name := range p.inputs {
			var v *Value
			if name != "" {
				if v = sc.find(name); v == nil {
					return malformed("%v reads %q, which nothing produces", p.node, name)
				}
			}
			p.node.SetInput(i, v)
		}
		for _, body := range p.bodies {
			inner, err := d.graph(body.b, sc, depth+1)
			if err != nil {
				return err
			}
			if body.attr.Type == AttrGraph {
				body.attr.G = inner
			} else {
				body.attr.Graphs = append(body.attr.Graphs, inner)
			}
		}
	}
	return nil
}

func (d *decoder) node(b []byte) (pending, error) {
	n := &Node{}
	p := pending{node: n}
	err := fields(b, "node", func(f field) error {
		switch f.num {
		case nodeInput:
			p.inputs = append(p.inputs, "")
			if err := text(f, &p.inputs[len(p.inputs)-1]); err != nil {
				return err
			}
			return d.count(1)
		case nodeOutput:
			var v *Value
			if len(f.b) > 0 {
				v = &Value{}
				if err := text(f, &v.Name); err != nil {
					return err
				}
			}
			n.outputs = append(n.outputs, v)
			return d.count(1)
		case nodeName:
			return text(f, &n.Name)
		case nodeOpType:
			return text(f, &n.OpType)
		case nodeAttribute:
			a, bodies, err := d.attribute(f.b)
			if err != nil {
				return errorf("%v: %w", n, err)
			}
			if n.Attr(a.Name) != nil {
				return malformed("%v has attribute %q twice", n, a.Name)
			}
			if n.Attrs = append(n.Attrs, a); len(n.Attrs) > maxSiblings {
				return malformed("%v has more than %d attributes", n, maxSiblings)
			}
			p.bodies = append(p.bodies, bodies...)
			return d.count(1)
		case nodeDomain:
			return text(f, &n.Domain)
		}
		n.raw = append(n.raw, f.raw...)
		return nil
	})
	if err == nil && n.OpType == "" {
		err = malformed("%v has no operator", n)
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
		case attrName:
			return text(f, &a.Name)
		case attrF:
			a.F = math.Float32frombits(uint32(f.u))
		case attrI:
			a.I = int64(f.u)
		case attrS:
			a.S = bytes.Clone(f.b)
		case attrT:
			_, t, err := d.tensor(f.b)
			a.T = t
			return err
		case attrG, attrGraphs:
			bodies = append(bodies, body{a, f.b})
		case attrFloats:
			return numbers(f, protowire.Fixed32Type, func(u uint64) error {
				a.Floats = append(a.Floats, math.Float32frombits(uint32(u)))
				return d.count(1)
			})
		case attrInts:
			return numbers(f, protowire.VarintType, func(u uint64) error {
				a.Ints = append(a.Ints, int64(u))
				return d.count(1)
			})
		case attrStrings:
			a.Strings = append(a.Strings, bytes.Clone(f.b))
			return d.count(1)
		case attrTensors:
			_, t, err := d.tensor(f.b)
			if err != nil {
				return err
			}
			a.Tensors = append(a.Tensors, t)
			return d.count(1)
		case attrType:
			a.Type = AttrType(min(f.u, 1<<20))
		default:
			a.raw = append(a.raw, f.raw...)
		}
		return nil
	})
	switch {
	case err != nil:
	case a.Name == "":
		err = malformed("an attribute has no name")
	case a.Type <= 0 || a.Type > AttrTypeProtos:
		err = malformed("attribute %q is of unknown kind %d", a.Name, a.Type)
	case (a.T != nil) != (a.Type == AttrTensor) || a.Tensors != nil && a.Type != AttrTensors,
		a.Type == AttrGraph && len(bodies) != 1,
		len(bodies) > 0 && a.Type != AttrGraph && a.Type != AttrGraphs:
		err = malformed("attribute %q does not hold what its kind %d says", a.Name, a.Type)
	}
	return a, bodies, err
}

// valueInfo is what a ValueInfoProto says of a value.
type valueInfo struct {
	name string
	typ  *Type
	raw  []byte
}

// describe adds to v what is not known of it yet.
func (info valueInfo) describe(v *Value) {
	if v.Type == nil {
		v.Type = info.typ
	}
	if v.raw == nil {
		v.raw = info.raw
	}
}

func (d *decoder) valueInfos(to *[]valueInfo, b []byte) error {
	info, err := d.valueInfo(b)
	*to = append(*to, info)
	return err
}

func (d *decoder) valueInfo(b []byte) (info valueInfo, err error) {
	err = fields(b, "value", func(f field) (err error) {
		switch f.num {
		case infoName:
			return text(f, &info.name)
		case infoType:
			info.typ, err = decodeType(f.b)
			return err
		}
		info.raw = append(info.raw, f.raw...)
		return nil
	})
	if err == nil && info.name == "" {
		err = malformed("an input or output has no name")
	}
	if err == nil {
		err = d.count(1)
	}
	return info, err
}

func decodeType(b []byte) (*Type, error) {
	t := &Type{}
	err := fields(b, "type", func(f field) error {
		if f.num != typeTensor {
			t.raw = append(t.raw, f.raw...) // sequences, maps, optionals, denotations
			return nil
		}
		return fields(f.b, "tensor type", func(f field) (err error) {
			switch f.num {
			case tensorTypeElemType:
				if f.u != 0 {
					t.DType, err = decodeDType(f.u)
				}
			case tensorTypeShape:
				err = decodeShape(t, f.b)
			}
			return err
		})
	})
	return t, err
}

func decodeShape(t *Type, b []byte) error {
	t.Rank0 = true
	return fields(b, "shape", func(f field) error {
		if f.num != shapeDim {
			return nil
		}
		dim := Dim{Size: -1}
		err := fields(f.b, "dimension", func(f field) error {
			switch f.num {
			case dimValue:
				if dim.Size = int64(f.u); dim.Size < 0 {
					return malformed("dimension %d", dim.Size)
				}
			case dimParam:
				return text(f, &dim.Param)
			}
			return nil
		})
		if t.Shape = append(t.Shape, dim); len(t.Shape) > maxRank {
			return malformed("more than %d dimensions", maxRank)
		}
		t.Rank0 = false
		return err
	})
}

func decodeDType(u uint64) (DType, error) {
	d := DType(min(u, 1<<20))
	if !d.known() {
		return 0, malformed("element type %d is not known", u)
	}
	return d, nil
}
