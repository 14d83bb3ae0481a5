"""`headrecon licences`: the terms of every model, network, table and package."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

ABOUT = "list the licence of every model, network, table and package, and whether results may be used commercially"


def add_parser(commands: Any) -> list[argparse.ArgumentParser]:
    parser = commands.add_parser("licences", help=ABOUT, description=ABOUT)
    parser.add_argument("--default", action="store_true", help="only what a head made with the defaults draws on")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)
    return [parser]


def run(args: argparse.Namespace) -> int:
    from headrecon.cli.console import table
    from headrecon.licences import COMPONENTS

    parts = [c for c in COMPONENTS if c.default or not args.default]
    if args.json:
        print(json.dumps([dataclasses.asdict(c) for c in parts], indent=2, ensure_ascii=False))
        return 0
    rows = [(c.kind, c.key, c.spdx, "yes" if c.commercial else "NO", c.name) for c in parts]
    print(table(rows, ("kind", "key", "licence", "commercial", "what it is")))
    print("\nNotes")
    for c in parts:
        if c.note:
            print(f"  {c.key}: {c.note}")
    barred = [c.key for c in parts if c.default and not c.commercial]
    if barred:
        print(f"\nWith the defaults, results may not be used commercially because of: {', '.join(barred)}.")
    else:
        print("\nWith the defaults, nothing that goes into a head forbids commercial use. Sources: --json.")
    print("This is a reading of the licences, not legal advice; who is in your photo has rights of their own.")
    return 0
