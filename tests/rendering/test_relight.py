from __future__ import annotations

import numpy as np
import pytest
import torch

from headrecon.errors import ShapeError
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.light_rigs import named_light
from headrecon.rendering.lighting import Lighting
from headrecon.rendering.relight import RelitLook, relight
from headrecon.structures import Mesh
from tests.synthetic_assets import make_tiny_assets

BLACK = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def head() -> Mesh:
    assets = make_tiny_assets()
    return Mesh(assets.v_template.astype(np.float32), assets.faces, assets.uvs, assets.uv_faces)


def grey(value: int = 170) -> RelitLook:
    return RelitLook(np.full((64, 64, 3), value, dtype=np.uint8))


def shown(head: Mesh, light: Lighting, look: RelitLook | None = None, yaw: float = 0.0) -> np.ndarray:
    got = relight(head, look or grey(), light, orbit_cameras(head.vertices, [yaw], 96), BLACK)
    assert got.shape == (1, 96, 96, 3)
    return got[0].astype(np.float64)


def test_light_comes_from_where_its_name_says(head):
    left, right, top = (shown(head, named_light(name)).mean(2) for name in ("left", "right", "top"))
    assert left[:, :48].mean() > 1.5 * left[:, 48:].mean()
    assert right[:, 48:].mean() > 1.5 * right[:, :48].mean()
    assert top[20:40].mean() > 1.3 * top[60:80].mean()
    # These lights travel with the camera.
    behind = shown(head, named_light("left"), yaw=180.0).mean(2)
    assert behind[:, :48].mean() > 1.5 * behind[:, 48:].mean()


def test_a_light_of_the_world_stays_with_the_head(head):
    lamp = Lighting(torch.zeros(9, 3), torch.tensor([[1.0, 0, 0]]), torch.ones(1, 3), "world")
    front, back = (shown(head, lamp, yaw=yaw).mean(2) for yaw in (0.0, 180.0))
    assert front[:, 48:].mean() > 3 * front[:, :48].mean()
    assert back[:, :48].mean() > 3 * back[:, 48:].mean()


def test_what_stands_in_the_way_throws_a_shadow():
    """A small plate 5 cm above a floor, the lamp right overhead: dark below it, light beside."""
    floor = np.array([[x, 0, z] for z in np.linspace(-0.2, 0.2, 21) for x in np.linspace(-0.2, 0.2, 21)])
    i = np.arange(20)[:, None] * 21 + np.arange(20)[None]
    quads = np.stack([i, i + 21, i + 22, i + 1], -1).reshape(-1, 4)
    plate = np.array([[-0.05, 0.05, -0.05], [-0.05, 0.05, 0.05], [0.05, 0.05, 0.05], [0.05, 0.05, -0.05]])
    vertices = np.concatenate([floor, plate]).astype(np.float32)
    faces = np.concatenate([quads, [[441, 442, 443, 444]]])
    mesh = Mesh(vertices, faces, np.full((len(vertices), 2), 0.5, dtype=np.float32), faces)
    lamp = Lighting(torch.zeros(9, 3), torch.tensor([[0.0, 1, 0]]), torch.full((1, 3), 0.8), "world")
    camera = orbit_cameras(vertices, [0.0], 200, pitch_degrees=20.0)
    got = relight(mesh, grey(), lamp, camera, BLACK)[0].astype(float).mean(2)
    from headrecon.geometry.cameras import project_points

    spots = torch.tensor([[0.0, 0, 0.01], [0.15, 0, 0.0]])
    pixels, _ = project_points(
        spots, type(camera)(*(torch.as_tensor(x)[0] for x in (camera.viewmats, camera.Ks)), 200, 200)
    )
    dark, light = (got[int(y), int(x)] for x, y in pixels.tolist())
    assert dark < 0.4 * light


def test_a_normal_map_tilts_the_surface(head):
    tilted = np.empty((64, 64, 3), dtype=np.uint8)
    tilted[:] = (128, 200, 230)  # towards growing v: up
    flat = np.empty_like(tilted)
    flat[:] = (128, 128, 255)
    light = named_light("top")
    plain, up, same = (
        shown(head, light, RelitLook(grey().texture, normals)).mean() for normals in (None, tilted, flat)
    )
    assert up > 1.08 * plain
    assert same == pytest.approx(plain, rel=0.01)


def test_a_mesh_without_uvs_is_refused(head):
    with pytest.raises(ShapeError, match="needs a mesh with uvs"):
        relight(Mesh(head.vertices, head.faces), grey(), named_light("studio"), orbit_cameras(head.vertices, [0.0], 32))
