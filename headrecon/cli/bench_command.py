"""`headrecon bench command`: the whole command and its stages, its peak memory, and how soon it says something."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headrecon.batch import check_exists
from headrecon.cli.console import table, warn
from headrecon.cli.timing import sample_portrait, time_help, time_reconstruct
from headrecon.errors import InputError


def run_command(args: argparse.Namespace) -> int:
    """Times `headrecon reconstruct` in processes of its own. Raises InputError for options that make no sense here."""
    if args.repeat < 1:
        raise InputError(f"--repeat must be at least 1, found {args.repeat}")
    if args.op != ["command"] or args.device != "cpu" or args.update_baseline or args.check or args.list:
        raise InputError("`headrecon bench command` takes only --photo, --repeat, --preset and --json")
    if args.photo:
        check_exists(Path(args.photo))
    with tempfile.TemporaryDirectory(prefix="headrecon-bench-") as scratch:
        photo = Path(args.photo) if args.photo else sample_portrait(Path(scratch))
        helps = time_help(args.repeat)
        runs = {
            preset: time_reconstruct(photo, Path(scratch), preset, args.repeat, warn)
            for preset in args.preset or ["default"]
        }
    text = json.dumps({"help_s": helps, "reconstruct": {k: asdict(v) for k, v in runs.items()}}, indent=2)
    if args.json == "-":
        print(text)
        return 0
    _print(helps, runs)
    if args.json:
        Path(args.json).write_text(text + "\n", encoding="utf-8")
    return 0


def _print(helps: dict[str, float], runs: dict[str, Any]) -> None:
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
