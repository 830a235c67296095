"""Writes runner/sample/testdata/vectors.json: logits, and which tokens the logits
processors of transformers leave with which probabilities. Needs torch and transformers:

    python sampling.py
"""
import json
import pathlib

import torch
from transformers.generation import logits_process as lp

OUT = pathlib.Path(__file__).parents[2] / "runner" / "sample" / "testdata" / "vectors.json"

# temperature, top_k, top_p, min_p, repetition_penalty; 0 is off.
SETTINGS = [
    (1.0, 0, 0, 0, 0),
    (0.6, 20, 0.95, 0, 0),  # Qwen3's recommendation with thinking
    (0.7, 20, 0.8, 0, 0),  # and without
    (0.7, 20, 0.8, 0, 1.5),
    (1.5, 5, 0, 0, 0),
    (2.0, 0, 0.5, 0, 0),
    (1.0, 0, 0.999, 0, 0),
    (1.0, 0, 0.01, 0, 0),
    (0.9, 0, 0, 0.1, 0),
    (1.3, 0, 0.9, 0.05, 1.2),
    (5.0, 100, 0.7, 0.3, 0.8),
    (1.0, 10000, 0, 0, 1.1),
]


def processors(temperature, top_k, top_p, min_p, penalty):
    """In the order of generation/utils.py, _get_logits_processor."""
    if penalty:
        yield lp.RepetitionPenaltyLogitsProcessor(penalty)
    if temperature != 1.0:
        yield lp.TemperatureLogitsWarper(temperature)
    if top_k:
        yield lp.TopKLogitsWarper(top_k)
    if top_p:
        yield lp.TopPLogitsWarper(top_p)
    if min_p:
        yield lp.MinPLogitsWarper(min_p)


def main():
    generator = torch.Generator().manual_seed(3)
    inputs = []
    for spread in (1.0, 4.0):
        # Three decimals keep the file small; distinct, so that no tie is decided by torch's sort.
        values = (torch.randn(300, generator=generator) * spread * 1000).round().unique()
        values = values[torch.randperm(len(values), generator=generator)] / 1000
        history = torch.randint(len(values), (20,), generator=generator)
        inputs.append((values, history))
    cases = []
    for values, history in inputs:
        for temperature, top_k, top_p, min_p, penalty in SETTINGS:
            scores = values[None].clone()
            for process in processors(temperature, top_k, top_p, min_p, penalty):
                scores = process(history[None], scores)
            probabilities = scores[0].double().softmax(-1)
            kept = torch.isfinite(scores[0]).nonzero()[:, 0]
            cases.append({
                "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
                "repetition_penalty": penalty, "greedy": int(scores[0].argmax()), "kept": kept.tolist(),
                "probabilities": [float(f"{p:.6g}") for p in probabilities[kept].tolist()],
            })
    rows = [
        {"logits": [round(v, 3) for v in values.tolist()], "history": history.tolist(),
         "cases": cases[i * len(SETTINGS):(i + 1) * len(SETTINGS)]}
        for i, (values, history) in enumerate(inputs)
    ]
    OUT.write_text(json.dumps(rows, separators=(",", ":")) + "\n")


main()
