#!/usr/bin/env python3
"""Run a command and print what it cost: wall time and peak memory. Linux, standard library only.

    scripts/peers/buildcost.py [--json FILE] COMMAND [ARGUMENT ...]

RssAnon is the memory that the command allocated, summed over the command and its children and looked at every
20 ms. VmHWM is the largest resident size of any one of them, as the kernel kept it: mapped files count, so it
grows with the file cache that happens to be there and says little about a program that maps its weights.

The command's output passes through, the cost goes to standard error, the exit status is the command's.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

INTERVAL = 0.02  # seconds


def tree(pid):
    """pid and its descendants, as far as they live."""
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    yield pid
    for task in tasks:
        try:
            children = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def rss_anon(pid):
    """RssAnon of one process in bytes; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def measure(command, **popen):
    """Run command; return (exit status, cost, standard output if it was piped)."""
    start = time.monotonic()
    process = subprocess.Popen(command, **popen)
    peak, done = 0, threading.Event()

    def watch():
        nonlocal peak
        while True:
            peak = max(peak, sum(map(rss_anon, tree(process.pid))))
            if done.wait(INTERVAL):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        output = process.stdout.read() if process.stdout else None
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        process.kill()
        raise
    finally:
        done.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = {
        "wall_s": round(time.monotonic() - start, 3),
        "rss_anon_bytes": peak,
        "vm_hwm_bytes": usage.ru_maxrss * 1024,
    }
    return process.returncode, cost, output


def main():
    arguments = sys.argv[1:]
    target = None
    if arguments[:1] == ["--json"]:
        target, arguments = arguments[1], arguments[2:]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit(__doc__)
    status, cost, _ = measure(arguments)
    text = "{:.2f} s, peak RssAnon {:.0f} MB, VmHWM {:.0f} MB".format(
        cost["wall_s"], cost["rss_anon_bytes"] / 1e6, cost["vm_hwm_bytes"] / 1e6
    )
    print(text, file=sys.stderr)
    if target:
        pathlib.Path(target).write_text(json.dumps(cost) + "\n")
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
