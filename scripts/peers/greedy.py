#!/usr/bin/env python3
"""Compare what qwenrt and onnxruntime-genai generate from the same model folders, greedily.

    python3 -m venv venv && venv/bin/pip install -r scripts/peers/requirements.txt
    venv/bin/python scripts/peers/greedy.py [--qwenrt bin/qwenrt] [-n 48] FOLDER...

Each folder is opened by both, and continues some prompts. Ends with 1 where texts differ. Logits of the two are equal
where kernels and batch shapes are; where two tokens are next to equally likely, they may still part, which is shown.
"""

import argparse
import json
import pathlib
import subprocess
import sys

PROMPTS = [
    "A harbor is a place where",
    "The history of the steam engine begins",
    "def fibonacci(n):\n",
    "Water boils at",
    "In the year 1905",
]


def qwenrt(a, folder, prompt):
    command = [a.qwenrt, "run", folder, "--no-chat", "-p", prompt, "--max-tokens", str(a.tokens), "--json"]
    command += ["--temperature", "0", "--repetition-penalty", "1", "--threads", str(a.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)["text"]


class GenAI:
    def __init__(self, a, folder):
        import onnxruntime_genai as og

        self.og, self.count = og, a.tokens
        config = og.Config(folder)
        threads = {"intra_op_num_threads": a.threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
        self.model = og.Model(config)
        self.tokenizer = og.Tokenizer(self.model)

    def text(self, prompt):
        ids = self.tokenizer.encode(prompt)
        params = self.og.GeneratorParams(self.model)
        params.set_search_options(max_length=len(ids) + self.count, do_sample=False, repetition_penalty=1.0)
        generator = self.og.Generator(self.model, params)
        generator.append_tokens(ids)
        made = []
        while not generator.is_done() and len(made) < self.count:
            generator.generate_next_token()
            made.append(generator.get_next_tokens()[0])
        return self.tokenizer.decode(made)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folders", nargs="+", metavar="FOLDER")
    p.add_argument("--qwenrt", default="bin/qwenrt")
    p.add_argument("-n", dest="tokens", type=int, default=48)
    p.add_argument("-t", "--threads", type=int, default=2)
    a = p.parse_args()
    differ = 0
    for folder in a.folders:
        peer = GenAI(a, folder)
        same = 0
        for prompt in PROMPTS:
            ours, theirs = qwenrt(a, folder, prompt), peer.text(prompt)
            # A stop token at the end is text to one of them.
            if ours == theirs or theirs.startswith(ours) and theirs[len(ours) :].startswith("<|"):
                same += 1
            else:
                print(f"{folder}: {prompt!r}\n  qwenrt {ours!r}\n  genai  {theirs!r}")
        print(f"{pathlib.Path(folder).name}: {same} of {len(PROMPTS)} texts are the same")
        differ += len(PROMPTS) - same
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()
