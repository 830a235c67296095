"""Writes the small graphs of this folder. Run: python make.py (needs onnx 1.16 or newer)."""

import pathlib

import onnx
from onnx import TensorProto as T
from onnx import helper as h

HERE = pathlib.Path(__file__).parent

DTYPES = {
    "float32": T.FLOAT, "uint8": T.UINT8, "int8": T.INT8, "uint16": T.UINT16, "int16": T.INT16,
    "int32": T.INT32, "int64": T.INT64, "bool": T.BOOL, "float16": T.FLOAT16, "float64": T.DOUBLE,
    "uint32": T.UINT32, "uint64": T.UINT64, "bfloat16": T.BFLOAT16,
}


def value(name, dtype, shape):
    return h.make_tensor_value_info(name, dtype, shape)


def write(name, nodes, inputs, outputs, initializers=(), domains=()):
    graph = h.make_graph(nodes, name, inputs, outputs, initializer=list(initializers))
    opsets = [h.make_opsetid("", 18)] + [h.make_opsetid(d, 1) for d in domains]
    model = h.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="qwenrt")
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))


# One Identity for each element type: what goes in comes out.
write(
    "dtypes",
    [h.make_node("Identity", [f"x_{n}"], [f"y_{n}"]) for n in DTYPES],
    [value(f"x_{n}", t, ["n"]) for n, t in DTYPES.items()],
    [value(f"y_{n}", t, ["n"]) for n, t in DTYPES.items()],
)

# z = x + y: symbolic and fixed dimensions.
write(
    "add",
    [h.make_node("Add", ["x", "y"], ["z"])],
    [value("x", T.FLOAT, ["rows", 4]), value("y", T.FLOAT, ["rows", 4])],
    [value("z", T.FLOAT, ["rows", 4])],
)

# total = sum(mask): an input that grows by one element a step.
write(
    "sum",
    [h.make_node("ReduceSum", ["mask"], ["total"], keepdims=0)],
    [value("mask", T.INT64, [1, "total_sequence_length"])],
    [value("total", T.INT64, [])],
)

# present = past + 1, past and present may share one buffer.
write(
    "increment",
    [h.make_node("Add", ["past", "one"], ["present"])],
    [value("past", T.FLOAT, [1, "capacity"])],
    [value("present", T.FLOAT, [1, "capacity"])],
    [h.make_tensor("one", T.FLOAT, [1], [1.0])],
)

# y = x + bias, where bias is an initializer that is a graph input too.
write(
    "bias",
    [h.make_node("Add", ["x", "bias"], ["y"])],
    [value("x", T.FLOAT, [2]), value("bias", T.FLOAT, [2])],
    [value("y", T.FLOAT, [2])],
    [h.make_tensor("bias", T.FLOAT, [2], [10.0, 20.0])],
)

# begun = -x; y = cos(cos(... begun)), n times: a run as long as the caller wants,
# which says when it is under way.
body = h.make_graph(
    [h.make_node("Identity", ["go_on"], ["still"]), h.make_node("Cos", ["state"], ["next"])],
    "body",
    [value("i", T.INT64, []), value("go_on", T.BOOL, []), value("state", T.FLOAT, [1])],
    [value("still", T.BOOL, []), value("next", T.FLOAT, [1])],
)
write(
    "loop",
    [h.make_node("Neg", ["x"], ["begun"]), h.make_node("Loop", ["n", "", "begun"], ["y"], body=body)],
    [value("n", T.INT64, []), value("x", T.FLOAT, [1])],
    [value("y", T.FLOAT, [1]), value("begun", T.FLOAT, [1])],
)

# y = x + (a + b): constant folding leaves one Add and drops the value "folded".
write(
    "fold",
    [h.make_node("Add", ["a", "b"], ["folded"], name="fold_me"), h.make_node("Add", ["x", "folded"], ["y"])],
    [value("x", T.FLOAT, [1])],
    [value("y", T.FLOAT, [1])],
    [h.make_tensor("a", T.FLOAT, [1], [1.0]), h.make_tensor("b", T.FLOAT, [1], [2.0])],
)

# An operator that no ONNX Runtime has.
write(
    "unknown_op",
    [h.make_node("NoSuchOperator", ["x"], ["y"], domain="com.example")],
    [value("x", T.FLOAT, [1])],
    [value("y", T.FLOAT, [1])],
    domains=["com.example"],
)

# Weights in a file that is not there.
weight = T(name="w", data_type=T.FLOAT, dims=[1], data_location=T.EXTERNAL)
weight.external_data.extend([
    onnx.StringStringEntryProto(key="location", value="missing.data"),
    onnx.StringStringEntryProto(key="offset", value="0"),
    onnx.StringStringEntryProto(key="length", value="4"),
])
write(
    "missing_weights",
    [h.make_node("Add", ["x", "w"], ["y"])],
    [value("x", T.FLOAT, [1])],
    [value("y", T.FLOAT, [1])],
    [weight],
)

# A sequence output: a value that is not a tensor.
write(
    "sequence",
    [h.make_node("SequenceConstruct", ["x"], ["y"])],
    [value("x", T.FLOAT, [1])],
    [h.make_tensor_sequence_value_info("y", T.FLOAT, [1])],
)

# y = x w: a product whose weight is packed while the session loads.
write(
    "product",
    [h.make_node("MatMul", ["x", "w"], ["y"])],
    [value("x", T.FLOAT, ["rows", 32])],
    [value("y", T.FLOAT, ["rows", 48])],
    [h.make_tensor("w", T.FLOAT, [32, 48], [(i * 7 % 31 - 15) / 8 for i in range(32 * 48)])],
)
