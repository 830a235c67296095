#!/usr/bin/env python3
"""Build one checkpoint with qwenrt and with onnxruntime-genai and measure both in turn; print markdown tables.

    make build
    go run ./scripts/randomqwen -size 0.6B -o qwen3-0.6b-random
    python3 -m venv venv && venv/bin/pip install -r scripts/peers/requirements.txt
    venv/bin/python scripts/peers/compare.py qwen3-0.6b-random --work compare [--rounds 5]

A round starts each of the models once, in a process of its own, and times prefill and decode there; every other
round goes through them backwards. So a machine that slows down or warms up meets both sides alike. Shown is the
median over the rounds, and for the ratios the median of each round's own ratio: the two sides of a ratio were
measured within a minute of each other. --keep-genai saves the time to build its models again; qwenrt always builds.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
MB = 1e6
GENAI = "onnxruntime-genai"


class Meter:
    """Runs commands under scripts/buildcost, which measures wall time and peak memory."""

    def __init__(self, work):
        self.program = str((work / "buildcost").resolve())
        subprocess.run(["go", "build", "-o", self.program, "./scripts/buildcost"], cwd=HERE.parent.parent, check=True)

    def measure(self, command, **popen):
        """Run command; return (exit status, cost, standard output if it was piped)."""
        with tempfile.NamedTemporaryFile() as record:
            done = subprocess.run([self.program, "-json", record.name] + command, **popen)
            return done.returncode, json.loads(record.read() or "null"), done.stdout


class Contender:
    """One way to build and to time the checkpoint."""

    def __init__(self, meter, name, block, folder, build, bench):
        self.measure = meter.measure
        self.name, self.block, self.folder = name, block, folder
        self.build_command, self.bench_command = build, bench
        self.rounds = []  # of {"pp": tokens/s, "tg": tokens/s, "load_s": seconds or None, and the cost}

    def __str__(self):
        return f"{self.name} int4 block {self.block}"

    def build(self, keep):
        record = pathlib.Path(f"{self.folder}.cost.json")
        if not (keep and record.exists()):
            shutil.rmtree(self.folder, ignore_errors=True)
            record.unlink(missing_ok=True)
            progress(f"building {self}")
            status, cost, _ = self.measure(self.build_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if status:
                sys.exit(f"building {self} failed; try: {' '.join(self.build_command)}")
            record.write_text(json.dumps(cost) + "\n")
        self.cost = json.loads(record.read_text())
        self.size = sum(f.stat().st_size for f in pathlib.Path(self.folder).glob("model.onnx*"))

    def round(self):
        status, cost, output = self.measure(self.bench_command, stdout=subprocess.PIPE)
        if status:
            sys.exit(f"measuring {self} failed; try: {' '.join(self.bench_command)}")
        tests = json.loads(output)
        pp = next(t for t in tests if t["n_gen"] == 0)
        tg = next(t for t in tests if t["n_prompt"] == 0)
        self.rounds.append(
            dict(cost, pp=statistics.median(pp["samples_ts"]), tg=statistics.median(tg["samples_ts"]), load_s=pp.get("load_s"))
        )

    def median(self, key):
        return statistics.median(r[key] for r in self.rounds)

    def spread(self, key):
        """Median with the range of the rounds behind it."""
        values = [r[key] for r in self.rounds]
        return f"{self.median(key):.1f} ({min(values):.1f}–{max(values):.1f})"

    def ratio(self, other, key):
        return statistics.median(a[key] / b[key] for a, b in zip(self.rounds, other.rounds))


def progress(text):
    print(text, file=sys.stderr, flush=True)


def contenders(a):
    tests = ["-p", str(a.p), "-n", str(a.n), "-t", str(a.threads), "-r", str(a.repetitions)]
    if a.d:
        tests += ["-d", str(a.d)]
    meter = Meter(a.work)
    genai = [sys.executable, str(HERE / "genai.py")]
    for block in a.block_size:
        folder = str(a.work / f"genai-b{block}")
        yield Contender(
            meter,
            GENAI,
            block,
            folder,
            genai + ["build", a.model, "-o", folder, "--block-size", str(block)],
            genai + ["bench", folder] + tests,
        )
        folder = str(a.work / f"qwenrt-b{block}")
        yield Contender(
            meter,
            "qwenrt",
            block,
            folder,
            [a.qwenrt, "build", a.model, "-o", folder, "--precision", "int4", "--block-size", str(block)],
            [a.qwenrt, "bench", folder, "-o", "json"] + tests,
        )


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def report(a, all_):
    """Speed, with each ratio of qwenrt to genai at the same block size and at genai's default; then build cost."""
    genai = {c.block: c for c in all_ if c.name == GENAI}
    default = genai.get(32)
    rows = []
    for c in all_:
        ratios = []
        for other in (genai[c.block], default):
            mine = c.name == "qwenrt" and other is not None
            ratios += [f"{c.ratio(other, k):.2f}x" if mine else "" for k in ("pp", "tg")]
        load = f"{c.median('load_s'):.2f}" if all(r["load_s"] is not None for r in c.rounds) else ""
        memory = [f"{c.median(k) / MB:.0f}" for k in ("rss_anon_bytes", "vm_hwm_bytes")]
        rows.append([str(c), c.spread("pp"), c.spread("tg")] + ratios + [load] + memory)
    depth = f" at depth {a.d}" if a.d else ""
    print(f"{a.threads} threads, {a.rounds} rounds of {a.repetitions}; tokens/s: median (range of the rounds){depth}.\n")
    table(
        ["model", f"pp{a.p}", f"tg{a.n}", f"pp{a.p} to genai, same block", f"tg{a.n} to genai, same block"]
        + [f"pp{a.p} to genai, block 32", f"tg{a.n} to genai, block 32", "load s", "RssAnon MB", "VmHWM MB"],
        rows,
    )
    table(
        ["build", "wall s", "peak RssAnon MB", "VmHWM MB", "model MB"],
        [
            [str(c), f"{c.cost['wall_s']:.1f}", f"{c.cost['rss_anon_bytes'] / MB:.0f}"]
            + [f"{c.cost['vm_hwm_bytes'] / MB:.0f}", f"{c.size / MB:.0f}"]
            for c in all_
        ],
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", metavar="HF_DIR", help="Qwen3 checkpoint")
    p.add_argument("--work", type=pathlib.Path, required=True, help="folder for the built models")
    p.add_argument("--keep-genai", action="store_true", help="use onnxruntime-genai's models of an earlier call, if any")
    p.add_argument("--qwenrt", default=os.path.join("bin", "qwenrt"), help="default: bin/qwenrt")
    p.add_argument("--block-size", type=int, nargs="+", default=[32, 128])
    p.add_argument("-p", type=int, default=512, help="tokens of the prefill")
    p.add_argument("-n", type=int, default=64, help="tokens decoded")
    p.add_argument("-d", type=int, default=0, help="tokens of context before decoding")
    p.add_argument("-t", "--threads", type=int, default=2)
    p.add_argument("-r", "--repetitions", type=int, default=3, help="in each process, after a warm-up")
    p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    all_ = list(contenders(a))
    for c in all_:
        c.build(keep=a.keep_genai and c.name == GENAI)
    for i in range(a.rounds):
        for c in all_ if i % 2 == 0 else reversed(all_):
            progress(f"round {i + 1} of {a.rounds}: {c}")
            c.round()
    report(a, all_)


if __name__ == "__main__":
    main()
