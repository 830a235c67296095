#!/usr/bin/env python3
"""Build a Qwen3 checkpoint with onnxruntime-genai, and time the result as llama-bench would.

    python3 -m venv venv && venv/bin/pip install -r scripts/peers/requirements.txt
    venv/bin/python scripts/peers/genai.py build HF_DIR -o DIR [--precision int4] [--block-size 32]
    venv/bin/python scripts/peers/genai.py bench DIR [-p 512] [-n 64] [-d 0] [-t 2] [-r 5]

bench prints the JSON that `qwenrt bench -o json` prints: an array with one object a test, with llama-bench's
field names (avg_ts and the rest in tokens/s), and load_s, the seconds until the model was loaded.

A prefill (n_prompt P, n_gen 0) is P random tokens at once, until the logits are there. A decode (n_prompt 0,
n_gen N) is N greedy steps, begun when n_depth tokens of context (at least one) have been taken in.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time


def build(a):
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", a.model, "-o", a.output]
            + ["-p", a.precision, "-e", "cpu", "-c", cache]
            + ["--extra_options", "accuracy_level=4", f"block_size={a.block_size}"],
            check=True,
            stdout=sys.stderr,
        )


def bench(a):
    import numpy as np
    import onnxruntime_genai as og

    start = time.perf_counter()
    config = og.Config(a.model)
    # Left alone, ONNX Runtime counts physical cores and may see one on a virtual machine.
    threads = {"intra_op_num_threads": a.threads}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": threads}}}))
    model = og.Model(config)
    load = time.perf_counter() - start

    vocabulary = json.loads(pathlib.Path(a.model, "genai_config.json").read_text())["model"]["vocab_size"]
    rng = np.random.default_rng(0)

    def generator(tokens):
        """A generator with room for this many tokens: the KV buffer is no longer than the test needs."""
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=tokens, min_length=tokens, do_sample=False)
        return og.Generator(model, params)

    def prefill():
        g, ids = generator(a.n_prompt + 1), rng.integers(0, vocabulary, a.n_prompt).astype(np.int32)
        start = time.perf_counter()
        g.append_tokens(ids)
        g.get_logits()
        return time.perf_counter() - start

    def decode():
        depth = max(a.n_depth, 1)
        g, ids = generator(depth + a.n_gen + 2), rng.integers(0, vocabulary, depth).astype(np.int32)
        g.append_tokens(ids)
        g.generate_next_token()  # chooses from the logits of the context: no step of the model yet
        start = time.perf_counter()
        for _ in range(a.n_gen):
            g.generate_next_token()
        return time.perf_counter() - start

    tests = []
    for n_prompt, n_gen, once in ((a.n_prompt, 0, prefill), (0, a.n_gen, decode)):
        if n_prompt + n_gen == 0:
            continue
        once()  # warm-up
        seconds = [once() for _ in range(a.repetitions)]
        speeds = [(n_prompt + n_gen) / s for s in seconds]
        tests.append(
            {
                "backends": "onnxruntime-genai " + og.__version__,
                "model_filename": a.model,
                "n_threads": a.threads,
                "n_prompt": n_prompt,
                "n_gen": n_gen,
                "n_depth": a.n_depth,
                "avg_ts": statistics.mean(speeds),
                "stddev_ts": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
                "samples_ts": speeds,
                "load_s": load,
            }
        )
    json.dump(tests, sys.stdout, indent=2)
    print()


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = p.add_subparsers(required=True, metavar="build|bench")
    b = commands.add_parser("build")
    b.set_defaults(run=build)
    b.add_argument("model", metavar="HF_DIR")
    b.add_argument("-o", "--output", required=True)
    b.add_argument("--precision", default="int4")
    b.add_argument("--block-size", type=int, default=32)
    b = commands.add_parser("bench")
    b.set_defaults(run=bench)
    b.add_argument("model", metavar="DIR")
    b.add_argument("-p", "--n-prompt", type=int, default=512)
    b.add_argument("-n", "--n-gen", type=int, default=64)
    b.add_argument("-d", "--n-depth", type=int, default=0)
    b.add_argument("-t", "--threads", type=int, default=2)
    b.add_argument("-r", "--repetitions", type=int, default=5)
    a = p.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
