"""`headrecon bench`: the whole command and its stages, its peak memory, and how soon it says something."""

from __future__ import annotations

import argparse
from typing import Any

ABOUT = "time the whole reconstruct command and its stages, and take its peak memory"


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser("bench", help=ABOUT, description=f"{ABOUT}; kernels are timed by `make bench`")
    parser.add_argument("photo", nargs="?", help="photo to use (default: the portrait inside scikit-image)")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each command (default: 3)")
    parser.add_argument(
        "--preset", action="append", metavar="NAME", help="preset to time; may be repeated (default: default)"
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    import json
    import tempfile
    from dataclasses import asdict
    from pathlib import Path

    from headrecon.batch import check_exists
    from headrecon.cli.console import warn
    from headrecon.cli.timing import sample_portrait, time_help, time_reconstruct
    from headrecon.errors import InputError

    if args.repeat < 1:
        raise InputError(f"--repeat must be at least 1, found {args.repeat}")
    if args.photo:
        check_exists(Path(args.photo))
    with tempfile.TemporaryDirectory(prefix="headrecon-bench-") as scratch:
        photo = Path(args.photo) if args.photo else sample_portrait(Path(scratch))
        helps = time_help(args.repeat)
        runs = {
            preset: time_reconstruct(photo, Path(scratch), preset, args.repeat, warn)
            for preset in args.preset or ["default"]
        }
    if args.json:
        print(json.dumps({"help_s": helps, "reconstruct": {k: asdict(v) for k, v in runs.items()}}, indent=2))
    else:
        _print(helps, runs)
    return 0


def _print(helps: dict[str, float], runs: dict[str, Any]) -> None:
    from headrecon.cli.console import table

    print(table([(name, f"{1000 * s:.0f} ms") for name, s in helps.items()], ("--help of", "best")))
    for preset, timed in runs.items():
        print(f"\nreconstruct, preset {preset}: {len(timed.wall_s)} runs, each a process of its own")
        rows = [
            ("whole command, median", f"{sorted(timed.wall_s)[len(timed.wall_s) // 2]:.2f} s"),
            ("whole command, best", f"{min(timed.wall_s):.2f} s"),
            ("whole command, first run", f"{timed.wall_s[0]:.2f} s"),
            ("processor time, median", f"{sorted(timed.cpu_s)[len(timed.cpu_s) // 2]:.2f} s"),
            ("first progress, slowest", f"{max(timed.first_progress_s):.2f} s"),
            ("peak memory", f"{timed.peak_mib:.0f} MiB"),
            *((f"stage: {name}", f"{1000 * seconds:.0f} ms") for name, seconds in timed.stages_s.items()),
        ]
        print(table(rows, ("what", "measured")))
