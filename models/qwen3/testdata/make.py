#!/usr/bin/env python3
"""Write rope.json: rotary frequencies as transformers computes them, for every form of rope parameters.

    python3 -m venv venv && venv/bin/pip install -r scripts/reference/requirements.txt
    venv/bin/python models/qwen3/testdata/make.py
"""

import copy
import json
import pathlib

import transformers
from transformers import Qwen3Config
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

BASE = dict(
    model_type="qwen3",
    vocab_size=32,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=128,
    max_position_embeddings=40960,
)
LONG = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32768)

CASES = {
    "theta of Qwen3": dict(rope_theta=1000000),
    "no theta": dict(),
    "theta in rope_parameters": dict(rope_parameters=dict(rope_type="default", rope_theta=5e6)),
    "empty rope_scaling": dict(rope_theta=1000000, rope_scaling={}),
    "small heads": dict(rope_theta=10000, head_dim=32),
    "yarn of the model card": dict(rope_theta=1000000, rope_scaling=LONG),
    "yarn, transformers 5": dict(rope_parameters=dict(LONG, rope_theta=1000000)),
    "yarn, old key": dict(rope_theta=1000000, rope_scaling=dict(type="yarn", factor=2.5)),
    "yarn, not truncated": dict(rope_theta=1000000, rope_scaling=dict(LONG, truncate=False)),
    "yarn, mscale and betas": dict(
        rope_theta=1000000, rope_scaling=dict(LONG, mscale=0.707, mscale_all_dim=1.0, beta_fast=16, beta_slow=2)
    ),
    "yarn, mscale alone": dict(rope_theta=1000000, rope_scaling=dict(LONG, mscale=0.707)),
    "yarn, attention factor": dict(rope_theta=1000000, rope_scaling=dict(LONG, attention_factor=1.5, mscale=2.0)),
    "yarn, factor null": dict(rope_theta=1000000, rope_scaling=dict(LONG, factor=None)),
    "yarn, original length outside": dict(
        rope_theta=1000000, original_max_position_embeddings=4096, rope_scaling=dict(LONG, factor=8.0)
    ),
    "yarn, ramp without width": dict(
        rope_theta=1000000, rope_scaling=dict(LONG, original_max_position_embeddings=2, truncate=False)
    ),
}


def main():
    out = []
    for name, changes in CASES.items():
        config = dict(BASE, **changes)
        rotary = Qwen3RotaryEmbedding(Qwen3Config.from_dict(copy.deepcopy(config)))
        out.append(
            dict(
                name=name,
                config=config,
                inv_freq=[float(x) for x in rotary.inv_freq],
                attention_factor=float(rotary.attention_scaling),
            )
        )
    path = pathlib.Path(__file__).with_name("rope.json")
    path.write_text(json.dumps(dict(made_by=f"transformers {transformers.__version__}", cases=out), indent=1) + "\n")


if __name__ == "__main__":
    main()
