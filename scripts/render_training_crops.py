"""Renders crops of faces with exact points for scripts/train_point_net.py: some 40 a second on one core.

    python scripts/render_training_crops.py OUT_PREFIX --skins SKINS.npz [--count 5000] [--first 0]

Nothing is detected: each picture is the square around the true points in which the network will look, half as large
again as the face, upright. Heads are of the default model's population and beyond it (up to 1.5 deviations' scale), in
skins of scripts/training_skins.py, lit by harmonics and lamps that cast shadows; hair rises from scalps or hangs beside
faces, some wear spectacles, some are partly hidden; backgrounds, blur, noise and JPEG vary.
Output: PREFIX.crops.npy uint8 [N,168,168,3], PREFIX.npz with points [N,478,2] in pixels of the crop and betas [N,Nb].
"""

from __future__ import annotations

import argparse
import io
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy.ndimage import zoom

from headrecon.datasets.scene import SyntheticOptions, draw_scene, random_light
from headrecon.datasets.synthetic import IRIS_SIGMA_M, resize_iris
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.head_model import HeadModel, embed
from headrecon.models.store import load_head
from headrecon.ops.arrays import interpolate, rasterize, shade
from headrecon.ops.samples import ShadeColours, ShadeGeometry
from headrecon.perception.face_landmarks import LEFT_EYE_OUTER, RIGHT_EYE_OUTER
from headrecon.rendering.lighting import Lighting, Surface, pack_lighting
from headrecon.rendering.plain_head import IRIS_DIAMETER_M
from headrecon.rendering.self_shadowing import visibility
from headrecon.structures import HeadAssets, HeadParams, triangulate

SIZE, FINE = 168, 2
#: Side of the crop over the longer side of the box around the 468 points.
MARGIN = 1.5
_VIEW = np.diag([1.0, -1.0, -1.0]).astype(np.float32)  # the camera looks along -z of the world


@dataclass(frozen=True)
class Stage:
    """What every picture is made with."""

    assets: HeadAssets
    model: HeadModel
    textures: np.ndarray
    hair: np.ndarray
    triangles: np.ndarray
    uv_triangles: np.ndarray
    backdrops: np.ndarray

    @staticmethod
    def build(skins: Path) -> Stage:
        assets = load_head()
        textures = np.load(skins.with_suffix(".textures.npy"), mmap_mode="r")
        hair = np.load(skins.with_suffix(".hair.npy")).astype(np.float32)
        triangles, uv_triangles = (triangulate(f)[0].astype(np.int32) for f in (assets.faces, assets.uv_faces))
        rng = np.random.default_rng(5)
        backdrops = np.stack([backdrop(rng) for _ in range(300)])
        return Stage(assets, HeadModel(assets), textures, hair, triangles, uv_triangles, backdrops)


def smooth_field(rng: np.random.Generator, grain: float, channels: int = 1) -> np.ndarray:
    """Random values in 0..1 that change over `grain` pixels."""
    side = max(3, math.ceil(SIZE / grain) + 1)
    coarse = rng.normal(size=(side, side, channels))
    field = np.asarray(zoom(coarse, (SIZE / side, SIZE / side, 1), order=1))[:SIZE, :SIZE]
    return (field - field.min()) / (np.ptp(field) + 1e-9)


def backdrop(rng: np.random.Generator) -> np.ndarray:
    """Smooth colours, edges, texture: uint8."""
    share = smooth_field(rng, float(rng.choice([6.0, 12.0, 40.0, 90.0])))
    ends = rng.uniform(0, 1, (2, 1)) + rng.uniform(0, 0.3) * rng.normal(size=(2, 3))  # muted more often than not
    colours = ends[0] * share + ends[1] * (1 - share)
    for grain in (2.0, 5.0):
        if rng.random() < 0.4:
            colours = colours + rng.uniform(0, 0.25) * (smooth_field(rng, grain, 3) - 0.5)
    image = Image.fromarray((colours.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 9))):
        x, y, width, height = rng.uniform(0, SIZE, 4)
        shape = draw.ellipse if rng.random() < 0.3 else draw.rectangle
        shape([x, y, x + 0.5 * width, y + height], fill=_muted(rng))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.choice([0, 1, 3])))))


def _colour(rng: np.random.Generator, brightest: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in rng.integers(0, brightest, 3))
    return red, green, blue


def _muted(rng: np.random.Generator) -> tuple[int, int, int]:
    grey, colour = int(rng.integers(256)), _colour(rng)
    share = float(rng.uniform(0, 1)) ** 2
    red, green, blue = (int(grey + share * (c - grey)) for c in colour)
    return red, green, blue


def draw_params(rng: np.random.Generator, assets: HeadAssets) -> HeadParams:
    """Identity, expression, pose and place before a camera at the origin."""
    kind = rng.choice(3, p=[0.45, 0.33, 0.22])
    options = SyntheticOptions(
        yaw=(15.0, 40.0, 65.0)[kind], pitch=(12.0, 20.0, 25.0)[kind], roll=10.0, gaze=float(rng.choice([6.0, 25.0])),
        distance_m=(0.35, 2.5), expressions=float(rng.choice([0.0, 1.0, 2.0, 5.0], p=[0.2, 0.3, 0.3, 0.2])),
        identity_scale=float(rng.choice([1.0, 1.2, 1.5], p=[0.5, 0.3, 0.2])),
    )  # fmt: skip
    params = draw_scene(assets, rng, options).params
    names, expression = assets.expression_names, params.expression.clone()
    if rng.random() < 0.25:
        amount = float(rng.uniform(0.2, 1.0))
        for name in ("eyeBlinkLeft", "eyeBlinkRight"):
            expression[0, names.index(name)] = amount * float(rng.uniform(0.9, 1.0))
    if rng.random() < 0.25:
        expression[0, names.index("jawOpen")] = float(rng.uniform(0, 0.8))
    if rng.random() < 0.25:
        amount = float(rng.uniform(0.2, 0.9))
        for name in ("mouthSmileLeft", "mouthSmileRight"):
            expression[0, names.index(name)] = amount * float(rng.uniform(0.85, 1.0))
    return replace(params, expression=expression)


def hair_lift(rng: np.random.Generator, stage: Stage, which: int) -> np.ndarray:
    """How far hair lifts each vertex of the neutral head along its normal: the skin's own hair, or a cap."""
    if rng.random() < 0.3:
        return stage.hair[which] * np.float32(rng.uniform(0.3, 1.8))
    if rng.random() < 0.2:
        return np.zeros(stage.assets.num_vertices, np.float32)
    place = (stage.assets.v_template - stage.assets.v_template.mean(0)) / 0.1
    waves = np.sin(place @ (0.8 * rng.normal(size=(3, 3))) + rng.uniform(0, 2 * np.pi, 3)).mean(1)
    height = rng.uniform(0.002, 0.05) * np.clip(0.5 + 0.75 * waves, 0.1, 1.2)
    return (height * np.clip((stage.assets.regions["scalp"] - 0.15) / 0.5, 0, 1)).astype(np.float32)


def light(rng: np.random.Generator) -> Lighting:
    base = random_light(rng)
    sh = np.array(base.ambient_sh)
    sh[1:] += (0.5 * rng.normal(size=(8, 3)) + rng.normal(size=(8, 1))) * 0.12 * sh[0].mean()
    lamps = np.array(base.intensities) * float(rng.choice([0.0, 0.3, 1.0, 1.0, 1.8]))
    dim = float(rng.choice([0.5, 1.0, 1.0, 1.6]))
    return replace(base, ambient_sh=(sh * dim).astype(np.float32), intensities=lamps.astype(np.float32), space="world")


def crop_matrix(seen: np.ndarray) -> np.ndarray:
    """Camera matrix that shows the square around points [478,2] of a camera of focal length 1, eyes level."""
    across = seen[LEFT_EYE_OUTER] - seen[RIGHT_EYE_OUTER]
    x = across / np.linalg.norm(across)
    axes = np.array([x, [-x[1], x[0]]])
    turned = seen[:468] @ axes.T
    low, high = turned.min(0), turned.max(0)
    scale = SIZE / (MARGIN * (high - low).max())
    shift = SIZE / 2 - scale * (low + high) / 2
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = scale * axes, shift
    return matrix.astype(np.float32)


@dataclass(frozen=True)
class Posed:
    """Vertices as drawn, points in pixels of the crop, and the crop's camera matrix."""

    shown: np.ndarray
    points: np.ndarray
    matrix: np.ndarray


def pose(rng: np.random.Generator, stage: Stage, params: HeadParams, lift: np.ndarray) -> Posed:
    with torch.no_grad():
        bald = stage.model(params).vertices[0].numpy().astype(np.float64)
    iris = float(rng.normal(IRIS_DIAMETER_M, IRIS_SIGMA_M))
    for part in ("leye", "reye"):
        bald = resize_iris(stage.assets, bald, part, iris)
    marks = embed(bald, stage.assets.landmarks["mediapipe478"]) @ _VIEW.T
    flat = marks[:, :2] / marks[:, 2:]
    matrix = crop_matrix(flat)
    shown = bald.astype(np.float32)
    if lift.any():
        shown = shown + normals_of(shown, stage.triangles) * lift[:, None]
    return Posed(shown, flat @ matrix[:2, :2].T + matrix[:2, 2], matrix)


def normals_of(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    tensors = torch.from_numpy(vertices), torch.from_numpy(triangles).long()
    return vertex_normals(*tensors).numpy()


def shadow(rng: np.random.Generator, posed: Posed, lamps: Lighting, triangles: np.ndarray) -> np.ndarray | None:
    """Share of the first lamp's light that reaches each vertex [V,1]; None for a light without shadows."""
    if rng.random() < 0.4 or not np.any(lamps.intensities):
        return None
    towards = torch.from_numpy(np.asarray(lamps.directions, np.float32)[:1])
    return visibility(torch.from_numpy(posed.shown), torch.from_numpy(triangles), towards).numpy()


def shot(rng: np.random.Generator, stage: Stage, posed: Posed, texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture (sRGB, straight) and its alpha."""
    normals = normals_of(posed.shown, stage.triangles)
    corners = np.concatenate([stage.triangles, stage.triangles, stage.uv_triangles], axis=1)
    geometry = ShadeGeometry(corners, posed.shown, normals, stage.assets.uvs.astype(np.float32))
    fine = np.diag([FINE, FINE, 1]).astype(np.float32) @ posed.matrix @ _VIEW
    raster = rasterize((posed.shown @ fine.T)[None], stage.triangles, SIZE * FINE, SIZE * FINE)
    lamps = light(rng)
    surface = Surface(roughness=float(rng.uniform(0.4, 0.75)), specular=float(rng.uniform(0.01, 0.04)))
    colours = ShadeColours(texture.astype(np.float32) / 255, None, None)

    def lit(lighting: Lighting) -> tuple[np.ndarray, np.ndarray]:
        packed = pack_lighting(lighting, surface, _VIEW[None])
        image, alpha = shade(raster, geometry, colours, np.zeros((1, 3), np.float32), packed, factor=FINE)
        return image[0], alpha[0][..., None]

    image, alpha = lit(lamps)
    reaches = shadow(rng, posed, lamps, stage.triangles)
    if reaches is not None:
        dark, _ = lit(replace(lamps, intensities=lamps.intensities * np.array([[0.0], [1.0]], np.float32)))
        where = raster.face_index[0, ::FINE, ::FINE].reshape(-1), raster.barycentrics[0, ::FINE, ::FINE].reshape(-1, 3)
        share = interpolate(reaches, stage.triangles, *where).reshape(SIZE, SIZE, 1)
        image = dark + (image - dark) * share
    return image, alpha


def hanging_hair(rng: np.random.Generator, image: Image.Image, points: np.ndarray) -> None:
    """Long hair beside the face, over ears and cheeks."""
    low, high = points[:468].min(0), points[:468].max(0)
    centre, half = (low + high) / 2, (high - low) / 2
    mask = Image.new("L", (2 * SIZE, 2 * SIZE), 0)
    draw = ImageDraw.Draw(mask)
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    wobble = 1 + 0.05 * np.cos(angles * 3 + rng.uniform(0, 6)) + 0.04 * np.cos(angles * 7 + rng.uniform(0, 6))
    ring = np.stack([np.cos(angles), np.sin(angles)], 1) * wobble[:, None]
    outer = centre + (0, rng.uniform(0, 0.7) * half[1]) + ring * half * rng.uniform((1.15, 1.1), (1.7, 1.9))
    inner = (
        centre + (rng.normal(0, 0.1) * half[0], 0.35 * half[1]) + ring * half * rng.uniform((0.82, 1.2), (1.05, 1.6))
    )
    draw.polygon([tuple(p) for p in 2 * outer], fill=255)
    draw.polygon([tuple(p) for p in 2 * inner], fill=0)
    columns = np.arange(SIZE)[None] + 6 * np.sin(np.arange(SIZE)[:, None] / rng.uniform(10, 60))
    strands = np.interp(columns, np.arange(-10, SIZE + 10), rng.normal(size=SIZE + 20))
    tone = rng.uniform(10, 200) * np.array([1, rng.uniform(0.6, 0.95), rng.uniform(0.4, 0.9)])
    fall = np.linspace(1.2, 0.7, SIZE)[:, None]
    colour = (tone * (np.exp(0.25 * strands) * fall)[..., None]).clip(0, 255).astype(np.uint8)
    image.paste(Image.fromarray(colour), (0, 0), mask.resize((SIZE, SIZE), Image.Resampling.BOX))


def spectacles(rng: np.random.Generator, image: Image.Image, points: np.ndarray) -> None:
    scale, unit = 3, float(np.linalg.norm(points[33] - points[263]))
    mask = Image.new("L", (scale * SIZE, scale * SIZE), 0)
    draw, width = ImageDraw.Draw(mask), int(rng.integers(2, 9))
    size, round_ = rng.uniform((0.22, 0.15), (0.28, 0.24)) * unit, rng.random() < 0.5
    strength = int(rng.choice([255, 255, 200]))
    dark = int(rng.integers(40, 255)) if rng.random() < 0.15 else 0
    for corners, outside in (([33, 133], 127), ([362, 263], 356)):
        centre = points[corners].mean(0) + (0, 0.03 * unit)
        reach = size * (min(1.0, float(np.linalg.norm(points[corners[0]] - points[corners[1]])) / (0.3 * unit)), 1)
        box = [*(scale * (centre - reach)), *(scale * (centre + reach))]
        shape = draw.ellipse if round_ else draw.rounded_rectangle
        shape(
            box,
            outline=strength,
            width=width,
            fill=dark or None,
            **({} if round_ else {"radius": 0.4 * scale * size[1]}),
        )
        side = centre + np.sign(points[outside, 0] - centre[0]) * np.array([reach[0], 0])
        draw.line([tuple(scale * side), tuple(scale * points[outside])], fill=strength, width=width)
    bridge = [points[193], points[417]]
    draw.line([tuple(scale * p) for p in bridge], fill=strength, width=width)
    image.paste(_colour(rng, 140), (0, 0), mask.resize(image.size, Image.Resampling.BOX))


def things(rng: np.random.Generator, image: Image.Image, points: np.ndarray) -> None:
    """Something before the face."""
    draw = ImageDraw.Draw(image)
    centre, half = points[int(rng.integers(468))] + rng.normal(0, 20, 2), rng.uniform(4, 30, 2)
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape([*(centre - half), *(centre + half)], fill=_colour(rng))


def shoulders(rng: np.random.Generator, image: Image.Image, points: np.ndarray) -> None:
    draw, chin = ImageDraw.Draw(image), points[152]
    wide = float(np.ptp(points[:468, 0]))
    up = chin[1] + rng.uniform(0.05, 0.35) * wide
    left, right = chin[0] - wide * rng.uniform(0.6, 1.4), chin[0] + wide * rng.uniform(0.6, 1.4)
    corners = [(left, SIZE), (chin[0] - 0.4 * wide, up), (chin[0] + 0.4 * wide, up), (right, SIZE)]
    draw.polygon(corners, fill=_muted(rng))


def photographed(rng: np.random.Generator, image: Image.Image) -> np.ndarray:
    """Exposure, white balance, blur, noise and compression."""
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 1.3))))
    picture = np.asarray(image).astype(np.float32)
    picture = picture * np.exp(rng.normal(0, 0.06, 3) + rng.normal(0, 0.15)).astype(np.float32)
    noise = float(rng.choice([0.0, 2.0, 5.0, 9.0]))
    if noise:
        picture = picture + noise * rng.standard_normal(picture.shape, np.float32)
    out = picture.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        Image.fromarray(out).save(buffer, "JPEG", quality=int(rng.integers(30, 95)))
        out = np.asarray(Image.open(buffer))
    return out


def face(rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A crop, its true points and betas."""
    which = int(rng.integers(len(stage.textures)))
    params = draw_params(rng, stage.assets)
    posed = pose(rng, stage, params, hair_lift(rng, stage, which))
    picture, alpha = shot(rng, stage, posed, stage.textures[which])
    behind = stage.backdrops[int(rng.integers(len(stage.backdrops)))]
    behind = Image.fromarray(np.ascontiguousarray(behind[:, :: rng.choice([-1, 1])]))
    if rng.random() < 0.7:
        shoulders(rng, behind, posed.points)
    merged = picture * alpha + np.asarray(behind, np.float32) / 255 * (1 - alpha)
    image = Image.fromarray((merged.clip(0, 1) * 255).round().astype(np.uint8))
    for chance, extra in ((0.25, hanging_hair), (0.12, spectacles), (0.08, things)):
        if rng.random() < chance:
            extra(rng, image, posed.points)
    return photographed(rng, image), posed.points, params.betas[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--skins", type=Path, required=True)
    for name, default in (("--count", 5000), ("--first", 0)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    stage = Stage.build(args.skins)
    crops = np.empty((args.count, SIZE, SIZE, 3), np.uint8)
    points = np.empty((args.count, 478, 2), np.float32)
    betas = np.empty((args.count, stage.assets.num_betas), np.float32)
    for k in range(args.count):
        crops[k], points[k], betas[k] = face(np.random.default_rng([11, args.first + k]), stage)
    np.save(f"{args.out}.crops.npy", crops)
    np.savez(f"{args.out}.npz", points=points, betas=betas)
    print(f"wrote {args.out}: {args.count} faces")


if __name__ == "__main__":
    main()
