#!/usr/bin/env python3
"""Make the small random Qwen3 checkpoints that the tests export, and what transformers computes on them.

    python3 -m venv venv && venv/bin/pip install -r scripts/reference/requirements.txt
    venv/bin/python scripts/reference/make_checkpoints.py [-o models/testdata/checkpoints] [NAME ...]

Each folder is a Hugging Face checkpoint (config.json, safetensors) with one more file, reference.safetensors:

    input_ids.N  int64   [S]      prompt N (two of them), uniform over the vocabulary
    logits.N     float32 [S, V]   transformers on the stored weights, computed in fp32 with eager attention
    greedy.N     int64   [16]     the most likely token, sixteen times over, after the prompt

A trained model would not need the care taken here. Random weights of the usual size (std 0.02) give logits so
flat that greedy tokens hang on the last bits, and attention so even that a wrong rotation hardly shows. So the
weights are large, the norm weights lie well away from 1, and the seed is the first for which every greedy choice
leads the next by at least 2 % of the largest logit and the greedy tokens do not fall into a loop.
"""

import argparse
import copy
import itertools
import json
import pathlib
import shutil
import tempfile

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

GREEDY = 16
MIN_GAP = 0.02  # of the largest logit of the position
MIN_DISTINCT = 8  # different tokens among the GREEDY
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# What the checkpoints share; each of CHECKPOINTS changes what it is there to test.
BASE = dict(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=160,  # no power of two: a transposed or padded weight cannot pass by luck
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=512,
    rope_theta=1000000,
    rope_scaling=None,
    tie_word_embeddings=False,
)

# As the Qwen3 model card has it: 32768 x 4, and max_position_embeddings left at 40960, a quarter above 32768.
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}

# name: (what differs from BASE, dtype, number of shards, config form, prompt lengths)
CHECKPOINTS = {
    "untied-f32": (dict(), "float32", 1, 4, (24, 9)),
    "tied-f16": (dict(tie_word_embeddings=True), "float16", 1, 4, (24, 9)),
    "headdim-bf16": (dict(head_dim=32), "bfloat16", 1, 4, (24, 9)),
    "sharded-bf16": (dict(num_hidden_layers=3), "bfloat16", 3, 4, (24, 9)),
    "yarn-f32": (dict(rope_scaling=YARN, max_position_embeddings=80), "float32", 1, 4, (150, 70)),
    "config5-f32": (dict(num_hidden_layers=1), "float32", 1, 5, (24, 9)),
    "gqa1-bf16": (dict(num_key_value_heads=1, tie_word_embeddings=True), "bfloat16", 1, 4, (24, 9)),
    "small-bf16": (
        dict(vocab_size=128, hidden_size=32, intermediate_size=48, tie_word_embeddings=True),
        "bfloat16",
        1,
        4,
        (24, 9),
    ),
    "mha-bf16": (dict(num_key_value_heads=4, rope_theta=10000), "bfloat16", 1, 4, (24, 9)),
}

# Qwen/Qwen3-0.6B on the hub stores lm_head.weight although it is tied: the same bytes as embed_tokens.weight.
STORED_TIED_HEAD = {"gqa1-bf16"}


def config_v4(shape, dtype):
    """config.json as transformers 4 writes it and as the Qwen3 checkpoints on the hub have it."""
    return dict(
        sorted(
            dict(
                shape,
                architectures=["Qwen3ForCausalLM"],
                attention_bias=False,
                attention_dropout=0.0,
                bos_token_id=0,
                eos_token_id=1,
                hidden_act="silu",
                initializer_range=0.02,
                max_window_layers=shape["num_hidden_layers"],
                model_type="qwen3",
                rms_norm_eps=1e-06,
                sliding_window=None,
                torch_dtype=dtype,
                transformers_version="4.51.0",
                use_cache=True,
                use_sliding_window=False,
            ).items()
        )
    )


def read_config(fields):
    """What transformers makes of a config.json; on a copy, as it writes rope_theta into the rope_scaling it is given."""
    return Qwen3Config.from_dict(copy.deepcopy(fields))


def config_v5(v4):
    """The same configuration as the installed transformers (5 or later) writes it."""
    config = read_config(v4)
    config.architectures = v4["architectures"]
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        v5 = json.loads(pathlib.Path(folder, "config.json").read_text())
    assert "rope_parameters" in v5 and "dtype" in v5 and "rope_theta" not in v5, v5
    return v5


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n")


def random_weights(config, dtype, seed):
    """The checkpoint's tensors, in their stored type."""
    torch.manual_seed(seed)
    model = Qwen3ForCausalLM(config)
    weights = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if name.endswith("norm.weight"):
            value = torch.empty(tensor.shape).uniform_(0.5, 1.75)
        else:
            value = torch.empty(tensor.shape).normal_(0, 0.2)
        weights[name] = value.to(DTYPES[dtype])
    return weights


def save_weights(folder, weights, shards):
    """One model.safetensors, or shards with an index, as save_pretrained lays them out."""
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    per_shard = -(-len(names) // shards)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = {n: weights[n] for n in names[i * per_shard : (i + 1) * per_shard]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update((n, file) for n in part)
    total = sum(t.numel() * t.element_size() for t in weights.values())
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
    )


def load(folder):
    return Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def reference(model, seed, lengths):
    """What reference.safetensors holds, and the smallest lead of a greedy token; no lead if the tokens loop."""
    generator = torch.Generator().manual_seed(seed)
    tensors, smallest = {}, float("inf")
    for n, length in enumerate(lengths):
        ids = torch.randint(0, model.config.vocab_size, (length,), generator=generator)
        sequence, logits = ids, model(ids[None]).logits[0]
        tensors[f"input_ids.{n}"], tensors[f"logits.{n}"] = ids, logits
        for _ in range(GREEDY):
            top = logits[-1].topk(2)
            smallest = min(smallest, ((top.values[0] - top.values[1]) / logits[-1].abs().max()).item())
            sequence = torch.cat([sequence, top.indices[:1]])
            logits = model(sequence[None]).logits[0]
        greedy = sequence[length:]
        tensors[f"greedy.{n}"] = greedy.clone()
        if len(greedy.unique()) < MIN_DISTINCT:
            smallest = 0.0
        if smallest < MIN_GAP:
            break
    return tensors, smallest


def make(out, name):
    """Write one checkpoint, trying seeds until its reference is worth testing against."""
    changes, dtype, shards, form, lengths = CHECKPOINTS[name]
    v4 = config_v4(dict(BASE, **changes), dtype)
    v5 = config_v5(v4)
    assert read_config(v4).rope_parameters == read_config(v5).rope_parameters
    for seed in itertools.count():
        with tempfile.TemporaryDirectory() as tmp:
            folder = pathlib.Path(tmp)
            weights = random_weights(read_config(v4), dtype, seed)
            if name in STORED_TIED_HEAD:
                weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
            save_weights(folder, weights, shards)
            write_json(folder / "config.json", v4 if form == 4 else v5)
            model = load(folder)
            tensors, gap = reference(model, seed, lengths)
            if gap < MIN_GAP:
                continue
            # The other form of config.json must mean the same to transformers.
            write_json(folder / "config.json", v5 if form == 4 else v4)
            other, _ = reference(load(folder), seed, lengths)
            assert all(torch.equal(tensors[k], other[k]) for k in tensors), name
            write_json(folder / "config.json", v4 if form == 4 else v5)
            if name == "yarn-f32":
                write_json(folder / "config.v5.json", v5)
            save_file(
                {k: v.contiguous() for k, v in tensors.items()},
                folder / "reference.safetensors",
                # One key: safetensors writes several in no fixed order.
                metadata={"made_by": f"transformers {transformers.__version__}, torch {torch.__version__}, seed {seed}"},
            )
            target = out / name
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for file in folder.iterdir():  # not copytree: the temporary folder and its files are for their owner only
                shutil.copyfile(file, target / file.name)
        size = sum(f.stat().st_size for f in target.iterdir())
        spread = tensors["logits.0"].std().item()
        print(f"{name:14} seed {seed:3}  smallest greedy lead {gap:.3f}  logit std {spread:.2f}  {size / 1e3:.0f} kB")
        return


def main():
    here = pathlib.Path(__file__).resolve().parents[2]
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("-o", "--output", type=pathlib.Path, default=here / "models/testdata/checkpoints")
    p.add_argument("name", nargs="*", choices=[[], *CHECKPOINTS], help="default: all")
    a = p.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    with torch.inference_mode():
        for name in a.name or CHECKPOINTS:
            make(a.output, name)


if __name__ == "__main__":
    main()
