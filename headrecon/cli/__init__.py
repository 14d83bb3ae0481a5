"""The commands: parse, call one library function, print. No algorithm lives here.

One file a command, each with `add_parser` (cheap: standard library only, so that every `--help` answers at once) and
`run`, which imports what it needs. Exit codes: 0 done, 1 something failed, 2 the user's input cannot be used as it is,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from headrecon import __version__
from headrecon.cli import (
    avatar,
    bench,
    doctor,
    drive,
    evaluate,
    export,
    licences,
    models,
    reconstruct,
    render,
    track,
    view,
)
from headrecon.errors import HeadReconError

COMMANDS = (reconstruct, track, avatar, drive, view, render, export, evaluate, models, licences, doctor, bench)


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one sentence and no half-typed options guessed."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"headrecon: {message}; `{self.prog} --help` lists what there is\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = _Parser(prog="headrecon", description="Photos and videos of a person to a metric, rigged 3D head.")
    parser.add_argument("--version", action="version", version=f"headrecon {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        for added in command.add_parser(commands):
            added.add_argument("--debug", action="store_true", help="show the full traceback when something fails")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. Never raises for what a user can cause."""
    args = build_parser().parse_args(argv)
    _calm_threads()
    try:
        code = args.run(args)
        sys.stdout.flush()  # here, where a closed pipe can still be answered
        return code
    except HeadReconError as error:
        if args.debug:
            raise
        print(f"headrecon: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nheadrecon: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader has seen enough: `headrecon licences | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last resort, so that nobody is met by a traceback
        if args.debug:
            raise
        print(f"headrecon: {_explain(error)}", file=sys.stderr)
        return 1


def _calm_threads() -> None:
    """Keep BLAS and OpenMP workers from spinning, unless the user has said otherwise.

    The solver's matrices are small: a second BLAS thread gains nothing there, and where the cores are busy, workers
    that spin for their next task made the fit up to forty times slower. Read when numpy and torch are first imported.
    """
    for name, value in (("OPENBLAS_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
        os.environ.setdefault(name, value)


def _explain(error: Exception) -> str:
    if isinstance(error, ImportError) and not (error.name or "").startswith("headrecon"):
        return f"the installation is incomplete ({error}); `headrecon doctor` says what to do"
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"unexpected {what} (this is a fault in headrecon; --debug shows where)"
