"""Shoulders of synthetic people: closed, below the neck, following the body and not the head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from headrecon.datasets.head_motion import MotionOptions
from headrecon.datasets.synthetic_video import SyntheticVideo, VideoOptions
from headrecon.datasets.torso import draw_torso, joined
from headrecon.geometry import so3
from headrecon.structures import Mesh
from tests.synthetic_assets import make_tiny_assets

OPTIONS = VideoOptions(
    seconds=0.2, size=128, noise=0.0, texture_size=64, torso=True, motion=MotionOptions(camera=0.0, sway=0.0)
)


def a_torso(seed: int = 0):
    assets = make_tiny_assets()
    skin = np.unique(assets.faces[assets.faces_of("skin")])
    return draw_torso(assets.v_template[skin[skin >= 0]], np.array([0.0, -0.1, -0.02]), np.random.default_rng(seed), 64)


def test_the_surface_is_joined_and_faces_outwards():
    torso = a_torso()
    v, quads = torso.mesh.vertices, torso.mesh.faces
    edges = np.sort(np.concatenate([quads[:, [k, (k + 1) % 4]] for k in range(4)]), axis=1)
    counts = np.unique(edges, axis=0, return_counts=True)[1]
    assert (counts == 1).sum() == 2 * 96 and counts.max() == 2  # open at the collar and far below, nowhere else
    normals = np.cross(v[quads[:, 2]] - v[quads[:, 0]], v[quads[:, 3]] - v[quads[:, 1]])
    outwards = v[quads].mean(1) - v.mean(0)
    around = normals[:, [0, 2]] * outwards[:, [0, 2]]
    assert (around.sum(1) > 0).mean() > 0.99


def test_it_begins_at_the_neck_and_widens_to_shoulders():
    torso, low = a_torso(), make_tiny_assets().v_template[:, 1].min()
    v = torso.mesh.vertices
    assert low < v[:, 1].max() < low + 0.04
    collar, chest = v[v[:, 1] > low], v[(v[:, 1] < low - 0.1) & (v[:, 1] > low - 0.2)]
    assert np.ptp(chest[:, 0]) > 2.5 * np.ptp(collar[:, 0]) and np.ptp(chest[:, 0]) > 1.5 * np.ptp(chest[:, 2])


def test_it_turns_with_the_body():
    torso = a_torso()
    turn, move = np.array([0.0, 0.3, 0.1]), np.array([0.1, 0.2, -0.5])
    pivot = np.array([0.0, -0.1, -0.02])
    expected = (torso.mesh.vertices - pivot) @ so3.exp(turn).T + pivot + move
    assert np.allclose(torso.posed(turn, move), expected)


def test_people_wear_their_own_shirts_and_the_same_again():
    first, again, other = (a_torso(seed).texture_srgb for seed in (0, 0, 1))
    assert (first == again).all() and np.abs(first - other).mean() > 0.02
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize("triangles", [False, True])
def test_head_and_torso_share_a_texture_without_mixing(triangles):
    torso = a_torso()
    k = 3 if triangles else 4
    head = Mesh(
        np.zeros((k, 3)), np.arange(k)[None], np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])[:k], np.arange(k)[None]
    )
    mesh, texture = joined(head, np.zeros((64, 64, 3), np.float32), torso, torso.mesh.vertices)
    assert texture.shape == (64, 128, 3) and mesh.uvs is not None and mesh.uv_faces is not None
    assert mesh.uvs[:k, 0].max() == 0.5 and mesh.uvs[k:, 0].min() > 0.5
    assert mesh.uv_faces[1:].min() == k and mesh.faces.max() == len(mesh.vertices) - 1
    assert len(mesh.triangles) == len(torso.mesh.triangles) + k - 2


def test_a_clip_with_shoulders_covers_more_and_moves_nothing_else():
    assets = make_tiny_assets()
    plain = SyntheticVideo(assets, 1, replace(OPTIONS, torso=False))
    clothed = SyntheticVideo(assets, 1, OPTIONS)
    alone, both = plain.cut_out(0)[1], clothed.cut_out(0)[1]
    assert (both.astype(int) >= alone.astype(int) - 1).all() and both[-1].any() and not alone[-1].any()
    assert np.abs(clothed.cut_out(0)[0][40:70].astype(int) - plain.cut_out(0)[0][40:70]).max() <= 40
    assert (clothed.track.params.transl == plain.track.params.transl).all()


def test_frames_are_their_cut_outs_before_the_room():
    video = SyntheticVideo(make_tiny_assets(), 1, replace(OPTIONS, blur_px=0.0))
    colours, alpha = video.cut_out(2)
    solid = alpha == 255
    assert solid.mean() > 0.1 and (alpha == 0).any()
    difference = np.abs(video.frame(2)[solid].astype(int) - colours[solid])
    assert difference.max() <= 1
