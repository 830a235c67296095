#!/usr/bin/env python3
"""Export a Qwen3 checkpoint with optimum-onnx, and lay it out as the onnx-community repositories are.

    python3 -m venv venv && venv/bin/pip install -r scripts/exporters/requirements-optimum.txt
    venv/bin/python scripts/exporters/optimum_onnx.py HF_DIR -o DIR [NAME ...]

    optimum      model.onnx as `optimum-cli export onnx --task text-generation-with-past` makes it
    community    onnx/model.onnx and onnx/model_q4.onnx, with configuration and tokenizer above them; the second is
                 quantised by ONNX Runtime's MatMulNBitsQuantizer, block 32, symmetric

It has an environment of its own: optimum-onnx 0.1 wants transformers 4.
"""

import pathlib
import shutil
import tempfile
import warnings

from optimum.exporters.onnx import main_export

import common

RECIPES = {"optimum": dict(), "community": dict(community=True)}


def export(source, folder, community=False):
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as work:
        warnings.simplefilter("ignore")
        main_export(str(source), work, task="text-generation-with-past", do_validation=False)
        for file in pathlib.Path(work).iterdir():
            shutil.copyfile(file, folder / file.name)
    model = folder / "model.onnx"
    if community:
        (folder / "onnx").mkdir()
        model = model.rename(folder / "onnx" / "model.onnx")
        quantize(model, model.with_name("model_q4.onnx"))
    common.move_weights_out(model)


def quantize(source, path):
    import onnx
    from onnxruntime.quantization import matmul_nbits_quantizer as nbits

    q = nbits.MatMulNBitsQuantizer(onnx.load(source), block_size=32, is_symmetric=True, accuracy_level=4)
    q.process()
    common.save(q.model.model, path)


if __name__ == "__main__":
    common.run(__doc__, RECIPES, export)
