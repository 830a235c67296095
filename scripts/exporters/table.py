#!/usr/bin/env python3
"""Optimise what other exporters make of a checkpoint, time it before and after, and print the table of docs/optimizations.md.

    python3 scripts/exporters/table.py bin/qwenrt DIR [NAME ...] [-p 512] [-n 64] [-r 5]

DIR is what the scripts beside this one have written; NAME are folders in it, all by default. Speeds are tokens/s of
`qwenrt bench`; a graph that does not run as it is has none before.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile


def bench(qwenrt, folder, args):
    """Tokens/s of prefill and decode; nothing where the model does not open."""
    run = subprocess.run(
        [qwenrt, "bench", str(folder), "-p", str(args.p), "-n", str(args.n), "-r", str(args.r), "-o", "json"],
        capture_output=True,
        text=True,
    )
    if run.returncode:
        return "", ""
    tests = json.loads(run.stdout)
    return tuple(f"{t['avg_ts']:.0f} ± {t['stddev_ts']:.0f}" for t in sorted(tests, key=lambda t: t["n_gen"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("qwenrt")
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("-p", type=int, default=512)
    parser.add_argument("-n", type=int, default=64)
    parser.add_argument("-r", type=int, default=5)
    args = parser.parse_args()
    names = args.names or sorted(f.name for f in args.dir.iterdir() if f.is_dir())
    print(f"| graph | nodes before | after | pp{args.p} before | after | tg{args.n} before | after |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in names:
        with tempfile.TemporaryDirectory() as work:
            fused = pathlib.Path(work, name)
            run = subprocess.run(
                [args.qwenrt, "optimize", str(args.dir / name), "-o", str(fused)], capture_output=True, text=True
            )
            nodes = re.search(r"(?:(\d+) → )?(\d+) nodes", run.stdout)
            if run.returncode or not nodes:
                print(f"| `{name}` | {run.stderr.strip().splitlines()[-1]} |")
                continue
            before, after = bench(args.qwenrt, args.dir / name, args), bench(args.qwenrt, fused, args)
            counts = nodes[1] or nodes[2], nodes[2]
            cells = [*counts, before[0], after[0], before[1], after[1]]
            print(f"| `{name}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
