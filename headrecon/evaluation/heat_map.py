"""A picture of where a prediction errs: the scan from three sides coloured by error, the aligned prediction below."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from headrecon.evaluation.now_protocol import face_region
from headrecon.evaluation.scan_to_mesh import MeshScore, ScanErrors
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, Mesh

#: Dark blue through green to yellow and red, even in lightness up to the middle: read without and with colour vision.
_SCALE = np.array(
    [(0.16, 0.20, 0.45), (0.15, 0.45, 0.60), (0.30, 0.68, 0.50), (0.93, 0.87, 0.35), (0.93, 0.50, 0.18),
     (0.72, 0.10, 0.15)]
)  # fmt: skip
_UNSCORED = (0.62, 0.62, 0.63)
_YAWS = (-45.0, 0.0, 45.0)
_PAPER, _INK = (250, 250, 251), (60, 62, 66)


def error_colours(errors_mm: Float[np.ndarray, " N"], top_mm: float) -> Float[np.ndarray, "N 3"]:
    """sRGB of errors from 0 to `top_mm` and above; grey where an error is NaN."""
    place = np.clip(np.nan_to_num(errors_mm) / top_mm, 0, 1)
    steps = np.linspace(0, 1, len(_SCALE))
    colours = np.stack([np.interp(place, steps, _SCALE[:, c]) for c in range(3)], axis=1)
    return np.where(np.isnan(errors_mm)[:, None], _UNSCORED, colours)


def heat_map(
    scan: Mesh,
    prediction: Mesh,
    landmarks: Float[np.ndarray, "7 3"],
    score: MeshScore,
    errors: ScanErrors,
    cell: int = 420,
    top_mm: float = 4.0,
) -> UInt8[np.ndarray, "H W 3"]:
    """Two rows of three pictures with a legend. scan, prediction, landmarks: as given to `evaluate_mesh`.

    Scan vertices that were not scored are grey, those that are not finite are left out; a scan without faces is shown
    as dots.
    """
    points = np.asarray(scan.vertices, dtype=np.float64) * score.scan_mm_per_unit
    marks = np.asarray(landmarks, dtype=np.float64) * score.scan_mm_per_unit
    to_head, centre = _upright(marks), face_region(marks)[0]

    def place(at: np.ndarray) -> np.ndarray:
        return ((at - centre) @ to_head.T) * 1e-3

    aligned = place(errors.alignment.apply(np.asarray(prediction.vertices, dtype=np.float64) * score.pred_mm_per_unit))
    frame = _frame(score.radius_mm * 1e-3)
    cameras = orbit_cameras(frame, _YAWS, cell)
    colours = error_colours(score.per_vertex(errors), top_mm)
    shown, source = _drawable(Mesh(place(points), scan.faces), 1e-3)
    top = _render(shown, cameras, colours[source])
    bottom = _render(_drawable(Mesh(aligned, prediction.faces), 1e-3)[0], cameras, None)
    return _sheet([*top, *bottom], cell, top_mm, errors)


def _upright(marks: np.ndarray) -> Float[np.ndarray, "3 3"]:
    """Rows are the head's axes in the scan's: x to the person's left, y up, z out of the face."""
    x = marks[3] - marks[0]
    x /= np.linalg.norm(x)
    up = marks[:4].mean(0) - marks[5:].mean(0)
    y = up - (up @ x) * x
    y /= np.linalg.norm(y)
    return np.stack([x, y, np.cross(x, y)])


def _frame(radius: float) -> np.ndarray:
    """Points that the cameras are to hold: the ball of the scored region."""
    return radius * np.concatenate([np.eye(3), -np.eye(3)]) * 1.02


def _drawable(mesh: Mesh, dot: float) -> tuple[Mesh, np.ndarray]:
    """A mesh of the finite faces and, by vertex of it, the vertex of the original; a cloud becomes dots of size `dot`.

    Dots are triangles that face the front: enough to see where colours lie.
    """
    vertices, faces = np.asarray(mesh.vertices), mesh.faces
    good = np.asarray(np.isfinite(vertices).all(1))
    if len(faces):
        kept = faces[np.where(faces >= 0, good[faces], True).all(1)]
        return Mesh(np.where(good[:, None], vertices, 0.0), kept), np.arange(len(vertices))
    ids = np.repeat(np.flatnonzero(good), 3)
    corner = dot * np.array([(-0.87, -0.5, 0.0), (0.87, -0.5, 0.0), (0.0, 1.0, 0.0)])
    return Mesh(vertices[ids] + np.tile(corner, (len(ids) // 3, 1)), np.arange(len(ids)).reshape(-1, 3)), ids


def _render(mesh: Mesh, cameras: Cameras, colours: np.ndarray | None) -> list[np.ndarray]:
    look = Appearance() if colours is None else Appearance(vertex_srgb=torch.from_numpy(colours.astype(np.float32)))
    images = render_mesh(mesh, cameras, look, RenderOptions(background_srgb=(0.97, 0.97, 0.97))).image_srgb
    return [(image.numpy() * 255).round().astype(np.uint8) for image in images]


def _sheet(pictures: list[np.ndarray], cell: int, top_mm: float, errors: ScanErrors) -> np.ndarray:
    gap, legend = 6, 56
    sheet = Image.new("RGB", (3 * cell + 4 * gap, 2 * cell + 3 * gap + legend), _PAPER)
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (gap + (i % 3) * (cell + gap), gap + (i // 3) * (cell + gap)))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    top, width = 2 * cell + 3 * gap, min(300, cell)
    ramp = error_colours(np.linspace(0, top_mm, width), top_mm)
    bar = np.repeat((ramp * 255).round().astype(np.uint8)[None], 14, axis=0)
    sheet.paste(Image.fromarray(bar), (gap, top + 6))
    for mm in range(int(top_mm) + 1):
        draw.text((gap + mm / top_mm * (width - 1) - 3, top + 22), f"{mm}", fill=_INK, font=font)
    text = f"mm    median {errors.median_mm:.2f}, mean {errors.mean_mm:.2f}, std {errors.std_mm:.2f} mm"
    draw.text((gap + width + 14, top + 4), text, fill=_INK, font=font)
    kind = "metric (rigid)" if errors.alignment.scale == 1.0 else f"scale-free (size x {errors.alignment.scale:.4f})"
    draw.text((gap + width + 14, top + 24), f"{kind}; grey: not scored", fill=_INK, font=font)
    return np.asarray(sheet)
