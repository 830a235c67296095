"""Writes encode.json: texts and the ids that transformers gives them with the
tokenizer of qwen3-tiny. Needs transformers:

    python encode.py
"""
import json
import pathlib

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[2]
TEXTS = [
    "The quick brown fox doesn't jump over 12,345 lazy dogs.",
    "  leading, trailing and   inner spaces  \n\n\n\ttabs\r\n",
    "naïve café — “quotes” … 北京 你好 العربية हिन्दी 🙂👩‍👩‍👧",
    "e\u0301 is composed by normalisation, \ufb01 is not",
    "def f(x):\n    return x ** 2  # comment\n",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>\n<tool_call>{}</tool_call><|endoftext|>",
    "<|im_start| >almost special",
    "\ufffd and \u2028 and \u200b",
    "1234567890" * 4,
    "I'LL they're IT'S",
]


def main():
    tok = AutoTokenizer.from_pretrained(ROOT / "models" / "tiny" / "qwen3-tiny")
    prompts = json.loads((ROOT / "models" / "testdata" / "reference" / "prompts.json").read_text())
    texts = TEXTS + [p["prompt"] for p in prompts]
    rows = [
        {"text": t, "ids": tok.encode(t, add_special_tokens=False),
         "decoded": tok.decode(tok.encode(t, add_special_tokens=False), skip_special_tokens=True)}
        for t in texts
    ]
    (HERE / "encode.json").write_text(json.dumps(rows, ensure_ascii=False) + "\n")


main()
