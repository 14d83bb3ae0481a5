"""What every command with settings shares: flags, --set, --config, presets, and the list at the end of its help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrecon.config import Setting, preset_names, settings

#: What stands for a text in the help, where it is not a name.
_TEXTS = {"--task": "FILE", "--relight": "NAME|FILE", "--cameras": "FILE|DIR"}


def add_settings(parser: argparse.ArgumentParser, kind: type, flags: Mapping[str, str], example: str) -> None:
    """What every command with settings takes: --out, --preset, flags that stand for settings, --config, --set, ...

    kind: the class of the settings; flags: their keys; example: an assignment, for the help of --set.
    """
    known = settings(kind)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder to write; see docs/formats.md for what it holds"
    )
    names = ", ".join(preset_names(kind))
    parser.add_argument("--preset", metavar="NAME", help=f"where the settings start from: {names} (default: default)")
    for flag, key in flags.items():
        add_flag(parser, flag, known[key])
    parser.add_argument(
        "--config", metavar="FILE.yaml", help="settings from a file, such as an earlier run's config.yaml"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="assignments",
        help=f"any setting by its key, such as {example}; may be repeated; listed below",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier result in --out")
    parser.add_argument("--json", action="store_true", help="print the result for machines on stdout")


def add_flag(parser: argparse.ArgumentParser, flag: str, spec: Setting) -> None:
    """A flag that stands for a setting."""
    default = "" if spec.default is None or spec.type is bool else f" (default: {spec.default})"
    text = (spec.help + ("" if "(default" in spec.help else default)).replace("%", "%%")
    if spec.type is bool:
        parser.add_argument(flag, dest=spec.key, action="store_true", default=None, help=text)
    else:
        kind = {int: "N", float: "X", str: _TEXTS.get(flag, "NAME")}[spec.type]
        metavar = "|".join(spec.choices) if spec.choices else kind
        parser.add_argument(flag, dest=spec.key, metavar=metavar, help=text)


def read_config(path: Path, kind: type) -> Any:
    """Settings of a YAML file by dotted key. Raises InputError."""
    from headrecon import config
    from headrecon.errors import InputError

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise InputError(f"--config {path}: cannot be read ({reason}); expected a YAML file of settings") from error
    return config.flatten(config.parse_yaml(text, str(path)), str(path), kind)


def settings_of(args: argparse.Namespace, kind: type, flags: Mapping[str, str]) -> Any:
    """The settings of class `kind` that the arguments ask for. Raises InputError."""
    from headrecon import config

    values = read_config(Path(args.config), kind) if args.config else {}
    overrides: dict[str, Any] = {}
    for flag, key in flags.items():
        typed = getattr(args, key)
        if typed is not None:
            overrides[key] = typed if isinstance(typed, bool) else config.read_value(key, typed, flag, kind)
    overrides.update(config.parse_assignment(text, kind) for text in args.assignments)
    return config.resolve_kind(kind, args.preset, values, overrides)


def settings_text(kind: type, flags: Mapping[str, str]) -> str:
    """The settings that have no flag, for the end of the help."""
    from headrecon.cli.console import table

    plain = {"preset", *flags.values()}
    rows = [(s.key, str(s.default).lower(), s.help) for s in settings(kind).values() if s.key not in plain]
    lines = table(rows, ("setting", "default", "what it does")).splitlines()
    return "\n".join(["further settings, for --set and --config:", *[f"  {line}" for line in lines]])
