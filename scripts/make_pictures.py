"""Makes the pictures of README.md and docs: only from the NASA portrait in scikit-image and from heads that we draw.

python scripts/make_pictures.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image

import headrecon
from headrecon.config import resolve
from headrecon.datasets.synthetic import SKIN_TONES
from headrecon.models.head_model import HeadModel
from headrecon.models.store import load_head
from headrecon.outputs import scene_of
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.rendering.plain_head import PlainColours, plain_head
from headrecon.report.contact_sheet import contact_sheet
from headrecon.structures import HeadAssets, Mesh

OUT = Path(__file__).resolve().parents[1] / "docs/images"
EXPRESSIONS: tuple[dict[str, float], ...] = (
    {},
    {"jawOpen": 0.8},
    {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9, "mouthUpperUpLeft": 0.4, "mouthUpperUpRight": 0.4},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    {"browInnerUp": 1.0, "eyeWideLeft": 0.7, "eyeWideRight": 0.7, "mouthFunnel": 0.6},
    {"mouthPucker": 0.9, "browDownLeft": 0.8, "browDownRight": 0.8},
)


def save(name: str, image: np.ndarray) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / name
    Image.fromarray(image).save(path, quality=88)
    print(f"{path} {image.shape[1]} x {image.shape[0]}, {path.stat().st_size / 1e3:.0f} kB")


def render(assets: HeadAssets, vertices: np.ndarray, yaws: list[float], size: int, colours: PlainColours) -> np.ndarray:
    cameras = orbit_cameras(assets.v_template * 1.06, yaws, size)
    look = Appearance(vertex_srgb=torch.as_tensor(plain_head(assets, colours)))
    output = render_mesh(Mesh(vertices, assets.faces), cameras, look, RenderOptions(background_srgb=(0.93, 0.93, 0.94)))
    return np.concatenate(list((output.image_srgb.numpy() * 255).round().astype(np.uint8)), axis=1)


def people(assets: HeadAssets, rows: int = 6, columns: int = 4) -> np.ndarray:
    """Random identities, betas ~ N(0, I), each from two sides."""
    model = HeadModel(assets)
    betas = torch.randn(rows * columns, assets.num_betas, generator=torch.Generator().manual_seed(2026))
    with torch.no_grad():
        vertices = model(replace(model.zeros(len(betas)), betas=betas)).vertices.numpy()
    cells = []
    for i, v in enumerate(vertices):
        skin = np.array(SKIN_TONES[i % len(SKIN_TONES)])
        r, g, b = (float(c) for c in skin)
        brows = (0.35 * r, 0.32 * g, 0.3 * b)
        cells.append(render(assets, v, [0, 50], 150, PlainColours(skin=(r, g, b), brows=brows)))
    return np.concatenate([np.concatenate(cells[k * columns : (k + 1) * columns], 1) for k in range(rows)], 0)


def expressions(assets: HeadAssets) -> np.ndarray:
    model = HeadModel(assets)
    cells = []
    for weights in EXPRESSIONS:
        values = torch.zeros(1, assets.num_expressions)
        for name, weight in weights.items():
            values[0, assets.expression_names.index(name)] = weight
        with torch.no_grad():
            v = model(replace(model.zeros(), expression=values)).vertices[0].numpy()
        cells.append(render(assets, v, [20], 260, PlainColours()))
    return np.concatenate(cells, axis=1)


def main() -> None:
    assets = load_head()
    save("people.jpg", people(assets))
    save("expressions.jpg", expressions(assets))
    result = headrecon.reconstruct(skimage.data.astronaut(), resolve("default"))
    save("preview.jpg", contact_sheet(scene_of(result)))


if __name__ == "__main__":
    main()
