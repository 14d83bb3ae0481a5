"""`preview.png`: the photo and what was found in it; the head as geometry, textured from four sides; its texture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from headrecon.geometry.cameras import crop_cameras, project_points
from headrecon.rendering.cameras_orbit import preview_cameras
from headrecon.rendering.lighting import Surface
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.pictures import Picture, draw
from headrecon.report.scene import BACKDROP_SRGB, HeadScene, textured_look, to_uint8
from headrecon.structures import Cameras

TITLES = (
    "photo", "landmarks", "geometry over the photo", "head over the photo", "geometry",
    "front", "three-quarter", "profile", "back", "texture",
)  # fmt: skip
_COLUMNS = 5
_GAP, _CAPTION = 8, 26
_PAPER, _INK = (250, 250, 251), (60, 62, 66)
_DETECTED, _FITTED = (0, 214, 255), (255, 64, 129)
#: Tint of the geometry where several photos agree on it, and what is written below.
_SEEN_SRGB, _SEEN_TITLE = (0.42, 0.62, 0.78), "geometry (blue: seen by several photos)"
#: How much of the geometry shows over the photo.
_OVERLAY = 0.62


def contact_sheet(
    scene: HeadScene, cell: int = 400, further: Mapping[str, HeadScene] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """The ten pictures in two rows, captioned. cell: side of each picture in pixels.

    further: the same head in more photos, by title; each photo is shown beside the head over it, two to a row.
    """
    pictures = [*contact_pictures(scene, cell).items()]
    for title, other in (further or {}).items():
        pictures += [(f"{title}: {name}", picture) for name, picture in overlay_pictures(other, cell).items()]
    sheet = _laid_out(pictures[: len(TITLES)], _COLUMNS, cell)
    if not further:
        return sheet
    # Two pictures of each photo: four columns in the width of five.
    more = _laid_out(pictures[len(TITLES) :], 4, cell)
    more = np.asarray(
        Image.fromarray(more).resize(
            (sheet.shape[1], round(more.shape[0] * sheet.shape[1] / more.shape[1])), Image.Resampling.LANCZOS
        )
    )
    return np.concatenate([sheet, more])


def _laid_out(
    pictures: Sequence[tuple[str, UInt8[np.ndarray, "S S 3"]]], columns: int, cell: int
) -> UInt8[np.ndarray, "H W 3"]:
    """Captioned pictures in rows."""
    rows = -(-len(pictures) // columns)
    pitch_x, pitch_y = cell + _GAP, cell + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * pitch_x + _GAP, rows * pitch_y + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for i, (title, picture) in enumerate(pictures):
        x, y = _GAP + (i % columns) * pitch_x, _GAP + (i // columns) * pitch_y
        sheet.paste(Image.fromarray(picture), (x, y))
        draw.text((x + 2, y + cell + 4), title, fill=_INK, font=font)
    return np.asarray(sheet)


def contact_pictures(scene: HeadScene, cell: int = 400) -> dict[str, UInt8[np.ndarray, "S S 3"]]:
    """The pictures by title, in the order of TITLES, each cell x cell; the geometry's title says what its tint is."""
    scene = scene.checked()
    cameras = _photo_crop(scene, cell)
    photo = _cut_photo(scene, cell)
    views = preview_cameras(scene.neutral, ("front", "three_quarter", "profile", "back"), cell)
    looks = draw(scene.neutral_mesh, views, scene.textured, textured_look(), levels=scene.levels)
    front = Cameras(views.viewmats[:1], views.Ks[:1], cell, cell)
    geometry = _geometry(scene, front)
    pictures = [
        photo,
        _draw_landmarks(scene, photo, cell),
        _over(photo, _posed(scene, cameras, Appearance(), RenderOptions(background_srgb=None)), _OVERLAY),
        _over(photo, _as_photographed(scene, cameras), 1.0),
        geometry,
        *(to_uint8(look.image_srgb) for look in looks),
        np.asarray(Image.fromarray(scene.texture).resize((cell, cell), Image.Resampling.BOX, reducing_gap=2.0)),
    ]
    titles = [_SEEN_TITLE if scene.seen is not None and t == "geometry" else t for t in TITLES]
    return dict(zip(titles, pictures, strict=True))


def _geometry(scene: HeadScene, camera: Cameras) -> UInt8[np.ndarray, "S S 3"]:
    """The head at rest as clay, tinted where several photos agree on it."""
    look = Appearance()
    if scene.seen is not None:
        tint = np.where(scene.seen[:, None], _SEEN_SRGB, look.base_srgb).astype(np.float32)
        look = Appearance(vertex_srgb=scene.finer.spread(tint))
    options = RenderOptions(background_srgb=BACKDROP_SRGB)
    return to_uint8(next(draw(scene.neutral_mesh, camera, look, options)).image_srgb)


def overlay_pictures(scene: HeadScene, cell: int = 400) -> dict[str, UInt8[np.ndarray, "S S 3"]]:
    """The photo with its landmarks, and the geometry over it, each cell x cell."""
    scene = scene.checked()
    photo = _cut_photo(scene, cell)
    drawn = _posed(scene, _photo_crop(scene, cell), Appearance(), RenderOptions(background_srgb=None))
    return {"landmarks": _draw_landmarks(scene, photo, cell), "geometry": _over(photo, drawn, _OVERLAY)}


def head_square(scene: HeadScene) -> tuple[int, int, int, int]:
    """Square pixel box (x0, y0, x1, y1) around the head with room for hair; it may reach beyond the picture."""
    pixels, depth = project_points(scene.posed, _one(scene.cameras))
    seen = pixels[depth > 0]
    if not len(seen):
        return 0, 0, scene.cameras.width, scene.cameras.width
    low, high = seen.min(0), seen.max(0)
    side = max(8, int(np.ceil(1.35 * float((high - low).max()))))
    centre = (low + high) / 2 - np.array([0.0, 0.06 * side])
    x0, y0 = np.round(centre - side / 2).astype(int).tolist()
    return x0, y0, x0 + side, y0 + side


def _one(cameras: Cameras) -> Cameras:
    return Cameras(cameras.viewmats.reshape(4, 4), cameras.Ks.reshape(3, 3), cameras.width, cameras.height)


def _photo_crop(scene: HeadScene, cell: int) -> Cameras:
    return crop_cameras(_one(scene.cameras), head_square(scene), (cell, cell))


def _cut_photo(scene: HeadScene, cell: int) -> np.ndarray:
    """The head's square of the photo; backdrop colour beyond the photo's border."""
    backdrop = tuple(round(255 * c) for c in BACKDROP_SRGB)
    box = head_square(scene)
    side = box[2] - box[0]
    square = Image.new("RGB", (side, side), backdrop)
    inside = (max(0, box[0]), max(0, box[1]), min(scene.cameras.width, box[2]), min(scene.cameras.height, box[3]))
    if inside[2] > inside[0] and inside[3] > inside[1]:
        part = scene.photo[inside[1] : inside[3], inside[0] : inside[2]]
        square.paste(Image.fromarray(np.ascontiguousarray(part)), (inside[0] - box[0], inside[1] - box[1]))
    return np.asarray(square.resize((cell, cell), Image.Resampling.LANCZOS))


def _draw_landmarks(scene: HeadScene, photo: np.ndarray, cell: int) -> np.ndarray:
    """Detected points, and a line from each to where the fitted head has it."""
    factor = 2  # drawn at twice the size: PIL's shapes have hard edges
    canvas = Image.fromarray(photo).resize((factor * cell, factor * cell), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    box = head_square(scene)
    scale = factor * cell / (box[2] - box[0])

    def place(points: Float[np.ndarray, "L 2"]) -> np.ndarray:
        return (points[:, :2] - np.array(box[:2])) * scale

    detected = None if scene.landmarks_px is None else place(scene.landmarks_px)
    fitted = None if scene.fitted_px is None else place(scene.fitted_px)
    if detected is not None and fitted is not None:
        for start, end in zip(detected.tolist(), fitted.tolist(), strict=True):
            draw.line([tuple(start), tuple(end)], fill=_FITTED, width=factor)
    radius = factor * max(1.0, cell / 330)
    for points, colour in ((fitted, _FITTED), (detected, _DETECTED)):
        for x, y in points.tolist() if points is not None else ():
            draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)
    return np.asarray(canvas.resize((cell, cell), Image.Resampling.LANCZOS))


def _posed(scene: HeadScene, cameras: Cameras, look: Appearance, options: RenderOptions) -> Picture:
    levels = None if look.texture_srgb is None else scene.levels
    return next(draw(scene.posed_mesh, cameras, look, options, levels=levels))


def _as_photographed(scene: HeadScene, cameras: Cameras) -> Picture:
    """The textured head in the photo's light, as far as it is known apart from the texture."""
    matt = replace(scene.textured, surface=Surface(specular=0.0, wrap=(0.0, 0.0, 0.0)))
    return _posed(scene, cameras, matt, RenderOptions(lighting=scene.light, background_srgb=None))


def _over(photo: UInt8[np.ndarray, "S S 3"], picture: Picture, opacity: float) -> UInt8[np.ndarray, "S S 3"]:
    below = photo.astype(np.float32) / 255
    return to_uint8(below + (picture.image_srgb - below) * (opacity * picture.alpha)[..., None])
