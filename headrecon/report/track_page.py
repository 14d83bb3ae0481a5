"""`report.html` of a track: how sure it is over time, how it jitters, where it fails; pictures of the worst frames."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.report.html import PAGE_STYLE, jpeg_source
from headrecon.structures import Licence

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 1000, 150, 46, 18
#: Points of a curve: more cannot be told apart on a page.
_MOST_POINTS = 2000


@dataclass(frozen=True)
class Curve:
    """A line over time. values: NaN leaves a gap. unit: of the values; top: of the axis (None: the largest)."""

    title: str
    values: Float[np.ndarray, " T"]
    unit: str = ""
    top: float | None = None


@dataclass(frozen=True)
class TrackPage:
    """What the page says. facts: name and value; pictures: captions and images of the filmstrip, worst first."""

    title: str
    times_s: Float[np.ndarray, " T"]
    curves: Sequence[Curve]
    pictures: Sequence[tuple[str, UInt8[np.ndarray, "_ _ 3"]]]
    facts: Mapping[str, str]
    licences: Sequence[Licence]
    warnings: Sequence[str] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def track_page_html(page: TrackPage) -> str:
    """The whole page; every text is escaped, nothing is loaded from elsewhere."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    title = html.escape(page.title)
    closed = [x.name for x in page.licences if not x.commercial]
    verdict = (
        '<span class="yes">Commercial use is allowed</span> by every part that went into this track.'
        if not closed
        else f'<span class="no">Not for commercial use</span>, because of: {html.escape(", ".join(closed))}.'
    )
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title} · headrecon</title><style>{PAGE_STYLE}{_STYLE}</style></head><body><main>",
        f'<h1>{title}</h1><p class="soft">{verdict}</p>',
        *(f'<p class="note">{html.escape(text)}</p>' for text in page.warnings),
        _table("What was tracked", page.facts),
        "<h2>Over time</h2>",
        *(_chart(page.times_s, curve) for curve in page.curves),
        "<h2>Least sure frames</h2>",
        '<div class="strip">',
        *(
            f'<figure><img alt="{html.escape(text)}" src="{jpeg_source(image)}">'
            f"<figcaption>{html.escape(text)}</figcaption></figure>"
            for text, image in page.pictures
        ),
        "</div>",
        _table("Files", page.files),
        _table("Timings", {name: f"{seconds:.2f} s" for name, seconds in page.timings_s.items()}),
        _table("Licences", {x.name: f"{x.spdx}, {x.source}" for x in dict.fromkeys(page.licences)}),
        "<footer>Made by headrecon. This page holds all its pictures and loads nothing from the network.</footer>",
        "</main></body></html>",
    ]
    return "\n".join(parts) + "\n"


_STYLE = """
svg{display:block;width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
svg path{fill:none;stroke:#3b82f6;stroke-width:1.3;vector-effect:non-scaling-stroke}
svg line{stroke:var(--line)}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(200px,1fr));gap:1rem}
figure{margin:0}figcaption{font-size:.85rem;color:var(--soft);margin-top:.3rem}
"""


def _table(title: str, rows: Mapping[str, str]) -> str:
    if not rows:
        return ""
    cells = "".join(f"<tr><td>{html.escape(k)}</td><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
    return f'<section><h2>{html.escape(title)}</h2><div class="wide"><table>{cells}</table></div></section>'


def _chart(times_s: np.ndarray, curve: Curve) -> str:
    """A line chart; of a long clip each point stands for the worst of its frames, so that no failure is thinned out."""
    times, values = _thinned(times_s, curve.values)
    finite = values[np.isfinite(values)]
    top = curve.top if curve.top is not None else float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    span = max(float(times[-1] - times[0]), 1e-9)
    x = _LEFT + (times - times[0]) / span * (_WIDTH - _LEFT - 8)
    y = 10 + (1 - np.clip(values / top, 0, 1)) * (_HEIGHT - _BOTTOM - 10)
    path, pen = [], False
    for a, b in zip(x, y, strict=True):
        if not np.isfinite(b):
            pen = False
            continue
        path.append(f"{'L' if pen else 'M'}{a:.1f} {b:.1f}")
        pen = True
    low = _HEIGHT - _BOTTOM
    title = html.escape(curve.title + (f", {curve.unit}" if curve.unit else ""))
    return (
        f'<p class="soft">{title}</p><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{title}">'
        f'<line x1="{_LEFT}" y1="10" x2="{_WIDTH - 8}" y2="10"/>'
        f'<line x1="{_LEFT}" y1="{low}" x2="{_WIDTH - 8}" y2="{low}"/>'
        f'<text x="4" y="15">{top:.3g}</text><text x="4" y="{low + 4}">0</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 4}">{times[0]:.1f} s</text>'
        f'<text x="{_WIDTH - 8}" y="{_HEIGHT - 4}" text-anchor="end">{times[-1]:.1f} s</text>'
        f'<path d="{"".join(path)}"/></svg>'
    )


def _thinned(times_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    step = -(-len(values) // _MOST_POINTS)
    if step == 1:
        return times_s, values
    ends = np.arange(0, len(values), step)
    filled = np.where(np.isfinite(values), values, -np.inf)
    worst = np.maximum.reduceat(filled, ends)
    return times_s[ends], np.where(np.isfinite(worst), worst, np.nan)
