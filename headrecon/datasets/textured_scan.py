"""Photos of a scan with its colours: exact truth of a real face.

Scans come in any unit. Where it is not known, the rule here is: the outer corners of the eyes lie EXOCANTHION_MM apart.
A score with its size ("metric") then says how far the person is from that rule as much as how good a result is; the
scale-free score does not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headrecon.datasets.scene import SyntheticOptions, backdrop, draw_view, random_light, through_camera
from headrecon.datasets.texel_map import as_uint8
from headrecon.errors import InputError
from headrecon.geometry.rotations import axis_angle_to_matrix
from headrecon.rendering.lighting import Surface
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Cameras, Mesh

#: Distance of the outer corners of adults' eyes (Farkas, Anthropometry of the Head and Face, 1994: women 88, men 91).
EXOCANTHION_MM = 89.5


@dataclass(frozen=True)
class TexturedScan:
    """A scan in metres, +y up, the face towards +z, between the eyes at the origin. landmarks: NoW's seven points."""

    mesh: Mesh
    texture_srgb: UInt8[np.ndarray, "H W 3"]
    landmarks: Float[np.ndarray, "7 3"]


@dataclass(frozen=True)
class ScanPhoto:
    """A photo of a scan; vertices and landmarks as in the photo, in the world of the camera."""

    image_srgb: UInt8[np.ndarray, "S S 3"]
    cameras: Cameras
    vertices: Float[np.ndarray, "V 3"]
    landmarks: Float[np.ndarray, "7 3"]


def upright_scan(
    mesh: Mesh, texture_srgb: UInt8[np.ndarray, "H W 3"], landmarks: Float[np.ndarray, "7 3"],
    mm_per_unit: float | None = None,
) -> TexturedScan:  # fmt: skip
    """Turn a scan upright and scale it to metres: by mm_per_unit, or by the rule above. Raises InputError."""
    if mesh.uvs is None or mesh.uv_faces is None:
        raise InputError("a scan with a colour map needs texture coordinates, and this one has none")
    eyes = float(np.linalg.norm(landmarks[0] - landmarks[3]))
    metres = 1e-3 * (EXOCANTHION_MM / eyes if mm_per_unit is None else mm_per_unit)
    x = (landmarks[3] - landmarks[0]) / eyes
    up = landmarks[:4].mean(0) - landmarks[5:].mean(0)
    y = up - (up @ x) * x
    y /= np.linalg.norm(y)
    axes, origin = np.stack([x, y, np.cross(x, y)]), landmarks[:4].mean(0)

    def place(points: np.ndarray) -> np.ndarray:
        return metres * (points - origin) @ axes.T

    return TexturedScan(Mesh(place(mesh.vertices), mesh.faces, mesh.uvs, mesh.uv_faces), texture_srgb, place(landmarks))


def scan_photo(scan: TexturedScan, seed: int, options: SyntheticOptions | None = None) -> ScanPhoto:
    """Photograph a scan: pose, camera and light as in `synthetic_photo`, face and hair as they are."""
    options = options or SyntheticOptions()
    rng, light_rng = (np.random.default_rng([seed, stream]) for stream in (0, 2))
    view = draw_view(rng, options)
    focal = float(view.cameras.Ks[0, 0])
    turn = axis_angle_to_matrix(torch.tensor(view.angles)[None])[0].numpy()
    shift = np.array([*rng.uniform(-0.08, 0.08, 2) * view.distance_m * options.size / focal, -view.distance_m])
    vertices, landmarks = (points @ turn.T + shift for points in (scan.mesh.vertices, scan.landmarks))
    drawn = render_mesh(
        Mesh(vertices.astype(np.float32), scan.mesh.faces, scan.mesh.uvs, scan.mesh.uv_faces),
        view.cameras,
        Appearance(
            texture_srgb=torch.from_numpy(scan.texture_srgb.astype(np.float32) / 255), surface=Surface(specular=0.02)
        ),
        RenderOptions(lighting=random_light(light_rng), supersample=options.supersample, background_srgb=None),
    )
    alpha = drawn.alpha[0].numpy()[..., None]
    image = drawn.image_srgb[0].numpy() * alpha + backdrop(light_rng, options.size) * (1 - alpha)
    return ScanPhoto(as_uint8(through_camera(image, light_rng, options)), view.cameras, vertices, landmarks)
