"""`headrecon doctor`: what is installed, built and cached, and what to do about what is not."""

from __future__ import annotations

import argparse
from typing import Any

ABOUT = "say what is installed, built and cached, and what to do about what is missing"

_SIGNS = {"ok": "ok  ", "info": "    ", "warning": "warn", "broken": "FAIL"}


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser(
        "doctor", help=ABOUT, description=f"{ABOUT}. Exit code 0 unless something that is needed is broken."
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from headrecon.cli.findings import examine

    findings = examine()
    broken = [f for f in findings if f.state == "broken"]
    if args.json:
        print(json.dumps({"ok": not broken, "findings": [asdict(f) for f in findings]}, indent=2, ensure_ascii=False))
        return 1 if broken else 0
    group = ""
    width = max(len(f.name) for f in findings)
    for f in findings:
        if f.group != group:
            group = f.group
            print(f"\n{group}")
        print(f"  {_SIGNS[f.state]}  {f.name.ljust(width)}  {f.value}")
        if f.advice:
            print(f"        {'':{width}}  -> {f.advice}")
    print(f"\n{_verdict(len(broken), sum(f.state == 'warning' for f in findings))}")
    return 1 if broken else 0


def _verdict(broken: int, warnings: int) -> str:
    if broken:
        return f"{broken} needed thing{'s are' if broken > 1 else ' is'} broken: see the lines marked FAIL."
    if warnings:
        return f"Ready. {warnings} thing{'s' if warnings > 1 else ''} could be better: see the lines marked warn."
    return "Ready. Everything is in place."
