#!/usr/bin/env python3
"""Make the test vectors of round-to-nearest block quantisation, with ONNX Runtime's own quantiser.

    python3 -m venv venv && venv/bin/pip install -r scripts/reference/requirements.txt
    venv/bin/python scripts/reference/rtn_vectors.py [-o quantize/testdata/rtn.safetensors]

The quantiser is the one behind onnxruntime.quantization.matmul_nbits_quantizer (DefaultWeightOnlyQuantizer). For
each block size B, kind KIND (sym, asym), bits BITS and case C the file holds, under the prefix bB.KIND.BITS.C:

    weight  float32 [K, N]                  as MatMul has it
    packed  uint8   [N, ceil(K/B), B*BITS/8] input B of MatMulNBits
    scales  float32 [N, ceil(K/B)]
    zp      uint8   [N, ceil(ceil(K/B)*BITS/8)]  asym only

Before writing, the script holds every vector against a plain restatement of the rule (function quantize) and has
MatMulNBits decode it. Blocks whose largest magnitude is so small that 1/scale overflows are left out: ONNX Runtime
converts infinities to integers there, and what comes out is the compiler's choice.
"""

import argparse
import pathlib

import numpy as np
import onnx.helper
import onnxruntime
from onnx import TensorProto, numpy_helper
from onnxruntime.capi._pybind_state import quantize_matmul_4bits, quantize_matmul_8bits
from safetensors.numpy import save_file

BLOCKS = (16, 32, 64, 128, 256)
KERNELS = {4: quantize_matmul_4bits, 8: quantize_matmul_8bits}


def cases(block, bits, rng):
    """Weights [K, N]: name -> array."""
    yield "even", rng.normal(0, 0.02, (2 * block, 3))
    # An odd number of blocks (zero points of one row share no byte with the next), the last one not full. K stays
    # even: for an odd one the quantiser leaves what it happens to find in the last nibble.
    yield "ragged", rng.normal(0.01, 0.02, (2 * block + block // 2 + 2, 2))
    half, levels = 2 ** (bits - 1), 2**bits - 1
    steps = np.arange(block) % (2 * half - 1) - half + 1.0  # whole numbers above -half, below half

    def with_ends(values, *ends):
        values = np.array(values, dtype=np.float64)
        values[: len(ends)] = ends
        return values

    columns = [
        np.zeros(block),
        -np.zeros(block),
        np.abs(rng.normal(0, 1, block)) + 0.5,  # all positive: the range is widened to 0
        -np.abs(rng.normal(0, 1, block)) - 0.5,
        np.full(block, 0.75),  # constant
        with_ends(rng.normal(0, 0.02, block), 1e30),  # one huge outlier
        with_ends(rng.normal(0, 0.02, block), -1e30),
        with_ends(rng.normal(0, 1, block) * 1e-40, 1.0),  # denormals beside a normal number
        rng.normal(0, 1, block) * 1e-30,  # a small scale
        with_ends(np.clip(rng.normal(0, 1, block), -1.5, 1.5), 2.0, -2.0),  # which end of equal size wins
        with_ends(np.clip(rng.normal(0, 1, block), -1.5, 1.5), -2.0, 2.0),
        with_ends(steps + 0.5, -half),  # sym: scale 1, every other value a tie
        with_ends(steps - 0.5, half),  # sym: scale -1
        with_ends(np.abs(steps) + 0.5, 0.0, levels),  # asym: scale 1, zero point 0, ties
        with_ends(np.clip(steps, -levels / 2, levels / 2), -levels / 2, levels / 2),  # asym: the zero point is a tie
        with_ends(np.clip(steps + 0.5, -levels / 2 + 1, levels / 2 - 1), 1 - levels / 2, levels / 2 + 1),
    ]
    yield "special", np.stack(columns, axis=1)


def quantize(weight, block, bits, symmetric):
    """The rule, restated in float32: codes [N, blocks, B], scales [N, blocks], zero points [N, blocks]."""
    k, n = weight.shape
    blocks = -(-k // block)
    padded = np.zeros((n, blocks * block), np.float32)
    padded[:, :k] = weight.T
    w = padded.reshape(n, blocks, block)
    half, levels = np.float32(2 ** (bits - 1)), np.float32(2**bits - 1)
    low, high = np.minimum(w.min(2), 0), np.maximum(w.max(2), 0)
    if symmetric:
        # The value of largest magnitude becomes code 0, so the scale has the other sign; the negative one at a draw.
        scales = np.where(np.abs(high) > np.abs(low), high, low) / -half
        zeros = np.full_like(scales, half)
    else:
        scales = (high - low) / levels
        safe = np.where(scales == 0, np.float32(1), scales)
        zeros = np.where(scales == 0, np.float32(0), half_away(np.clip(-low / safe, 0, levels)))
    inverse = np.where(scales == 0, np.float32(0), 1 / np.where(scales == 0, np.float32(1), scales))
    codes = np.clip(half_away(w * inverse[..., None] + zeros[..., None]), 0, levels)
    codes.reshape(n, -1)[:, k:] = 0  # past the end, where the activations are taken as 0
    return codes.astype(np.uint8), scales, zeros.astype(np.uint8)


def half_away(x):
    """C's roundf."""
    whole = np.trunc(x)
    return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole).astype(np.float32)


def pack(codes, bits):
    """Low nibble first; 8 in the nibble that an odd number of zero points leaves over."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.full_like(codes[..., :1], 8)], axis=-1)
    return codes[..., 0::2] | codes[..., 1::2] << 4


def run_quantizer(weight, block, bits, symmetric):
    k, n = weight.shape
    blocks = -(-k // block)
    packed = np.zeros((n, blocks, block * bits // 8), np.uint8)
    scales = np.zeros((n, blocks), np.float32)
    zp = np.zeros((n, -(-blocks * bits // 8)), np.uint8)
    KERNELS[bits](packed, weight, scales, zp, block, n, k, symmetric)
    return packed, scales, zp


def decode(packed, scales, zp, k, block, bits):
    """The weights [K, N] that MatMulNBits multiplies with."""
    n = packed.shape[0]
    names = ["A", "B", "scales"] + ([] if zp is None else ["zp"])
    constants = [numpy_helper.from_array(x, name) for name, x in zip(names[1:], (packed, scales, zp)) if x is not None]
    node = onnx.helper.make_node(
        "MatMulNBits", names, ["Y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=0
    )
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node], "decode", [info("A", TensorProto.FLOAT, [k, k])], [info("Y", TensorProto.FLOAT, [k, n])], constants
    )
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"A": np.eye(k, dtype=np.float32)})[0]


def main():
    here = pathlib.Path(__file__).resolve().parents[2]
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-o", "--output", type=pathlib.Path, default=here / "quantize/testdata/rtn.safetensors")
    a = p.parse_args()
    tensors = {}
    for block in BLOCKS:
        for bits in KERNELS:
            for name, weight in cases(block, bits, np.random.default_rng(block)):
                weight = np.ascontiguousarray(weight, dtype=np.float32)
                for kind in ("sym", "asym"):
                    prefix = f"b{block}.{kind}.{bits}.{name}"
                    packed, scales, zp = run_quantizer(weight, block, bits, kind == "sym")
                    codes, want_scales, zeros = quantize(weight, block, bits, kind == "sym")
                    np.testing.assert_array_equal(scales, want_scales, err_msg=prefix)
                    np.testing.assert_array_equal(packed, pack(codes, bits), err_msg=prefix)
                    tensors |= {f"{prefix}.weight": weight, f"{prefix}.packed": packed, f"{prefix}.scales": scales}
                    if kind == "asym":
                        np.testing.assert_array_equal(zp, pack(zeros, bits), err_msg=prefix)
                        tensors[f"{prefix}.zp"] = zp
                    exact = (codes.astype(np.float32) - zeros[..., None]) * scales[..., None]
                    exact = exact.reshape(len(exact), -1)[:, : len(weight)].T
                    decoded = decode(packed, scales, zp if kind == "asym" else None, len(weight), block, bits)
                    np.testing.assert_allclose(decoded, exact, rtol=1e-6, err_msg=prefix)
    a.output.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, a.output)
    print(f"{a.output}: {len(tensors)} tensors, {a.output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
