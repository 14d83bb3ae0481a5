"""`headrecon bench`: the ops on this machine beside peers and the committed baseline, or the whole command."""

from __future__ import annotations

import argparse
from typing import Any

ABOUT = "time the ops on this machine, or (`headrecon bench command`) the whole reconstruct command"
_MORE = """Each op is timed beside the peers that are installed and the figures committed for this kind of machine.
Run it on an idle machine. Exit code 1 when an op fails, or a GPU's results differ from the CPU's."""


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    from headrecon.benchmarks.catalogue import FAMILIES

    families = [name.rsplit(".", 1)[-1].removesuffix("_cases") for name in FAMILIES]
    parser = commands.add_parser("bench", help=ABOUT, description=f"{ABOUT}. {_MORE}")
    parser.add_argument("op", nargs="*", help="parts of names, such as rasterize or 512²; `command`; default: every op")
    parser.add_argument(
        "--family", action="append", default=[], metavar="NAME", choices=families,
        help=f"only such ops: {', '.join(families)}; may be repeated",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="say what there is and stop")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="S", help="spent on each figure (default: 1)")
    parser.add_argument("--no-peers", action="store_true", help="time only our own ops")
    parser.add_argument("--small", action="store_true", help="small inputs instead, quick enough for memory checkers")
    parser.add_argument("--check", action="store_true", help="with --device cuda: compare with the CPU, time nothing")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file too; - prints nothing else")
    parser.add_argument(
        "--update-baseline", action="store_true", help="commit to these figures: rewrites the baseline of this machine"
    )
    group = parser.add_argument_group("headrecon bench command", "the whole command, stages and peak memory")
    group.add_argument("--photo", help="photo to use (default: the portrait inside scikit-image)")
    group.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each command (default: 3)")
    group.add_argument("--preset", action="append", metavar="NAME", help="may be repeated (default: default)")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    if "command" in args.op:
        from headrecon.cli.bench_command import run_command

        return run_command(args)
    return _run_ops(args)


def _run_ops(args: argparse.Namespace) -> int:
    from headrecon.benchmarks.catalogue import FAMILIES, choose, load_cases
    from headrecon.benchmarks.machine import baseline, baseline_path, merged, report, this_machine
    from headrecon.benchmarks.measure import Plan, Row, measure, need_device
    from headrecon.cli.bench_table import lines, print_row
    from headrecon.cli.console import warn
    from headrecon.errors import InputError

    if args.check and args.device != "cuda":
        raise InputError("--check compares a GPU with the CPU: add --device cuda")
    if not args.seconds > 0:
        raise InputError(f"--seconds must be positive, found {args.seconds}")
    cases, missing = load_cases([f"headrecon.benchmarks.{name}_cases" for name in args.family] or FAMILIES)
    chosen = choose(cases, args.op, args.device, args.small)
    for family in missing:
        warn(f"{family}, which is not installed; its benchmarks are left out")
    if args.list:
        print("\n".join(f"{case.op}, {case.work}" for case in chosen))
        return 0
    need_device(args.device)
    quiet = args.json == "-"
    machine = this_machine(args.device)
    done: list[Row] = []

    def tell(row: Row) -> None:
        done.append(row)
        if quiet:
            return
        print_row(row)
        if args.json:  # after every row: whatever stops this leaves what it had
            _write_json(args.json, report(machine, done))

    rows = measure(chosen, Plan(args.device, args.seconds, not args.no_peers, args.check), tell)
    measured, committed = report(machine, rows), baseline(machine)
    if not quiet:
        print("\n".join(lines(machine, rows, committed)))
    if args.json:
        _write_json(args.json, measured)
    if args.update_baseline:
        path = baseline_path(machine)
        _write_json(str(path), merged(committed, measured))
        print(f"baseline updated: {path}; commit it with the reason")
    return 0 if all(row.agrees for row in rows) else 1


def _write_json(where: str, document: dict[str, Any]) -> None:
    import json
    from pathlib import Path

    from headrecon.errors import InputError

    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if where == "-":
        print(text, end="")
        return
    try:
        Path(where).parent.mkdir(parents=True, exist_ok=True)
        Path(where).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {where} ({error.strerror}); give a path that can be written") from error
