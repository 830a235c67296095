"""Writes runner/sample/testdata/vectors.json: logits, and which tokens the logits
processors of transformers leave with which probabilities. Needs torch and transformers:

    python sampling.py
"""
import json
import pathlib

import torch
from transformers.generation import logits_process as lp

OUT = pathlib.Path(__file__).parents[2] / "runner" / "sample" / "testdata" / "vectors.json"

# What is not given is off.
SETTINGS = [
    dict(),
    dict(temperature=0.6, top_k=20, top_p=0.95),  # Qwen3's recommendation with thinking
    dict(temperature=0.7, top_k=20, top_p=0.8),  # and without
    dict(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.5),
    dict(temperature=1.5, top_k=5),
    dict(temperature=2.0, top_p=0.5),
    dict(top_p=0.999),
    dict(top_p=0.01),
    dict(temperature=0.9, min_p=0.1),
    dict(temperature=1.3, top_p=0.9, min_p=0.05, repetition_penalty=1.2),
    dict(temperature=5.0, top_k=100, top_p=0.7, min_p=0.3, repetition_penalty=0.8),
    dict(top_k=10000, repetition_penalty=1.1),
    dict(typical_p=0.9),
    dict(typical_p=0.2),
    dict(temperature=0.5, typical_p=0.01),
    dict(temperature=3.0, typical_p=0.999),
    dict(temperature=0.7, top_k=50, top_p=0.9, min_p=0.02, typical_p=0.6),
    dict(top_k=30, frequency_penalty=0.7),
    dict(top_k=30, presence_penalty=1.5),
    dict(top_k=30, frequency_penalty=-0.4, presence_penalty=2.0, repetition_penalty=1.3),
    dict(top_k=30, no_repeat_ngram=1),
    dict(top_k=30, no_repeat_ngram=2),
    dict(top_k=30, no_repeat_ngram=3),
    dict(top_k=30, no_repeat_ngram=40),  # longer than the text
    dict(top_k=30, logit_bias={3: 5.0, 7: -100.0, 11: 0.5}),
    dict(top_k=30, logit_bias={0: 2.5, 1: -1.5, 2: 4.0}, repetition_penalty=1.4, no_repeat_ngram=2,
         frequency_penalty=0.25, temperature=0.8, typical_p=0.95),
]


class Counted(lp.LogitsProcessor):
    """Frequency and presence penalty, which transformers does not have, by the formula of OpenAI's API reference."""

    def __init__(self, prompt, frequency, presence):
        self.prompt, self.frequency, self.presence = prompt, frequency, presence

    def __call__(self, input_ids, scores):
        counts = torch.bincount(input_ids[0, self.prompt:], minlength=scores.shape[-1]).float()
        return scores - self.frequency * counts - self.presence * (counts > 0)


def processors(c, prompt):
    """In the order of generation/utils.py, _get_logits_processor."""
    if c.get("logit_bias"):
        yield lp.SequenceBiasLogitsProcessor([[[token], bias] for token, bias in c["logit_bias"].items()])
    if c.get("repetition_penalty"):
        yield lp.RepetitionPenaltyLogitsProcessor(c["repetition_penalty"])
    if c.get("frequency_penalty") or c.get("presence_penalty"):
        yield Counted(prompt, c.get("frequency_penalty", 0.0), c.get("presence_penalty", 0.0))
    if c.get("no_repeat_ngram"):
        yield lp.NoRepeatNGramLogitsProcessor(c["no_repeat_ngram"])


def warpers(c):
    """What sampling has and greedy decoding does not."""
    if c["temperature"] != 1.0:
        yield lp.TemperatureLogitsWarper(c["temperature"])
    if c.get("top_k"):
        yield lp.TopKLogitsWarper(c["top_k"])
    if c.get("top_p"):
        yield lp.TopPLogitsWarper(c["top_p"])
    if c.get("min_p"):
        yield lp.MinPLogitsWarper(c["min_p"])
    if c.get("typical_p"):
        yield lp.TypicalLogitsWarper(c["typical_p"])


def main():
    generator = torch.Generator().manual_seed(3)
    rows = []
    for spread in (1.0, 4.0):
        # Three decimals keep the file small; distinct, so that no tie is decided by torch's sort.
        values = (torch.randn(300, generator=generator) * spread * 1000).round().unique()
        values = values[torch.randperm(len(values), generator=generator)] / 1000
        # Repetitions, also of pairs and triples, and of likely tokens.
        likely = values.topk(6).indices
        text = torch.cat([torch.randint(len(values), (12,), generator=generator), likely, likely[:4], likely[2:5],
                          torch.tensor([0, 0, 3]), likely[:2]])
        prompt = 16
        cases = []
        for setting in SETTINGS:
            case = {"temperature": 1.0, **setting}
            scores = values[None].clone()
            for process in processors(case, prompt):
                scores = process(text[None], scores)
            greedy = int(scores[0].argmax())
            for warp in warpers(case):
                scores = warp(text[None], scores)
            probabilities = scores[0].double().softmax(-1)
            kept = torch.isfinite(scores[0]).nonzero()[:, 0]
            cases.append({**case, "greedy": greedy, "kept": kept.tolist(),
                          "probabilities": [float(f"{p:.6g}") for p in probabilities[kept].tolist()]})
        rows.append({"logits": [round(v, 3) for v in values.tolist()], "text": text.tolist(), "prompt": prompt,
                     "cases": cases})
    OUT.write_text(json.dumps(rows, separators=(",", ":")) + "\n")


main()
