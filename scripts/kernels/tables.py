"""Writes the tables of graphopt/kernels: which operators and element types ONNX Runtime has kernels for.

    python scripts/kernels/tables.py schemas > graphopt/kernels/tables/schemas.txt
    python scripts/kernels/tables.py cpu     > graphopt/kernels/tables/cpu.txt
    python scripts/kernels/tables.py cuda    > graphopt/kernels/tables/cuda.txt

Run it with the version of onnxruntime that the project uses; for cuda with onnxruntime-gpu, on a machine
with a GPU. Schemas and kernels are read from the registry of the library itself, not from documentation.
--check makes sure, for cpu, that ONNX Runtime inserts casts around a float16 node exactly where the
table has no kernel for it.
"""

import argparse
import collections
import datetime
import platform
import sys
import tempfile

import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as state

DOMAINS = {"": "ai.onnx", "com.microsoft": "com.microsoft"}
OLDEST_OPSET = 13
NEWEST = 2**31 - 1
NAMES = {
    "float": "float32",
    "double": "float64",
    **{n: n for n in ("float16 bfloat16 bool string uint8 int8 uint16 int16 uint32 int32 uint64 int64 uint4 int4").split()},
}


def types(names):
    """Tensor types by the names that Go's ir.DType has; others (sequences, 8-bit floats) are left out."""
    found = {NAMES[n[7:-1]] for n in names if n.startswith("tensor(") and n[7:-1] in NAMES}
    return sorted(found)


def header(what):
    print(f"# {what}")
    print(f"# onnxruntime {onnxruntime.__version__}, {platform.system()} {platform.machine()}, {datetime.date.today()}")


def lines(rows):
    """Rows of name, domain, since and more, in that order."""
    for row in sorted(rows):
        print(" ".join(map(str, row)))


def write_schemas():
    header("operator schemas: name domain since in=params out=params param=types; a last * repeats")
    versions = collections.defaultdict(list)
    for s in state.get_all_operator_schema():
        if s.domain in DOMAINS:
            versions[s.domain, s.name].append(s)
    rows = []
    for (domain, name), schemas in versions.items():
        schemas.sort(key=lambda s: s.since_version)
        for s, later in zip(schemas, [*schemas[1:], None]):
            if s.deprecated or domain == "" and later is not None and later.since_version <= OLDEST_OPSET:
                continue
            params = {c.type_param_str: types(c.allowed_type_strs) for c in s.type_constraints}
            row = [name, DOMAINS[domain], s.since_version]
            for key, formals in (("in", s.inputs), ("out", s.outputs)):
                row.append(key + "=" + ",".join(formal(f, params) for f in formals))
            row += [f"{p}={','.join(t)}" for p, t in sorted(params.items()) if t]
            rows.append(row)
    lines(rows)


def formal(f, params):
    """The type parameter of an operand; for one of a fixed type a parameter of that name."""
    if f.option.name == "Variadic" and not f.isHomogeneous:
        return "?*"
    name = f.typeStr
    if name not in params:
        fixed = types([name])
        name = fixed[0] if fixed else "?"
        params.setdefault(name, fixed)
    return name + ("*" if f.option.name == "Variadic" else "")


def kernels(provider):
    merged = collections.defaultdict(list)
    for d in state.get_all_opkernel_def():
        since, until = d.version_range
        if d.provider != provider or d.domain not in DOMAINS or d.domain == "" and until < OLDEST_OPSET:
            continue
        combination = {p: types(t) for p, t in d.type_constraints.items()}
        if all(combination.values()):
            merged[d.op_name, d.domain, since, until].append(combination)
    return {key: merge(combinations) for key, combinations in merged.items()}


def merge(combinations):
    """Joins combinations of types that differ in one parameter only."""
    merged = []
    for c in combinations:
        for m in merged:
            differ = [p for p in c if m.get(p) != c[p]]
            if m.keys() == c.keys() and len(differ) == 1:
                m[differ[0]] = sorted({*m[differ[0]], *c[differ[0]]})
                break
        else:
            merged.append(dict(c))
    return merged if len(merged) == len(combinations) else merge(merged)


def write_kernels(provider):
    table = kernels(provider)
    if not table:
        sys.exit(f"this build of onnxruntime has no {provider}")
    header(f"kernels of {provider}: name domain since until param=types; until - is open")
    rows = []
    for (name, domain, since, until), combinations in table.items():
        for c in combinations:
            row = [name, DOMAINS[domain], since, "-" if until == NEWEST else str(until)]
            rows.append(row + [f"{p}={','.join(t)}" for p, t in sorted(c.items())])
    lines(rows)


UNARY = "Abs Exp Identity Log Neg Reciprocal Sigmoid Sqrt Transpose".split()
BINARY = "Add Div MatMul Mul Pow Sub".split()


def check_float16():
    """Compares the table with what sessions do with one float16 node each."""
    import onnx
    from onnx import TensorProto, helper

    table = kernels("CPUExecutionProvider")
    wrong = []
    for name in UNARY + BINARY:
        operands = ["a", "b"] if name in BINARY else ["a"]
        values = {v: helper.make_tensor_value_info(v, TensorProto.FLOAT16, [4, 4]) for v in ["a", "b", "y"]}
        node = helper.make_node(name, operands, ["y"])
        graph = helper.make_graph([node], name, [values[o] for o in operands], [values["y"]])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.NamedTemporaryFile(suffix=".onnx") as f:
            options.optimized_model_filepath = f.name
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            cast = any(n.op_type == "Cast" for n in onnx.load(f.name).graph.node)
        found = [c for (op, _, _, until), cs in table.items() if op == name and until >= 21 for c in cs]
        if cast == any("float16" in allowed for c in found for allowed in c.values()):
            wrong.append(name)
    if wrong:
        sys.exit(f"table and sessions differ in {', '.join(wrong)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("table", choices=["schemas", "cpu", "cuda"])
    parser.add_argument("--check", action="store_true", help="compare with what sessions do (cpu)")
    args = parser.parse_args()
    if args.table == "schemas":
        return write_schemas()
    write_kernels({"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[args.table])
    if args.check and args.table == "cpu":
        check_float16()


main()
