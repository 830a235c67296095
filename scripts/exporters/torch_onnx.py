#!/usr/bin/env python3
"""Export a Qwen3 checkpoint with torch.onnx, in each of the forms that its exporters give.

    python3 -m venv venv && venv/bin/pip install -r scripts/exporters/requirements.txt
    venv/bin/python scripts/exporters/torch_onnx.py HF_DIR -o DIR [NAME ...]

DIR/NAME gets model.onnx, its external data, and the checkpoint's configuration and tokenizer:

    dynamo-18            torch.export, opset 18, attention in pieces
    dynamo-18-fp16       the same in float16
    dynamo-18-sdpa       through torch's scaled_dot_product_attention, as transformers runs it by default
    dynamo-18-names      inputs and outputs named by torch, not by us
    dynamo-18-batch1     the batch fixed at 1, lengths free
    dynamo-18-static     all lengths fixed: 5 tokens behind 3
    dynamo-23            opset 23: Attention as one operator; onnxscript's optimizer finds RMSNormalization and
                         RotaryEmbedding
    dynamo-23-standard   opset 23, norms and rotary embedding written as these operators in torch
    dynamo-23-standard-fp16
    dynamo-24-standard   the same at opset 24
    torchscript-17       the exporter before that, by tracing, opset 17
    torchscript-17-fp16
    torchscript-14       the oldest opset that has all that Qwen3 needs

A KV cache goes in as past_key_values.N.key and .value and comes out as present.N.key and .value.
"""

import warnings

import torch
from torch.export import Dim
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.models.qwen3 import modeling_qwen3

import common

RECIPES = {
    "dynamo-18": dict(opset=18),
    "dynamo-18-fp16": dict(opset=18, dtype="float16"),
    "dynamo-18-sdpa": dict(opset=18, attention="sdpa"),
    "dynamo-18-names": dict(opset=18, named=False),
    "dynamo-18-batch1": dict(opset=18, fixed={"batch_size": 1}),
    "dynamo-18-static": dict(
        opset=18, fixed={"batch_size": 1, "sequence_length": 5, "past_sequence_length": 3, "total_sequence_length": 8}
    ),
    "dynamo-23": dict(opset=23, attention="sdpa"),
    "dynamo-23-standard": dict(opset=23, attention="sdpa", standard=True),
    "dynamo-23-standard-fp16": dict(opset=23, attention="sdpa", standard=True, dtype="float16"),
    "dynamo-24-standard": dict(opset=24, attention="sdpa", standard=True),
    "torchscript-17": dict(opset=17, dynamo=False),
    "torchscript-17-fp16": dict(opset=17, dynamo=False, dtype="float16"),
    "torchscript-14": dict(opset=14, dynamo=False),
}


class Flat(torch.nn.Module):
    """The model with tensors for arguments and results, as ONNX has them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, past_key_values):
        cache = DynamicCache(past_key_values, config=self.model.config)
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        present = [t for layer in out.past_key_values.layers for t in (layer.keys, layer.values)]
        return (out.logits, *present)


class Traced(Flat):
    """The same for the tracer, which takes no lists of pairs."""

    def forward(self, input_ids, attention_mask, position_ids, *past):
        return super().forward(input_ids, attention_mask, position_ids, list(zip(past[::2], past[1::2])))


def use_standard_operators(model):
    """Writes norms and rotary embedding as the operators that opset 23 has for them."""

    def norm(self, x):
        return torch.nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    def rotate(q, k, cos, sin, *_args, **_kwargs):
        half = cos.shape[-1] // 2
        tables = cos[..., :half], sin[..., :half]
        return tuple(torch.onnx.ops.rotary_embedding(x, *tables) for x in (q, k))

    modeling_qwen3.Qwen3RMSNorm.forward = norm
    modeling_qwen3.apply_rotary_pos_emb = rotate


def example(config, dtype, lengths):
    """Arguments of the given lengths; which numbers they hold does not matter."""
    batch, sequence, past = lengths["batch_size"], lengths["sequence_length"], lengths["past_sequence_length"]
    kv = [batch, config.num_key_value_heads, past, config.head_dim]
    ids = torch.randint(0, config.vocab_size, (batch, sequence))
    mask = torch.ones(batch, past + sequence, dtype=torch.int64)
    positions = torch.arange(past, past + sequence).expand(batch, -1).contiguous()
    cache = [(torch.randn(kv, dtype=dtype), torch.randn(kv, dtype=dtype)) for _ in range(config.num_hidden_layers)]
    return ids, mask, positions, cache


def export(source, folder, opset, dtype="float32", dynamo=True, attention="eager", named=True, standard=False, fixed={}):
    dtype = getattr(torch, dtype)
    original = modeling_qwen3.Qwen3RMSNorm.forward, modeling_qwen3.apply_rotary_pos_emb
    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation=attention).eval()
    config = model.config
    if standard:
        use_standard_operators(model)
    lengths = {"batch_size": 2, "sequence_length": 4, "past_sequence_length": 6, **fixed}
    ids, mask, positions, cache = example(config, dtype, lengths)

    axes = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
        "position_ids": {0: "batch_size", 1: "sequence_length"},
    }
    past = {0: "batch_size", 2: "past_sequence_length"}
    names = [f"{i}.{part}" for i in range(config.num_hidden_layers) for part in ("key", "value")]
    inputs = [*axes, *(f"past_key_values.{n}" for n in names)]
    outputs = ["logits", *(f"present.{n}" for n in names)]

    path = folder / "model.onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            free = {name: Dim(name, min=1, max=config.max_position_embeddings) for name in lengths if name not in fixed}
            free.setdefault("total_sequence_length", Dim.DYNAMIC)

            def dims(axes):
                return {axis: free[name] for axis, name in axes.items() if name not in fixed}

            shapes = {name: dims(a) for name, a in axes.items()}
            shapes["past_key_values"] = [(dims(past), dims(past)) for _ in cache]
            labels = dict(input_names=inputs, output_names=outputs) if named else {}
            program = torch.onnx.export(
                Flat(model),
                (ids, mask, positions, cache),
                dynamic_shapes=shapes,
                opset_version=opset,
                dynamo=True,
                verbose=False,
                **labels,
            )
            program.save(path, external_data=True)
        else:
            free = {**axes, **{n: past for n in inputs[3:]}}
            free |= {n: {0: "batch_size", 2: "total_sequence_length"} for n in outputs[1:]}
            free["logits"] = axes["input_ids"]
            torch.onnx.export(
                Traced(model),
                (ids, mask, positions, *(t for pair in cache for t in pair)),
                str(path),
                input_names=inputs,
                output_names=outputs,
                dynamic_axes=free,
                opset_version=opset,
                dynamo=False,
            )
            common.move_weights_out(path)
    modeling_qwen3.Qwen3RMSNorm.forward, modeling_qwen3.apply_rotary_pos_emb = original
    common.copy_side_files(source, folder)


if __name__ == "__main__":
    common.run(__doc__, RECIPES, export)
