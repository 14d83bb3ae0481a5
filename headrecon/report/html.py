"""`report.html`: one file with pictures, figures, warnings, licences and timings; it asks the network for nothing."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from headrecon.report.figure_names import figure_name
from headrecon.structures import Licence

PAGE_STYLE = """
:root{color-scheme:light dark;--ink:#1d1f23;--soft:#646a73;--paper:#fbfbfc;--card:#fff;--line:#e3e5e9;
--good:#1a7f4b;--warn:#9a6300;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#9aa1ab;--paper:#15171a;--card:#1d2024;--line:#31353b;
--good:#5fd39a;--warn:#f0b95b;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.7rem;font-weight:650;letter-spacing:-.01em;margin:0}
h2{font-size:1.05rem;font-weight:650;margin:2.4rem 0 .7rem}
p{margin:.4rem 0}.soft{color:var(--soft)}
img,video{display:block;width:100%;height:auto;border-radius:10px;border:1px solid var(--line)}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:1.5rem;align-items:start}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.95rem;background:var(--card)}
th,td{text-align:left;padding:.45rem .7rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;color:var(--soft);font-size:.85rem}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.note{border-left:3px solid var(--warn);padding:.4rem .9rem;margin:.5rem 0;background:var(--card)}
.yes{color:var(--good)}.no{color:var(--bad)}
code{font:.9em ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{margin-top:3rem;font-size:.85rem;color:var(--soft)}
"""


@runtime_checkable
class FigureLike(Protocol):
    """A number with its standard deviation (io.documents.Measurement, for one)."""

    @property
    def value(self) -> float: ...
    @property
    def sigma(self) -> float: ...


@dataclass(frozen=True)
class ReportContent:
    """What the report says. figures: by name with the unit at the end (`ipd_mm`, `distance_m`).

    files: name and what it is, in the order shown. preview: the contact sheet; video: the turntable's bytes; relit: the
    head in another light. regions: `sigma_mm`, `prior_mm` and perhaps `seen` of the shape by region.
    """

    title: str
    preview: UInt8[np.ndarray, "H W 3"]
    figures: Mapping[str, FigureLike]
    licences: Sequence[Licence]
    warnings: Sequence[str] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    video_mp4: bytes | None = None
    relit: UInt8[np.ndarray, "h w 3"] | None = None
    regions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def report_html(content: ReportContent) -> str:
    """The whole page. Every text is escaped, so that a file name cannot become markup."""
    policy = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
    title = html.escape(content.title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} · headrecon</title><style>{PAGE_STYLE}</style></head><body><main>",
        f"<h1>{title}</h1>",
        f'<p class="soft">{_verdict(content.licences)}</p>',
        *(f'<p class="note">{html.escape(text)}</p>' for text in content.warnings),
        "<h2>Pictures</h2>",
        _picture("Photo, landmarks, the head over the photo and from four sides, its texture", content.preview),
        "" if content.relit is None else _section("In another light", _picture("The head relit", content.relit)),
        '<div class="two"><section><h2>Measures</h2>',
        _figures(content.figures),
        "</section><section>",
        _section("How sure the shape is", _regions(content.regions)),
        _video(content.video_mp4),
        "</section></div>",
        _section("Licences", _licences(content.licences)),
        _section("Files", _rows(("file", "what it is"), content.files)),
        '<div class="two">',
        _section("Timings", _timings(content.timings_s)),
        _section("Versions", _rows(("part", "version"), content.versions)),
        "</div>",
        "<footer>Made by headrecon. This page holds all its pictures and loads nothing from the network.</footer>",
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _verdict(licences: Sequence[Licence]) -> str:
    closed = [licence.name for licence in licences if not licence.commercial]
    if not licences:
        return "No licences were recorded."
    if not closed:
        return '<span class="yes">Commercial use is allowed</span> by every part that went into this head.'
    names = html.escape(", ".join(dict.fromkeys(closed)))
    return f'<span class="no">Not for commercial use</span>, because of: {names}.'


def _figures(figures: Mapping[str, FigureLike]) -> str:
    head = '<th>measure</th><th class="number">value</th><th class="number">± 1σ</th><th class="number">90 %</th>'
    rows = []
    for key, figure in figures.items():
        name, unit, digits = figure_name(key)
        low, high = _interval90(figure)
        rows.append(
            f'<tr><td>{html.escape(name)}</td><td class="number">{figure.value:.{digits}f} {unit}</td>'
            f'<td class="number">{figure.sigma:.{digits}f}</td>'
            f'<td class="number">{low:.{digits}f} – {high:.{digits}f}</td></tr>'
        )
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def _regions(regions: Mapping[str, Mapping[str, float]]) -> str:
    if not regions:
        return ""
    head = '<th>region</th><th class="number">± 1σ</th><th class="number">without a photo</th>'
    cell = '<tr><td>{}</td><td class="number">{:.1f} mm</td><td class="number">{:.1f} mm</td>{}</tr>'
    ordered = sorted(regions.items(), key=lambda item: item[1]["sigma_mm"])
    compared = any("seen" in r for r in regions.values())
    head += '<th class="number">seen by several</th>' if compared else ""
    seen = {
        name: f'<td class="number">{100 * r["seen"]:.0f} %</td>' if "seen" in r else "<td></td>" * compared
        for name, r in ordered
    }
    rows = "".join(cell.format(html.escape(name), r["sigma_mm"], r["prior_mm"], seen[name]) for name, r in ordered)
    note = "Of where the surface lies. What a photo does not show stays near the second column."
    if compared:
        note += " The last one says how much of a region several photos agree on; the rest follows the model."
    return f'<table><tr>{head}</tr>{rows}</table><p class="soft">{note}</p>'


def _interval90(figure: FigureLike) -> tuple[float, float]:
    given = getattr(figure, "interval90", None)
    return given or (figure.value - 1.645 * figure.sigma, figure.value + 1.645 * figure.sigma)


def _video(data: bytes | None) -> str:
    if data is None:
        return ""
    source = "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")
    return f'<section><h2>Turntable</h2><video controls loop muted playsinline src="{source}"></video></section>'


def _licences(licences: Sequence[Licence]) -> str:
    rows = []
    for licence in dict.fromkeys(licences):
        may = '<span class="yes">yes</span>' if licence.commercial else '<span class="no">no</span>'
        note = f'<br><span class="soft">{html.escape(licence.note)}</span>' if licence.note else ""
        source = f"<code>{html.escape(licence.source)}</code>"
        cells = (html.escape(licence.name) + note, html.escape(licence.spdx), may, source)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    head = "<tr><th>part</th><th>licence</th><th>commercial use</th><th>source</th></tr>"
    return f'<div class="wide"><table>{head}{"".join(rows)}</table></div>' if rows else ""


def _rows(head: tuple[str, str], entries: Mapping[str, str]) -> str:
    if not entries:
        return ""
    cell = "<tr><td><code>{}</code></td><td>{}</td></tr>"
    rows = "".join(cell.format(html.escape(key), html.escape(text)) for key, text in entries.items())
    return f'<div class="wide"><table><tr><th>{head[0]}</th><th>{head[1]}</th></tr>{rows}</table></div>'


def _timings(timings_s: Mapping[str, float]) -> str:
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{seconds:.2f} s</td></tr>'
        for name, seconds in timings_s.items()
    )
    return f'<table><tr><th>stage</th><th class="number">time</th></tr>{rows}</table>' if rows else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def _picture(alt: str, image: UInt8[np.ndarray, "H W 3"]) -> str:
    return f'<img alt="{html.escape(alt)}" src="{jpeg_source(image)}">'


def jpeg_source(image: UInt8[np.ndarray, "H W 3"]) -> str:
    """A picture as the address of itself, for `<img src>`."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="JPEG", quality=90, subsampling=0, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
