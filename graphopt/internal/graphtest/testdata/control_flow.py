"""Makes control_flow.onnx with the onnx package: If, Loop and a function around values of the main graph.

    python control_flow.py
"""
import os

import onnx
from onnx import TensorProto as T
from onnx import helper as h

info = h.make_tensor_value_info


def float_constant(name, value):
    return h.make_node("Constant", [], [name], value=h.make_tensor("", T.FLOAT, [], [value]))


then = h.make_graph([h.make_node("Exp", ["inner"], ["then_out"])], "then", [], [info("then_out", T.FLOAT, [2, 3])])
otherwise = h.make_graph(
    [
        float_constant("two", 2.0),
        h.make_node("Sigmoid", ["inner"], ["gate"]),
        h.make_node("Mul", ["inner", "gate"], ["silu"]),  # a form that a pass fuses, were it not in a body
        h.make_node("Add", ["silu", "two"], ["else_out"]),
    ],
    "else", [], [info("else_out", T.FLOAT, [2, 3])],
)
body = h.make_graph(
    [
        h.make_node("Identity", ["go"], ["go_out"]),
        h.make_node("Add", ["v", "shared"], ["v_out"]),
    ],
    "body",
    [info("i", T.INT64, []), info("go", T.BOOL, []), info("v", T.FLOAT, [2, 3])],
    [info("go_out", T.BOOL, []), info("v_out", T.FLOAT, [2, 3])],
)
graph = h.make_graph(
    [
        float_constant("half", 0.5),
        h.make_node("Mul", ["half", "half"], ["shared"]),  # folds, and is read in the body of Loop
        h.make_node("Neg", ["x"], ["inner"]),
        h.make_node("Abs", ["inner"], ["abs"], name="Abs"),
        h.make_node("If", ["cond"], ["chosen"], then_branch=then, else_branch=otherwise),
        h.make_node("Loop", ["n", "", "chosen"], ["looped"], body=body),
        h.make_node("Twice", ["looped"], ["doubled"], domain="local"),
    ],
    "control_flow",
    [info("x", T.FLOAT, [2, 3]), info("cond", T.BOOL, []), info("n", T.INT64, [])],
    [info("abs", T.FLOAT, [2, 3]), info("doubled", T.FLOAT, [2, 3])],
)
twice = h.make_function("local", "Twice", ["a"], ["b"], [h.make_node("Add", ["a", "a"], ["b"])], [h.make_opsetid("", 21)])
model = h.make_model(graph, functions=[twice], ir_version=10, opset_imports=[h.make_opsetid("", 21), h.make_opsetid("local", 1)])
onnx.checker.check_model(model)
onnx.save(model, os.path.join(os.path.dirname(os.path.abspath(__file__)), "control_flow.onnx"))
