#!/usr/bin/env python3
"""Build a Qwen3 checkpoint with optimum-intel, and time the result in OpenVINO GenAI as llama-bench would.

    python3 -m venv venv && venv/bin/pip install -r scripts/peers/requirements-openvino.txt
    venv/bin/python scripts/peers/ovgenai.py build HF_DIR -o DIR [--precision int4] [--block-size 32]
    venv/bin/python scripts/peers/ovgenai.py bench DIR [-p 512] [-n 64] [-d 0] [-t 2] [-r 5]

bench prints the JSON that `qwenrt bench -o json` prints, see peer.py. All weights are in the precision asked for, embedding and
head too, without zero points; the rest is as OpenVINO has it: on CPUs, products of 8-bit integers with activations quantised on
the way, activations in bf16 where the CPU has it, and a KV cache in 8 bits.

A prefill (n_prompt P, n_gen 0) is P random tokens until the first token of an answer is there. A decode (n_prompt 0, n_gen N)
is the N greedy steps behind the first token, with n_depth tokens of context (at least one).
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import peer


def build(a):
    tool = pathlib.Path(sys.executable).parent / "optimum-cli"
    subprocess.run(
        [str(tool), "export", "openvino", "--model", a.model, "--task", "text-generation-with-past"]
        + ["--weight-format", a.precision, "--group-size", str(a.block_size), "--ratio", "1.0", "--sym", "--all-layers"]
        + [a.output],
        check=True,
        stdout=sys.stderr,
        env=dict(os.environ, HF_HUB_OFFLINE="1"),  # the checkpoint has all that is needed
    )


class OpenVINO:
    def __init__(self, folder, threads):
        import numpy as np
        import openvino
        import openvino_genai

        self.genai, self.name = openvino_genai, "OpenVINO GenAI " + openvino_genai.__version__
        self.pipeline = openvino_genai.LLMPipeline(folder, "CPU", INFERENCE_NUM_THREADS=threads)
        vocabulary = json.loads(pathlib.Path(folder, "config.json").read_text())["vocab_size"]
        rng = np.random.default_rng(0)
        self.tokens = lambda n: openvino.Tensor(rng.integers(0, vocabulary, (1, n)).astype(np.int64))

    def generate(self, prompt, answer):
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = answer, True, False
        return self.pipeline.generate(prompt, config).perf_metrics

    def prefill(self, n):
        ids = self.tokens(n)
        start = time.perf_counter()
        self.generate(ids, 1)
        return time.perf_counter() - start

    def decode(self, n, depth):
        metrics = self.generate(self.tokens(max(depth, 1)), n + 1)
        if metrics.get_num_generated_tokens() != n + 1:
            sys.exit(f"{metrics.get_num_generated_tokens()} tokens were made instead of {n + 1}")
        return (metrics.get_generate_duration().mean - metrics.get_ttft().mean) / 1e3  # from milliseconds


if __name__ == "__main__":
    peer.main(__doc__, build, OpenVINO, precision="int4")
