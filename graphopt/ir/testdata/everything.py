"""Makes everything.onnx with the onnx package, one of each thing that a model can hold:

    python everything.py
"""
import os

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h

info = h.make_tensor_value_info


def add(to, key, value):
    to.metadata_props.add(key=key, value=value)


def typed(name, dtype, dims, field, values):
    t = T(name=name, data_type=dtype, dims=dims)
    getattr(t, field).extend(values)
    return t


constants = [
    typed("c_f32", T.FLOAT, [2], "float_data", [1.5, -2]),
    typed("c_f64", T.DOUBLE, [1], "double_data", [0.1]),
    typed("c_i64", T.INT64, [2], "int64_data", [-1, 1 << 40]),
    typed("c_u64", T.UINT64, [1], "uint64_data", [1 << 63]),
    typed("c_u32", T.UINT32, [1], "uint64_data", [4000000000]),
    typed("c_i32", T.INT32, [2], "int32_data", [-5, 7]),
    typed("c_i8", T.INT8, [3], "int32_data", [-128, 0, 127]),
    typed("c_bool", T.BOOL, [2], "int32_data", [1, 0]),
    typed("c_f16", T.FLOAT16, [2], "int32_data", [0x3C00, 0xC000]),
    typed("c_bf16", T.BFLOAT16, [2], "int32_data", [0x3F80, 0xC000]),
    typed("c_i4", T.INT4, [3], "int32_data", [0x21, 0x0F]),
    typed("c_str", T.STRING, [2], "string_data", [b"plain", b"\xff\x00"]),
    h.make_tensor("c_u4", T.UINT4, [5], bytes([0x21, 0x43, 0x05]), raw=True),
    h.make_tensor("c_f8", T.FLOAT8E4M3FN, [2], bytes([0x38, 0xB8]), raw=True),
    h.make_tensor("c_empty", T.FLOAT, [0, 3], b"", raw=True),
    h.make_tensor("c_scalar", T.INT64, [], [3]),
    h.make_tensor("keep", T.INT64, [], [1]),
]

then = h.make_graph([h.make_node("Neg", ["a"], ["t"])], "then", [], [info("t", T.FLOAT, ["n"])])
other = h.make_graph(
    [h.make_node("Add", ["a", "two"], ["e"])], "else", [], [info("e", T.FLOAT, ["n"])],
    initializer=[h.make_tensor("two", T.FLOAT, [1], [2.0])],
)
body = h.make_graph(
    [h.make_node("Identity", ["go"], ["on"]), h.make_node("Add", ["v", "a"], ["w"])], "body",
    [info("i", T.INT64, []), info("go", T.BOOL, []), info("v", T.FLOAT, ["n"])],
    [info("on", T.BOOL, []), info("w", T.FLOAT, ["n"])],
)
clip = h.make_node("Clip", ["looped", "", "c_max"], ["clipped"], name="clip", doc_string="no lower bound")
add(clip, "from", "here")
nodes = [
    h.make_node("Constant", [], ["c_max"], name="max", value=h.make_tensor("", T.FLOAT, [], [6.0])),
    h.make_node("Double", ["x"], ["a"], name="call", domain="local"),
    h.make_node("If", ["cond"], ["chosen"], name="if", then_branch=then, else_branch=other),
    h.make_node("Loop", ["keep", "", "chosen"], ["looped"], name="loop", body=body),
    clip,
    h.make_node("LSTM", ["l_x", "l_w", "l_r"], ["", "last"], name="lstm", hidden_size=1),
    h.make_node("Odd", ["clipped"], ["y"], name="odd", domain="com.example", f=0.5, i=-3, s="s", floats=[1.0, 2.0],
                ints=[1, -2], strings=["a", "b"], tensors=[h.make_tensor("", T.INT8, [1], [9])]),
]
inputs = [info("x", T.FLOAT, ["n"]), info("cond", T.BOOL, []), info("keep", T.INT64, [])]
inputs[0].doc_string = "what goes in"
sequence = h.make_tensor_sequence_value_info("seq", T.FLOAT, [None, 2])
nodes.append(h.make_node("SequenceEmpty", [], ["seq"], name="seq"))
graph = h.make_graph(
    nodes, "everything", inputs, [info("y", T.FLOAT, ["n"]), info("last", T.FLOAT, [1, 1, 1]), sequence],
    initializer=constants
    + [h.make_tensor(n, T.FLOAT, s, [0.5] * int(np.prod(s))) for n, s in (("l_x", [1, 1, 1]), ("l_w", [1, 4, 1]), ("l_r", [1, 4, 1]))],
    value_info=[info("clipped", T.FLOAT, [None]), info("a", T.FLOAT, ["n"])], doc_string="a graph",
)
add(graph, "graph", "property")
double = h.make_function("local", "Double", ["u"], ["v"], [h.make_node("Add", ["u", "u"], ["v"])], [h.make_opsetid("", 21)])
model = h.make_model(
    graph, producer_name="everything.py", producer_version="1", domain="example", model_version=7, doc_string="a model",
    functions=[double], ir_version=10,
    opset_imports=[h.make_opsetid("", 21), h.make_opsetid("local", 1), h.make_opsetid("com.example", 1)],
)
add(model, "model", "property")
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "everything.onnx"), "wb") as f:
    f.write(model.SerializeToString(deterministic=True))
