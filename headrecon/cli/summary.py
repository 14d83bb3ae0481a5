"""What the terminal says about a finished head: the figures with their uncertainty, and whether it may be sold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrecon.cli.console import table
from headrecon.report.figure_names import figure_name


def describe_head(head: Mapping[str, Any]) -> str:
    """The content of `head.json` (docs/formats.md) as a short text."""
    lines = [f"model    {head['model']['name']}"]
    camera = head["camera"]
    focal = (camera["K"][0][0] + camera["K"][1][1]) / 2
    lines.append(
        f"camera   {camera['width']} x {camera['height']} px, focal length {focal:.0f} px ({camera['focal_source']})"
    )
    lines.append(f"licence  {_licence_line(head)}")
    rows = [_metric_row(name, figure) for name, figure in head["metric"].items()]
    if rows:
        lines += ["", table(rows, ("measured", "value", "90 % of truths lie within"))]
    return "\n".join(lines)


def _metric_row(name: str, figure: Mapping[str, Any]) -> tuple[str, str, str]:
    label, unit, digits = figure_name(name)
    low, high = figure["interval90"]
    value = f"{figure['value']:.{digits}f} ± {figure['sigma']:.{digits}f} {unit}"
    return label, value.strip(), f"{low:.{digits}f} to {high:.{digits}f} {unit}".strip()


def _licence_line(head: Mapping[str, Any]) -> str:
    if head["commercial_use"]:
        return "nothing that went into this head forbids commercial use (`headrecon licences`)"
    barred = [entry["name"] for entry in head["licences"] if not entry["commercial"]]
    return f"not for commercial use, because of {', '.join(barred)}"
