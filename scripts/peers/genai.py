#!/usr/bin/env python3
"""Build a Qwen3 checkpoint with onnxruntime-genai, and time the result as llama-bench would.

    python3 -m venv venv && venv/bin/pip install -r scripts/peers/requirements.txt
    venv/bin/python scripts/peers/genai.py build HF_DIR -o DIR [--precision int4] [--block-size 32]
    venv/bin/python scripts/peers/genai.py bench DIR [-p 512] [-n 64] [-d 0] [-t 2] [-r 5]

bench prints the JSON that `qwenrt bench -o json` prints, see peer.py.

A prefill (n_prompt P, n_gen 0) is P random tokens at once, until the logits are there. A decode (n_prompt 0,
n_gen N) is N greedy steps, begun when n_depth tokens of context (at least one) have been taken in.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import peer


def build(a):
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", a.model, "-o", a.output]
            + ["-p", a.precision, "-e", "cpu", "-c", cache]
            + ["--extra_options", "accuracy_level=4", f"block_size={a.block_size}"],
            check=True,
            stdout=sys.stderr,
        )


class GenAI:
    def __init__(self, folder, threads):
        import numpy as np
        import onnxruntime_genai as og

        self.og, self.name = og, "onnxruntime-genai " + og.__version__
        config = og.Config(folder)
        # Left alone, ONNX Runtime counts physical cores and may see one on a virtual machine.
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = og.Model(config)
        vocabulary = json.loads(pathlib.Path(folder, "genai_config.json").read_text())["model"]["vocab_size"]
        rng = np.random.default_rng(0)
        self.tokens = lambda n: rng.integers(0, vocabulary, n).astype(np.int32)

    def generator(self, tokens):
        """A generator with room for this many tokens: the KV buffer is no longer than the test needs."""
        params = self.og.GeneratorParams(self.model)
        params.set_search_options(max_length=tokens, min_length=tokens, do_sample=False)
        return self.og.Generator(self.model, params)

    def prefill(self, n):
        g, ids = self.generator(n + 1), self.tokens(n)
        start = time.perf_counter()
        g.append_tokens(ids)
        g.get_logits()
        return time.perf_counter() - start

    def decode(self, n, depth):
        depth = max(depth, 1)
        g = self.generator(depth + n + 2)
        g.append_tokens(self.tokens(depth))
        g.generate_next_token()  # chooses from the logits of the context: no step of the model yet
        start = time.perf_counter()
        for _ in range(n):
            g.generate_next_token()
        return time.perf_counter() - start


if __name__ == "__main__":
    peer.main(__doc__, build, GenAI, precision="int4")
