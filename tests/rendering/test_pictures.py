"""Pictures drawn in numpy are the pictures that the torch renderer gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.ops import _native
from headrecon.rendering.cameras_orbit import orbit_views
from headrecon.rendering.lighting import soft_front, studio
from headrecon.rendering.look import Appearance, RenderOptions
from headrecon.rendering.mesh import render_mesh
from headrecon.rendering.pictures import draw
from headrecon.structures import Mesh
from tests.synthetic_assets import make_tiny_assets

ASSETS = make_tiny_assets()
MESH = Mesh(ASSETS.v_template, ASSETS.faces, ASSETS.uvs, ASSETS.uv_faces)
CAMERAS = orbit_views(ASSETS.v_template, [0.0, 130.0], (90, 70))
RNG = np.random.default_rng(2)
TEXTURE = RNG.uniform(size=(512, 512, 3)).astype(np.float32)  # fine enough to be halved before it is looked up
VERTEX = RNG.uniform(size=(ASSETS.num_vertices, 3)).astype(np.float32)


def with_tensors(look: Appearance) -> Appearance:
    found = {k: getattr(look, k) for k in ("texture_srgb", "vertex_srgb")}
    return replace(look, **{k: torch.from_numpy(v) for k, v in found.items() if v is not None})


@pytest.mark.parametrize(
    ("look", "options"),
    [
        (Appearance(), RenderOptions()),
        (Appearance(texture_srgb=TEXTURE), RenderOptions(lighting=soft_front(), background_srgb=(0.9, 0.2, 0.1))),
        (Appearance(vertex_srgb=VERTEX), RenderOptions(lighting=None, background_srgb=None, supersample=1)),
        (Appearance(), RenderOptions(lighting=studio(), smooth=False, cull_backfaces=True, supersample=3)),
    ],
    ids=["clay", "texture", "unlit vertex colours", "flat"],
)
def test_same_as_the_torch_renderer(look: Appearance, options: RenderOptions) -> None:
    expected = render_mesh(MESH, CAMERAS, with_tensors(look), options)
    pictures = list(draw(MESH, CAMERAS, look, options))
    assert len(pictures) == 2
    for picture, image, alpha in zip(pictures, expected.image_srgb, expected.alpha, strict=True):
        assert picture.image_srgb.shape == (70, 90, 3)
        # Cameras and lights are packed by another library: the last bits of rounding differ.
        np.testing.assert_allclose(picture.image_srgb, image.numpy(), atol=2e-5)
        np.testing.assert_array_equal(picture.alpha, alpha.numpy())
    assert pictures[0].alpha.max() == 1.0


def test_same_picture_without_the_native_library(monkeypatch: pytest.MonkeyPatch) -> None:
    small = orbit_views(ASSETS.v_template, [40.0], 24)
    look = Appearance(texture_srgb=TEXTURE)
    expected = next(draw(MESH, small, look))
    monkeypatch.setattr(_native, "available", lambda: False)
    picture = next(draw(MESH, small, look))
    assert 0.2 < picture.alpha.mean() < 0.9
    np.testing.assert_array_equal(picture.alpha, expected.alpha)
    np.testing.assert_allclose(picture.image_srgb, expected.image_srgb, atol=2e-4)  # exp and pow differ


def test_bad_looks_are_named_at_once() -> None:
    with pytest.raises(ShapeError, match="uvs"):
        draw(Mesh(MESH.vertices, MESH.faces), CAMERAS, Appearance(texture_srgb=TEXTURE))


@pytest.mark.native
def test_torch_is_not_imported() -> None:
    code = (
        "import sys, numpy as np\n"
        "from headrecon.rendering.cameras_orbit import preview_cameras\n"
        "from headrecon.rendering.pictures import draw\n"
        "from headrecon.structures import Mesh\n"
        "points = np.eye(3)\n"
        "picture = next(draw(Mesh(points, np.array([[0, 1, 2]])), preview_cameras(points, ['front'], 32)))\n"
        "assert picture.alpha.max() > 0 and 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_smooth_outlines_stand_for_many_samples() -> None:
    """Beside the outline one sample with smoothing is much nearer to nine samples than one sample alone."""
    camera = orbit_views(ASSETS.v_template, [20.0], 96)
    look = Appearance(base_srgb=(0.7, 0.7, 0.7))  # near the background: outlines are blended in sRGB, samples in light

    def picture(samples: int, smooth: bool) -> np.ndarray:
        options = RenderOptions(lighting=None, supersample=samples)
        return next(draw(MESH, camera, look, options, smooth_outlines=smooth)).image_srgb

    truth, plain, smooth = picture(3, False), picture(1, False), picture(1, True)
    beside = np.abs(plain - truth).max(-1) > 0.02
    assert beside.sum() > 50
    assert np.abs(smooth - truth)[beside].mean() < 0.5 * np.abs(plain - truth)[beside].mean()
    np.testing.assert_array_equal(smooth[:2], plain[:2])  # far from the head nothing changes
