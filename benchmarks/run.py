"""`make bench`: every benchmark of this folder, then the whole command as a user runs it.

Each `bench_*.py` beside this file is a script of its own that prints a table. Figures to compare with are in
docs/performance.md; they are from a two-core machine, so run this on an idle one.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    parser = argparse.ArgumentParser(description="run the benchmarks")
    parser.add_argument("only", nargs="*", help="parts of names, such as raster; `command` is the whole command")
    parser.add_argument("--repeat", type=int, default=3, help="runs of the whole command for each preset (default: 3)")
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    args = parser.parse_args()
    jobs = {p.stem.removeprefix("bench_"): [sys.executable, str(p)] for p in sorted(HERE.glob("bench_*.py"))}
    jobs["command"] = [sys.executable, "-m", "headrecon.cli", "bench", "--repeat", str(args.repeat)]
    jobs["command"] += [part for preset in ("draft", "default", "high") for part in ("--preset", preset)]
    chosen = {name: command for name, command in jobs.items() if not args.only or any(o in name for o in args.only)}
    if args.list or not chosen:
        print("benchmarks:", ", ".join(jobs))
        return 0 if args.list else 2
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {load:.1f} before the start")
    if load > 0.5:
        print("warning: the machine is busy with something else; the times below will be too long")
    return max(_run(name, command) for name, command in chosen.items())


def _run(name: str, command: list[str]) -> int:
    print(f"\n=== {name}", flush=True)
    start = time.perf_counter()
    code = subprocess.run(command, check=False).returncode
    ending = "" if code == 0 else f", FAILED with exit code {code}"
    print(f"=== {name}: {time.perf_counter() - start:.1f} s{ending}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
