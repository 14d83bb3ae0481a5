"""One HTML file that shows splats: our own small WebGL2 viewer (`data/splat_viewer`) with the splats inside.

It fetches nothing and works from disk. Places are rounded to 1/65535 of the box that holds them, rotations to 10 bits
in each of the three smallest components, logarithms of scales to 1/255 of their range, colours (clipped to 0..1) and
opacities to bytes, further harmonics to 1/127 of the largest. Each frame is stored as its difference from the one
before, deflated.
"""

from __future__ import annotations

import base64
import html
import importlib.resources
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from headrecon.errors import InputError, ShapeError
from headrecon.geometry.harmonics import C0
from headrecon.io.splats.cloud import (
    HARMONICS,
    SplatCloud,
    check_count,
    checked,
    cloud_from,
    log_scales,
    read_whole,
    write_whole,
)
from headrecon.io.splats.smallest_three import pack_smallest_three, unpack_smallest_three
from headrecon.structures import Gaussians

SCHEMA = "headrecon.splat-page/1"
#: Which texture of the viewer a plane of bytes goes to, the bytes between neighbours there, and its place among them.
PLANES = (
    *(("places", 8, i) for i in range(6)),
    *(("turns", 4, i) for i in range(4)),
    *(("sizes", 4, i) for i in range(3)),
    *(("colours", 4, i) for i in range(4)),
)
#: Bytes that a browser unpacks the frames to; more would make phones give up.
_MOST_UNPACKED = 600_000_000
_TEXTURE_WIDTH = 1024
#: Of the frames of a header that is read back.
_MOST_FRAMES = 100_000
#: The view: degrees across the shorter side of the window, and what lies outside the box that it is framed by.
_ANGLE = 30.0
_STRAYS = 0.005


@dataclass(frozen=True)
class SplatPage:
    """How a page shows its frames. times_s: of each frame, rising, from 0; frame_s: how long the last one stays.

    antialiased: as `ops.splat_gaussians.SplatOptions`: splats must be drawn as they were fitted. notes: small print,
    such as licences. background: "light", "dark", "white" or "black".
    """

    title: str = "Splats"
    times_s: Sequence[float] | None = None
    frame_s: float = 1 / 25
    antialiased: bool = False
    notes: str = ""
    background: str = "light"


@dataclass(frozen=True)
class StartView:
    """Where the viewer's camera stands first: before `target` (metres), at `distance`; angles in degrees."""

    target: tuple[float, float, float]
    distance: float
    yaw: float = 0.0
    pitch: float = 0.0
    angle: float = _ANGLE


def write_splat_html(path: str | Path, frames: Gaussians | Sequence[Gaussians], page: SplatPage = SplatPage()) -> None:
    """Write one set of Gaussians in head space, or a sequence (of equal numbers in the same order) that plays.

    Raises InputError for what cannot be shown, ShapeError for frames that do not fit together.
    """
    sequence = [frames] if isinstance(frames, Gaussians) else frames
    _check_size(sequence, page)
    clouds = [cloud_from(g) for g in sequence]
    sizes = {(len(c), c.degree) for c in clouds}
    if len(sizes) > 1:
        raise ShapeError(f"frames of one page must have the same number of Gaussians and degree, found {sorted(sizes)}")
    header, streams = pack_frames(clouds)
    times = list(page.times_s) if page.times_s is not None else [i * page.frame_s for i in range(len(clouds))]
    view = start_view(clouds[0])
    header |= {
        "schema": SCHEMA,
        "times": [round(float(t), 4) for t in times],
        "frame_seconds": page.frame_s,
        "antialiased": page.antialiased,
        "view": {k: getattr(view, k) for k in ("target", "distance", "yaw", "pitch", "angle")},
    }
    write_whole(path, _page(header, streams, page).encode("utf-8"))


def _check_size(frames: Sequence[Gaussians], page: SplatPage) -> None:
    if not frames:
        raise InputError("a page of splats needs at least one frame, found none")
    unpacked = len(frames) * len(frames[0]) * len(PLANES)
    if unpacked > _MOST_UNPACKED:
        raise InputError(
            f"{len(frames)} frames of {len(frames[0]):,} Gaussians are {unpacked / 1e6:,.0f} MB in a browser, more "
            f"than {_MOST_UNPACKED / 1e6:.0f} MB; take fewer frames (--every)"
        )
    if page.times_s is not None and (len(page.times_s) != len(frames) or (np.diff(page.times_s) <= 0).any()):
        raise InputError(f"times of a page must rise, one for each of its {len(frames)} frames")


def start_view(cloud: SplatCloud) -> StartView:
    """A camera in front that sees all but a few stray Gaussians."""
    low, high = np.quantile(cloud.means.astype(np.float64), [_STRAYS, 1 - _STRAYS], axis=0)
    radius = max(float(np.linalg.norm((high - low)[:2])) / 2, 1e-4)
    distance = 1.05 * radius / np.sin(np.radians(_ANGLE / 2)) + float(high[2] - low[2]) / 2
    target = [float(x) for x in (low + high) / 2]
    return StartView((target[0], target[1], target[2]), float(distance))


# --- packing ---------------------------------------------------------------------------------------------------------


def pack_frames(clouds: Sequence[SplatCloud]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The numbers that the viewer needs, and its streams by name, deflated."""
    low = np.min([c.means.min(0) for c in clouds], axis=0).astype(np.float64)
    step = np.maximum((np.max([c.means.max(0) for c in clouds], axis=0) - low) / 65535, 1e-12)
    smallest = float(min(log_scales(c).min() for c in clouds))
    log_step = max((float(max(log_scales(c).max() for c in clouds)) - smallest) / 255, 1e-6)
    streams: dict[str, bytes] = {}
    before = np.zeros((len(PLANES), len(clouds[0])), np.uint8)
    for i, cloud in enumerate(clouds):
        planes = _planes(cloud, low, step, (smallest, log_step))
        streams[f"stream-{i}"] = zlib.compress((planes - before).tobytes(), 6)  # wraps round, as the viewer's sum does
        before = planes
    rest = clouds[0].sh[:, 1:]
    scale = max(float(np.abs(rest).max()), 1e-9) if rest.size else 1.0
    if rest.size:
        streams["stream-harmonics"] = zlib.compress(_harmonics(rest, scale).tobytes(), 9)
    header = {
        "count": len(clouds[0]), "frames": len(clouds), "planes": PLANES, "box_low": low.tolist(),
        "box_step": step.tolist(), "log_scales": [smallest, log_step], "harmonics": rest.shape[1],
        "harmonic_scale": scale,
    }  # fmt: skip
    return header, streams


def _planes(
    cloud: SplatCloud, low: np.ndarray, step: np.ndarray, logs: tuple[float, float]
) -> UInt8[np.ndarray, "P N"]:
    places = np.rint((cloud.means - low) / step).clip(0, 65535).astype("<u2")
    sizes = np.rint((log_scales(cloud) - logs[0]) / logs[1]).clip(0, 255).astype(np.uint8)
    colours = np.concatenate([cloud.colours, cloud.opacities[:, None]], axis=1)
    columns = [
        np.ascontiguousarray(places).view(np.uint8).reshape(-1, 6),
        pack_smallest_three(cloud.quats_wxyz),
        sizes,
        np.floor(colours * 255 + 0.5).clip(0, 255).astype(np.uint8),
    ]
    return np.ascontiguousarray(np.concatenate(columns, axis=1).T)


def _harmonics(rest: Float[np.ndarray, "N k 3"], scale: float) -> np.ndarray:
    """Texels of the viewer: red, green, blue and nothing, in rows of its textures' width."""
    texels = np.zeros((-(-rest.shape[0] * rest.shape[1] // _TEXTURE_WIDTH) * _TEXTURE_WIDTH, 4), np.int8)
    texels[: rest.shape[0] * rest.shape[1], :3] = np.rint(rest.reshape(-1, 3) / scale * 127)
    return texels


def _page(header: dict[str, Any], streams: dict[str, bytes], page: SplatPage) -> str:
    def part(name: str) -> str:
        return (importlib.resources.files("headrecon") / "data" / "splat_viewer" / name).read_text("utf-8").strip()

    blocks = [
        f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode("ascii")}</script>'
        for name, data in streams.items()
    ]
    # "<" would end the script that holds the JSON; its escape means the same.
    document = json.dumps(header, separators=(",", ":")).replace("<", "\\u003c")
    fill = {
        "TITLE": html.escape(page.title), "NOTES": html.escape(page.notes), "HEADER": document,
        "STREAMS": "\n".join(blocks), "STYLE": part("style.css"), "VIEWER": part("viewer.js"),
        "SORTER": part("sorter.js"), "VERTEX": part("splats.vert"), "FRAGMENT": part("splats.frag"),
    }  # fmt: skip
    text = part("page.html").replace('data-background="light"', f'data-background="{html.escape(page.background)}"')
    # In one pass, so that nothing which was filled in is taken for a place to fill.
    return re.sub("@@([A-Z]+)@@", lambda found: fill[found[1]], text) + "\n"


# --- reading ---------------------------------------------------------------------------------------------------------


def read_splat_html(path: str | Path) -> list[Gaussians]:
    """The frames of a page that `write_splat_html` wrote, in head space. Raises InputError for any other file."""
    text = read_whole(path).decode("utf-8", "replace")
    try:
        header = json.loads(_script(text, "header"))
        if header["schema"] != SCHEMA or [tuple(p) for p in header["planes"]] != list(PLANES):
            raise ValueError(f"schema {header['schema']!r}")
        count, frames, harmonics = (int(header[key]) for key in ("count", "frames", "harmonics"))
        check_count(count, path)
        if not (count > 0 and 0 < frames <= _MOST_FRAMES and harmonics + 1 in HARMONICS):
            raise ValueError(f"{frames} frames of {count} Gaussians with {harmonics} harmonics")
        return list(_frames(path, text, header, (count, frames, harmonics)))
    except (KeyError, TypeError, ValueError, IndexError, zlib.error, RecursionError, OverflowError) as error:
        raise InputError(f"{path} is no page of splats, or a damaged one ({type(error).__name__}: {error})") from error


def _frames(path: str | Path, text: str, header: dict[str, Any], sizes: tuple[int, int, int]) -> list[Gaussians]:
    count, frames, harmonics = sizes
    low, step = (np.array(header[key], np.float64).reshape(3) for key in ("box_low", "box_step"))
    smallest, log_step = (float(x) for x in header["log_scales"])
    rest = np.zeros((count, 0, 3), np.float32)
    if harmonics:
        rows = -(-count * harmonics // _TEXTURE_WIDTH) * _TEXTURE_WIDTH
        texels = np.frombuffer(_stream(text, "stream-harmonics", 4 * rows), np.int8).reshape(-1, 4)
        rest = texels[: count * harmonics, :3].reshape(count, harmonics, 3) * np.float32(header["harmonic_scale"] / 127)
    out = []
    planes = np.zeros((len(PLANES), count), np.uint8)
    for i in range(frames):
        planes = planes + np.frombuffer(_stream(text, f"stream-{i}", planes.size), np.uint8).reshape(planes.shape)
        places = np.ascontiguousarray(planes[:6].T).view("<u2")
        colours = planes[13:].T.astype(np.float32) / 255
        first = ((colours[:, :3] - np.float32(0.5)) / np.float32(C0))[:, None]
        cloud = SplatCloud(
            (low + places * step).astype(np.float32),
            unpack_smallest_three(np.ascontiguousarray(planes[6:10].T)),
            np.exp(smallest + planes[10:13].T * log_step).astype(np.float32),
            np.ascontiguousarray(colours[:, 3]),
            np.concatenate([first, rest], axis=1).astype(np.float32),
        )
        out.append(checked(cloud, path).gaussians())
    return out


def _script(text: str, name: str) -> str:
    mark = f' id="{name}">'
    start = text.index(mark) + len(mark)
    return text[start : text.index("</script>", start)]


def _stream(text: str, name: str, size: int) -> bytes:
    unpacker = zlib.decompressobj()
    data = unpacker.decompress(base64.b64decode(_script(text, name), validate=True), size + 1)
    if len(data) != size:
        raise ValueError(f"{name} holds other than {size:,} bytes")
    return data
