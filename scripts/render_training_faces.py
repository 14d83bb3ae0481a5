"""Renders faces with exact truth for scripts/train_face_refiner.py, and notes what the landmark network sees of them.

    python scripts/render_training_faces.py OUT.npz --skins PHOTO... [--count 3500] [--first 0] [--step 1]

Heads of the default model's population with the skin of the given photos (use openly licensed portraits: the shipped
table was made from two official portraits each of two people, scikit-image's astronaut and matplotlib's sample
portrait, all in the public domain; photos of four other people judged it), mixed, tinted and relit; one in five has
plain colours. Hair rises from some scalps, some wear spectacles, some are partly hidden; backgrounds, blur, noise and
JPEG vary.
Output: detected [N,478,3] and true [N,478,2] points in pixels, betas [N,Nb].
"""

from __future__ import annotations

import argparse
import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, zoom

from headrecon.config import resolve
from headrecon.datasets.scene import SyntheticOptions, draw_scene, random_light
from headrecon.datasets.synthetic import resize_iris
from headrecon.geometry.cameras import project_points
from headrecon.geometry.mesh import vertex_normals
from headrecon.models.head_model import HeadModel, embed
from headrecon.perception.face_detection import search_faces
from headrecon.perception.face_landmarks import LOOKS, read_face
from headrecon.pipeline import load_engine, reconstruct
from headrecon.rendering.lighting import Lighting, Surface
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.rendering.plain_head import IRIS_DIAMETER_M, PlainColours, plain_head
from headrecon.structures import Cameras, HeadAssets, Mesh, triangulate

SIZE, TEXTURE = 360, 512
IRIS_SIGMA_M = 0.00042
#: Half of the eight looks: twice as quick, and about as repeatable.
QUICK_LOOKS = (*LOOKS[1:3], *LOOKS[5:7])


@dataclass(frozen=True)
class Stage:
    """What every picture is made with."""

    assets: HeadAssets
    model: HeadModel
    skins: list[torch.Tensor]
    triangles: np.ndarray


def smooth_field(rng: np.random.Generator, size: int, grain: float) -> np.ndarray:
    """Random values in 0..1 that change over `grain` pixels."""
    coarse = rng.normal(size=(max(3, int(np.ceil(size / grain)) + 2),) * 2)
    field = zoom(coarse, size / coarse.shape[0], order=1)[:size, :size]
    return (field - field.min()) / (np.ptp(field) + 1e-9)


def skin(rng: np.random.Generator, skins: list[torch.Tensor]) -> torch.Tensor:
    """One photo's texture, or two mixed in patches, in another tone and contrast."""
    texture = skins[int(rng.integers(len(skins)))]
    if rng.random() < 0.6:
        share = smooth_field(rng, TEXTURE, rng.choice([100.0, 200.0, 450.0]))
        share = np.clip((share - 0.5) * rng.uniform(1, 4) + 0.5, 0, 1).astype(np.float32)[..., None]
        texture = texture + (skins[int(rng.integers(len(skins)))] - texture) * torch.from_numpy(share)
    linear = texture.clamp(1e-3, 1) ** 2.2
    cheek = linear[150:225, 225:285].mean((0, 1))
    gain = np.exp(rng.normal(0, 0.35) + rng.normal(0, 0.10, 3) * (1, 0.6, 1)).astype(np.float32)
    linear = cheek * (linear / cheek) ** float(np.exp(rng.normal(0, 0.15))) * torch.from_numpy(gain)
    if rng.random() < 0.4:
        blotches = np.exp(0.4 * smooth_field(rng, TEXTURE, rng.choice([30.0, 75.0, 150.0])) - 0.2)
        linear = linear * torch.from_numpy(blotches.astype(np.float32)[..., None])
    return linear.clamp(0, 1) ** (1 / 2.2)


def light(rng: np.random.Generator) -> Lighting:
    base = random_light(rng)
    ambient = np.array(base.ambient_sh)
    ambient[1:] += (0.5 * rng.normal(size=(8, 3)) + rng.normal(size=(8, 1))) * 0.12 * ambient[0].mean()
    lamps = np.array(base.intensities) * float(rng.choice([0.0, 0.3, 1.0, 1.0, 1.4]))
    if rng.random() < 0.4:
        ambient = ambient * 1.6
    return dataclasses.replace(base, ambient_sh=ambient, intensities=lamps, space="world")


def with_hair(rng: np.random.Generator, stage: Stage, vertices: np.ndarray) -> np.ndarray:
    """The scalp raised by 2 to 50 mm, more here than there."""
    normals = vertex_normals(vertices, stage.triangles)
    place = (stage.assets.v_template - stage.assets.v_template.mean(0)) / 0.1
    waves = np.sin(place @ (0.8 * rng.normal(size=(3, 3))) + rng.uniform(0, 2 * np.pi, 3)).mean(1)
    height = rng.uniform(0.002, 0.05) * np.clip(0.5 + 0.75 * waves, 0.1, 1.2)
    height = height * np.clip((stage.assets.regions["scalp"] - 0.15) / 0.5, 0, 1)
    return vertices + (normals + (0, 0.3, 0)) * height[:, None]


def framed(cameras: Cameras, vertices: np.ndarray, share: float) -> Cameras:
    """The camera zoomed so that the head reaches to `share` of the half picture."""
    seen = vertices * (1, -1, -1)
    reach = np.abs(seen[:, :2] / seen[:, 2:]).max()
    intrinsics = cameras.Ks.clone()
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = share * SIZE / 2 / float(reach)
    return dataclasses.replace(cameras, Ks=intrinsics)


def backdrop(rng: np.random.Generator, outline: np.ndarray) -> np.ndarray:
    """Smooth colours, some boxes, and shoulders below the head."""
    share = smooth_field(rng, SIZE, rng.choice([20.0, 60.0, 200.0]))[..., None]
    colours = rng.uniform(0, 1, 3) * share + rng.uniform(0, 1, 3) * (1 - share)
    if rng.random() < 0.4:
        colours = colours + rng.normal(0, 0.08, (SIZE, SIZE, 1))
    picture = Image.fromarray((colours.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, 5))):
        x, y, width, height = rng.uniform(0, SIZE, 4)
        draw.rectangle([x, y, x + 0.4 * width, y + height], fill=_colour(rng))
    (left, right), bottom = (outline[:, 0].min(), outline[:, 0].max()), outline[:, 1].max()
    if rng.random() < 0.8:
        wide, up = (right - left) * rng.uniform(0.1, 0.7, 2), bottom - 0.05 * (right - left)
        inner = 0.2 * (right - left)
        corners = [(left - wide[0], SIZE), (left + inner, up), (right - inner, up), (right + wide[1], SIZE)]
        draw.polygon(corners, fill=_colour(rng))
    return np.asarray(picture).astype(np.float32) / 255


def hide(rng: np.random.Generator, picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Sometimes spectacles, sometimes a thing before the face."""
    image = Image.fromarray((picture.clip(0, 1) * 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.10:
        colour, width = _colour(rng, 120), int(rng.integers(1, 4))
        unit = float(np.linalg.norm(points[33] - points[263]))
        for centre in (points[[33, 133]].mean(0), points[[362, 263]].mean(0)):
            half = unit * rng.uniform((0.20, 0.13), (0.26, 0.22))
            draw.ellipse([*(centre - half), *(centre + half)], outline=colour, width=width)
        across = np.array([0.08 * unit, 0])
        draw.line([tuple(points[168] - across), tuple(points[168] + across)], fill=colour, width=width)
    if rng.random() < 0.08:
        centre, half = points[int(rng.integers(468))] + rng.normal(0, 40, 2), rng.uniform(10, 40, 2)
        draw.ellipse([*(centre - half), *(centre + half)], fill=_colour(rng))
    return np.asarray(image).astype(np.float32) / 255


def photographed(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Exposure, white balance, blur, noise and compression."""
    picture = picture * np.exp(rng.normal(0, 0.06, 3) + rng.normal(0, 0.2))
    if rng.random() < 0.4:
        picture = gaussian_filter(picture, (*(2 * [rng.uniform(0.2, 1.2)]), 0))
    picture = picture + rng.normal(0, rng.choice([0.0, 0.01, 0.03]), picture.shape)
    image = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=int(rng.integers(40, 95)))
        image = np.asarray(Image.open(buffer))
    return np.ascontiguousarray(image)


def _colour(rng: np.random.Generator, brightest: int = 256) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in rng.integers(0, brightest, 3))
    return red, green, blue


def face(rng: np.random.Generator, stage: Stage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture, its true points and betas."""
    frontal = rng.random() < 0.5
    options = SyntheticOptions(
        size=SIZE, yaw=15.0 if frontal else 50.0, pitch=10.0 if frontal else 18.0, roll=10.0,
        expressions=float(rng.choice([0.0, 1.0, 2.0, 5.0], p=[0.25, 0.3, 0.3, 0.15])),
        identity_scale=float(rng.choice([1.0, 1.0, 1.2])),
    )  # fmt: skip
    scene = draw_scene(stage.assets, rng, options)
    clean = stage.model(scene.params).vertices[0].numpy().astype(np.float64)
    posed = clean
    iris = float(rng.normal(IRIS_DIAMETER_M, IRIS_SIGMA_M))
    for part in ("leye", "reye"):
        posed = resize_iris(stage.assets, posed, part, iris)
    if rng.random() < 0.7:
        posed = with_hair(rng, stage, posed)
    cameras = framed(scene.cameras, posed, rng.uniform(0.6, 1.05))
    surface = Surface(roughness=float(rng.uniform(0.4, 0.75)), specular=float(rng.uniform(0.01, 0.04)))
    if rng.random() < 0.2:
        tone = rng.uniform((0.25, 0.15, 0.10), (0.95, 0.82, 0.75))
        colours = plain_head(stage.assets, PlainColours(skin=(float(tone[0]), float(tone[1]), float(tone[2]))))
        appearance = Appearance(vertex_srgb=torch.from_numpy(colours), surface=surface)
    else:
        appearance = Appearance(texture_srgb=skin(rng, stage.skins), surface=surface)
    mesh = Mesh(posed.astype(np.float32), stage.assets.faces, stage.assets.uvs, stage.assets.uv_faces)
    shot = render_mesh(mesh, cameras, appearance, RenderOptions(lighting=light(rng), background_srgb=None))
    alpha = shot.alpha[0].numpy()[..., None]
    outline = project_points(torch.from_numpy(posed.astype(np.float32)), cameras)[0].reshape(-1, 2).numpy()
    marks = torch.from_numpy(embed(clean, stage.assets.landmarks["mediapipe478"]).astype(np.float32))
    points = project_points(marks, cameras)[0].reshape(-1, 2).numpy()
    picture = shot.image_srgb[0].numpy() * alpha + backdrop(rng, outline) * (1 - alpha)
    return photographed(rng, hide(rng, picture, points)), points, scene.params.betas[0].numpy()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--skins", nargs="+", type=Path, required=True)
    for name, default in (("--count", 3500), ("--first", 0), ("--step", 1)):
        parser.add_argument(name, type=int, default=default)
    args = parser.parse_args()
    config = resolve(overrides={"texture.size": TEXTURE})
    engine = load_engine(config)
    skins = [
        torch.from_numpy(reconstruct(p, config, engine=engine).texture.astype(np.float32) / 255) for p in args.skins
    ]
    triangles = triangulate(engine.assets.faces)[0].astype(np.int64)
    stage = Stage(engine.assets, HeadModel(engine.assets), skins, triangles)
    detected, true, betas = [], [], []
    for seed in range(args.first, args.first + args.count * args.step, args.step):
        picture, points, identity = face(np.random.default_rng(seed), stage)
        found = next((faces for faces in search_faces(picture, engine.networks) if faces), None)
        if found is None:
            continue
        largest = max(found, key=lambda f: float(f.box[2] - f.box[0]))
        mesh = read_face(picture, largest, engine.networks.mesh, QUICK_LOOKS)
        if mesh.presence < 0.7:
            continue
        detected.append(mesh.points.astype(np.float32))
        true.append(points)
        betas.append(identity)
    np.savez_compressed(args.out, detected=np.stack(detected), true=np.stack(true), betas=np.stack(betas))
    print(f"wrote {args.out}: {len(betas)} of {args.count} faces seen")


if __name__ == "__main__":
    main()
