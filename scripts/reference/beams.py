"""Writes runner/testdata/beams.json: answers of transformers' beam search with the carried
model, and their scores. Needs torch and transformers:

    python beams.py
"""
import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = pathlib.Path(__file__).parents[2]
OUT = ROOT / "runner" / "testdata" / "beams.json"

PROMPTS = ["The PostgreSQL server can be configured", "And the word of the", "def add(a, b):"]

SETTINGS = [
    dict(num_beams=2, max_new_tokens=12),
    dict(num_beams=4, max_new_tokens=16, num_return_sequences=3),
    dict(num_beams=4, max_new_tokens=16, length_penalty=0.0, num_return_sequences=2),
    dict(num_beams=3, max_new_tokens=20, length_penalty=2.0, repetition_penalty=1.3),
    dict(num_beams=3, max_new_tokens=14, no_repeat_ngram_size=2, num_return_sequences=3),
    # Common tokens as end tokens, so that beams of many lengths finish.
    dict(num_beams=4, max_new_tokens=24, eos=[".", ",", "Ċ"], num_return_sequences=4),
    dict(num_beams=4, max_new_tokens=24, eos=[".", ",", "Ċ"], num_return_sequences=4, early_stopping=True),
    dict(num_beams=4, max_new_tokens=24, eos=[".", ","], length_penalty=-1.0, num_return_sequences=4),
    dict(num_beams=3, max_new_tokens=24, eos=[".", ",", "Ċ"], min_new_tokens=8, num_return_sequences=2),
]


def main():
    folder = ROOT / "models" / "tiny" / "qwen3-tiny"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for setting in SETTINGS:
            given = dict(setting)
            end = tokenizer.convert_tokens_to_ids(given.pop("eos", []))
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, temperature=None, top_p=None, top_k=None,
                                 eos_token_id=end or None, pad_token_id=0, output_scores=True, return_dict_in_generate=True, **given)
            answers = []
            for row, score in zip(out.sequences[:, ids.shape[1]:].tolist(), out.sequences_scores.tolist()):
                stops = [i for i, t in enumerate(row) if t in end]
                answers.append({"tokens": row[:stops[0]] if stops else row[:given["max_new_tokens"]],
                                "score": round(score, 6)})
            cases.append({"prompt": ids[0].tolist(), "end": end, **given, "answers": answers})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()
