#!/usr/bin/env python3
"""Build a Qwen3 checkpoint with onnxruntime-genai's model builder, for its CPU provider.

    python3 -m venv venv && venv/bin/pip install -r scripts/exporters/requirements.txt
    venv/bin/python scripts/exporters/genai_builder.py HF_DIR -o DIR [NAME ...]

    genai-fp32   GroupQueryAttention and fused norms, weights in float32
    genai-int4   the same with block-quantised weights, the embedding shared with the head
    genai-fp16   MultiHeadAttention: the builder has no GroupQueryAttention in float16 for the CPU
"""

import subprocess
import sys
import tempfile

import common

RECIPES = {f"genai-{p}": dict(precision=p) for p in ("fp32", "int4", "fp16")}


def export(source, folder, precision):
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-m", "onnxruntime_genai.models.builder"]
            + ["-i", str(source), "-o", str(folder), "-p", precision, "-e", "cpu", "-c", cache],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    common.run(__doc__, RECIPES, export)
