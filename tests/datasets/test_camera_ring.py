"""Photos of one moment: what the cameras say must be what the pictures show."""

from __future__ import annotations

import numpy as np

from headrecon.datasets.camera_ring import RingOptions, RingPhotos, ring_of_scan
from headrecon.datasets.textured_scan import TexturedScan
from headrecon.geometry.cameras import camera_centers, project_points
from headrecon.geometry.sampling import sample_bilinear
from headrecon.structures import Cameras, Mesh
from tests.synthetic_assets import make_tiny_assets


def scan() -> TexturedScan:
    """The tiny head as a scan; its colour is red from left to right and green from below."""
    assets = make_tiny_assets()
    u, v = np.meshgrid(np.arange(64), np.arange(64))
    texture = np.stack([4 * u, 255 - 4 * v, np.full_like(u, 90)], axis=2).astype(np.uint8)
    mesh = Mesh(assets.v_template.astype(np.float64), assets.faces, assets.uvs, assets.uv_faces)
    marks = np.array(
        [
            [x, y, 0.09]
            for x, y in [(-4.0, 2.0), (-2.0, 2.0), (2.0, 2.0), (4.0, 2.0), (0.0, -2.0), (-2.0, -5.0), (2, -5)]
        ]
    )
    return TexturedScan(mesh, texture, marks * [0.01, 0.01, 1.0])


def one(ring: RingPhotos, index: int) -> Cameras:
    return Cameras(ring.cameras.viewmats[index], ring.cameras.Ks[index], ring.cameras.width, ring.cameras.height)


def test_cameras_show_the_head_where_they_say() -> None:
    options = RingOptions(size=128, directions=((0.0, 0.0), (-30.0, 0.0), (0.0, 20.0)), noise=0.0, blur_px=0.0)
    ring = ring_of_scan(scan(), 1, options)
    assert len(ring.images_srgb) == 3
    centres = camera_centers(ring.cameras)
    assert centres[1, 0] < -0.3 < centres[0, 0]  # the person's right
    assert centres[2, 1] > 0.15
    tip = ring.vertices[:, 2].argmax()
    colours = []
    for i in range(3):
        pixels, depth = project_points(ring.vertices.astype(np.float64), one(ring, i))
        assert (depth > 0.5).all()
        covered = sample_bilinear(ring.alpha[i], pixels[:, 0] - 0.5, pixels[:, 1] - 0.5)
        assert np.median(covered) > 0.99
        outside = np.ones((128, 128), bool)
        low, high = np.floor(pixels.min(0)).astype(int) - 1, np.ceil(pixels.max(0)).astype(int) + 1
        outside[max(low[1], 0) : high[1], max(low[0], 0) : high[0]] = False
        assert not ring.alpha[i][outside].any()
        colours.append(sample_bilinear(ring.images_srgb[i], pixels[tip, :1] - 0.5, pixels[tip, 1:] - 0.5)[0])
    # The same place of the skin in one light: only its highlight depends on the camera.
    assert np.ptp(np.stack(colours), axis=0).max() < 20


def test_rings_repeat_and_photos_taken_in_turn_have_their_own_light() -> None:
    options = RingOptions(size=64, directions=((0.0, 0.0), (20.0, 0.0)))
    first, second = ring_of_scan(scan(), 4, options), ring_of_scan(scan(), 4, options)
    for a, b in zip(first.images_srgb, second.images_srgb, strict=True):
        assert np.array_equal(a, b)
    other = ring_of_scan(scan(), 4, RingOptions(size=64, directions=((0.0, 0.0), (20.0, 0.0)), same_light=False))
    assert np.array_equal(first.cameras.viewmats, other.cameras.viewmats)
    assert not np.array_equal(first.images_srgb[1], other.images_srgb[1])
