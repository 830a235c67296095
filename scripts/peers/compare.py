#!/usr/bin/env python3
"""Build one checkpoint with qwenrt and with other runtimes and measure all in turn; print markdown tables.

    make build
    go run ./scripts/randomqwen -size 0.6B -o qwen3-0.6b-random
    python3 -m venv genai && genai/bin/pip install -r scripts/peers/requirements.txt
    python3 -m venv openvino && openvino/bin/pip install -r scripts/peers/requirements-openvino.txt
    python3 scripts/peers/compare.py qwen3-0.6b-random --work compare --genai genai/bin/python --openvino openvino/bin/python

A round starts each of the models once, in a process of its own, and times prefill and decode there; every other
round goes through them backwards. So a machine that slows down or warms up meets all sides alike. Shown is the
median over the rounds, and for the ratios the median of each round's own ratio: the two sides of a ratio were
measured within a minute of each other. --keep saves the time to build the others' models again; qwenrt always builds.
A runtime whose Python is not given is left out.
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
OURS = "qwenrt"


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
        if not (keep and pathlib.Path(self.folder).exists()):
            shutil.rmtree(self.folder, ignore_errors=True)
            record.unlink(missing_ok=True)
            progress(f"building {self}")
            status, cost, _ = self.measure(self.build_command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if status:
                sys.exit(f"building {self} failed; try: {' '.join(self.build_command)}")
            record.write_text(json.dumps(cost) + "\n")
        self.cost = json.loads(record.read_text()) if record.exists() else None
        folder = pathlib.Path(self.folder)
        self.size = sum(f.stat().st_size for f in [*folder.glob("model.onnx*"), *folder.glob("openvino_model.*")])

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
    peers = [("onnxruntime-genai", "genai", a.genai, "genai.py"), ("OpenVINO GenAI", "openvino", a.openvino, "ovgenai.py")]
    for block in a.block_size:
        for name, folder, python, script in peers:
            if not python:
                continue
            script, folder = [python, str(HERE / script)], str(a.work / f"{folder}-b{block}")
            build = script + ["build", a.model, "-o", folder, "--block-size", str(block)]
            yield Contender(meter, name, block, folder, build, script + ["bench", folder] + tests)
        folder = str(a.work / f"qwenrt-b{block}")
        build = [a.qwenrt, "build", a.model, "-o", folder, "--precision", "int4", "--block-size", str(block)]
        yield Contender(meter, OURS, block, folder, build, [a.qwenrt, "bench", folder, "-o", "json"] + tests)


def table(header, rows):
    print("| " + " | ".join(header) + " |")
    print("|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def report(a, all_):
    """Speed, with the ratio of each of qwenrt's models to each of the others; then build cost."""
    ours = [c for c in all_ if c.name == OURS]
    rows = []
    for c in all_:
        ratios = [f"{o.ratio(c, 'pp'):.2f}x, {o.ratio(c, 'tg'):.2f}x" if c.name != OURS else "" for o in ours]
        load = f"{c.median('load_s'):.2f}" if all(r["load_s"] is not None for r in c.rounds) else ""
        memory = [f"{c.median(k) / MB:.0f}" for k in ("rss_anon_bytes", "vm_hwm_bytes")]
        rows.append([str(c), c.spread("pp"), c.spread("tg")] + ratios + [load] + memory)
    depth = f" at depth {a.d}" if a.d else ""
    print(f"{a.threads} threads, {a.rounds} rounds of {a.repetitions}; tokens/s: median (range of the rounds){depth}.\n")
    table(
        ["model", f"pp{a.p}", f"tg{a.n}"]
        + [f"qwenrt block {o.block} to it, pp, tg" for o in ours]
        + ["load s", "RssAnon MB", "VmHWM MB"],
        rows,
    )
    table(
        ["build", "wall s", "peak RssAnon MB", "VmHWM MB", "model MB"],
        [
            [str(c), f"{c.cost['wall_s']:.1f}", f"{c.cost['rss_anon_bytes'] / MB:.0f}"]
            + [f"{c.cost['vm_hwm_bytes'] / MB:.0f}", f"{c.size / MB:.0f}"]
            for c in all_
            if c.cost
        ],
    )


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", metavar="HF_DIR", help="Qwen3 checkpoint")
    p.add_argument("--work", type=pathlib.Path, required=True, help="folder for the built models")
    p.add_argument("--genai", metavar="PYTHON", help="Python that has onnxruntime-genai")
    p.add_argument("--openvino", metavar="PYTHON", help="Python that has OpenVINO GenAI and optimum-intel")
    p.add_argument("--keep", action="store_true", help="use the others' models of an earlier call, if any")
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
        c.build(keep=a.keep and c.name != OURS)
    for i in range(a.rounds):
        for c in all_ if i % 2 == 0 else reversed(all_):
            progress(f"round {i + 1} of {a.rounds}: {c}")
            c.round()
    report(a, all_)


if __name__ == "__main__":
    main()
