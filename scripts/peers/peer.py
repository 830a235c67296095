"""What the scripts for other runtimes share: the command line, the tests, and the JSON that `qwenrt bench -o json` prints.

That is an array with one object a test, with llama-bench's field names (avg_ts and the rest in tokens/s), and load_s, the
seconds until the model was loaded.
"""

import argparse
import json
import statistics
import sys
import time


def main(doc, build, load, precision):
    """Run the command that the arguments name.

    build(a) makes a model. load(folder, threads) gives an object with name, prefill(n) and decode(n, depth), which each give
    the seconds that a test took.
    """
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = p.add_subparsers(required=True, metavar="build|bench")
    b = commands.add_parser("build")
    b.set_defaults(run=build)
    b.add_argument("model", metavar="HF_DIR")
    b.add_argument("-o", "--output", required=True)
    b.add_argument("--precision", default=precision)
    b.add_argument("--block-size", type=int, default=32)
    b = commands.add_parser("bench")
    b.set_defaults(run=lambda a: bench(a, load))
    b.add_argument("model", metavar="DIR")
    b.add_argument("-p", "--n-prompt", type=int, default=512)
    b.add_argument("-n", "--n-gen", type=int, default=64)
    b.add_argument("-d", "--n-depth", type=int, default=0)
    b.add_argument("-t", "--threads", type=int, default=2)
    b.add_argument("-r", "--repetitions", type=int, default=5)
    a = p.parse_args()
    a.run(a)


def bench(a, load):
    start = time.perf_counter()
    model = load(a.model, a.threads)
    load_s = time.perf_counter() - start
    tests = []
    for n_prompt, n_gen in ((a.n_prompt, 0), (0, a.n_gen)):
        if n_prompt + n_gen == 0:
            continue
        once = (lambda: model.prefill(n_prompt)) if n_prompt else (lambda: model.decode(n_gen, a.n_depth))
        once()  # warm-up
        speeds = [(n_prompt + n_gen) / once() for _ in range(a.repetitions)]
        tests.append(
            {
                "backends": model.name,
                "model_filename": a.model,
                "n_threads": a.threads,
                "n_prompt": n_prompt,
                "n_gen": n_gen,
                "n_depth": a.n_depth,
                "avg_ts": statistics.mean(speeds),
                "stddev_ts": statistics.stdev(speeds) if len(speeds) > 1 else 0.0,
                "samples_ts": speeds,
                "load_s": load_s,
            }
        )
    json.dump(tests, sys.stdout, indent=2)
    print()
