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
    # Strings that are parts of tokens, and that lie across some.
    dict(num_beams=4, max_new_tokens=20, stop_strings=["ing", "s a", "f("], num_return_sequences=4),
    dict(num_beams=3, max_new_tokens=20, stop_strings=["ion", "and the", "ret"], eos=["Ċ"], length_penalty=0.5, num_return_sequences=3),
]


def length(tokenizer, row, end, strings):
    """The tokens of an answer, without what fills up the row: up to an end token, or with that which completes a string."""
    for i, token in enumerate(row):
        if token in end:
            return i
        if any(s in tokenizer.decode(row[:i + 1]) for s in strings):
            return i + 1
    return len(row)


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
                                 eos_token_id=end or None, pad_token_id=0, output_scores=True, return_dict_in_generate=True,
                                 tokenizer=tokenizer if "stop_strings" in given else None, **given)
            answers = []
            for row, score in zip(out.sequences[:, ids.shape[1]:].tolist(), out.sequences_scores.tolist()):
                answers.append({"tokens": row[:length(tokenizer, row, end, given.get("stop_strings", []))], "score": round(score, 6)})
            cases.append({"prompt": ids[0].tolist(), "end": end, **given, "answers": answers})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()
