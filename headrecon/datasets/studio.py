"""Paints a head model so that a detector and an artist take it for a person. Make one studio per model.

What does not depend on the person (where texels lie, what is hidden from the sky) is worked out once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from headrecon.datasets import eye_paint, hair_paint
from headrecon.datasets.face_frame import face_frame, inside_ring, resampled, smooth_step
from headrecon.datasets.looks import Look
from headrecon.datasets.openness import openness
from headrecon.datasets.skin_paint import paint_skin
from headrecon.datasets.texel_map import as_uint8, bake_texel_map
from headrecon.datasets.value_noise import NoiseField, SurfacePoints
from headrecon.geometry.mesh import vertex_normals
from headrecon.structures import HeadAssets, triangulate

#: How much of the shade in hollows is painted: lights here cast no shadows, and skin lights its own hollows.
_HOLLOWS = 0.8
#: Below this height in face coordinates (mm) a bust wears something; heads that end at the neck do not reach it.
_COLLAR = -205.0


@dataclass(frozen=True)
class Painted:
    """A person's colours: albedo texture (sRGB) in the model's UVs, and metres by which hair lifts each vertex."""

    texture_srgb: UInt8[np.ndarray, "S S 3"]
    hair_m: Float[np.ndarray, " V"]


class SyntheticStudio:
    """Paints one head model with `size` x `size` textures. Raises AssetError for a model without 68 landmarks."""

    def __init__(self, assets: HeadAssets, size: int = 768) -> None:
        self.assets = assets
        self.frame = face_frame(assets)
        self.texels = bake_texel_map(assets, size)
        self.points = self.texels.interpolate(self.frame.vertices)
        ears = assets.regions.get("ears", np.zeros(assets.num_vertices))
        self.ears = ears.astype(np.float64)
        self.ear_texels = self.texels.interpolate(self.ears)
        triangles = triangulate(assets.faces)[0]
        template = np.asarray(assets.v_template, dtype=np.float64)
        self.normals = vertex_normals(torch.from_numpy(template), torch.from_numpy(triangles.astype(np.int64))).numpy()
        self.openness = self.texels.interpolate(openness(template, triangles, self.normals))
        span = np.ptp(self.frame.vertices[:, 0]) / np.ptp(template[:, 0])
        self.mm_per_metre = float(span)
        skin = np.unique(assets.faces[assets.faces_of("skin")])
        self._skin = skin[skin >= 0]

    def paint(self, look: Look, rng: np.random.Generator) -> Painted:
        """Paint a person. The same look and generator state give the same texture."""
        colours = np.zeros((len(self.points), 3))
        hairs = NoiseField(rng)
        for index, name in enumerate(self.assets.part_names):
            rows = np.flatnonzero(self.texels.part == index)
            if rows.size:
                colours[rows] = self._part(name, rows, look, hairs, rng)
        shade = 1 - _HOLLOWS * (1 - np.clip(self.openness * 1.08, 0, 1))
        colours *= shade[:, None] ** np.array([0.85, 1.0, 1.05])  # light in hollows has gone through skin: redder
        texture = self.texels.picture(_srgb(colours))
        return Painted(as_uint8(texture), self._hair(look, hairs))

    def _part(self, name: str, rows: np.ndarray, look: Look, hairs: NoiseField, rng: np.random.Generator) -> np.ndarray:
        if name in ("leye", "reye"):
            at = self.texels.interpolate(self.assets.v_template)[rows]
            return eye_paint.paint_eye(at, eye_paint.eye_axis(self.assets, name), look, hairs, rng)
        if name != "skin":
            return eye_paint.plain_part(name, len(rows), look)
        ears = self.ear_texels[rows]
        surface = SurfacePoints(
            self.points[rows], self.frame.vertices, self.texels.corners[rows], self.texels.barycentrics[rows]
        )
        points = surface.points
        colours = paint_skin(surface, ears, self.frame, look, rng)
        colours = hair_paint.paint_beard(colours, surface, ears, self._lips(points), look, hairs)
        colours = hair_paint.paint_brows(colours, points, self.frame, look, hairs)
        weight = surface.carry(hair_paint.hair_weight(self.frame.vertices, self.ears, look, hairs))
        # A hair line is made of hairs: ragged at a scale that vertices do not have.
        edge = np.flatnonzero((weight > 0.02) & (weight < 0.98))
        weight[edge] = np.clip(weight[edge] * (1 + 0.35 * hairs(points[edge], 1.5)), 0, 1)
        colours = hair_paint.paint_hair(colours, points, weight, look, hairs)
        cloth = rng.uniform(0.02, 0.5, 3) * rng.uniform(0.2, 1.0)
        worn = smooth_step(points[:, 1] + 0.25 * np.abs(points[:, 0]), _COLLAR + 1, _COLLAR - 1)[:, None]
        return colours * (1 - worn) + cloth * worn

    def _lips(self, points: np.ndarray) -> np.ndarray:
        """1 on the lips and a little around them."""
        ring, out = resampled(self.frame.outer_lips, 100, closed=True), np.zeros(len(points))
        rows = np.flatnonzero(np.linalg.norm(points - ring.mean(0), axis=1) < 45)
        out[rows] = smooth_step(inside_ring(points[rows], ring), -2.0, 0.0)
        return out

    def _hair(self, look: Look, noise: NoiseField) -> Float[np.ndarray, " V"]:
        out = np.zeros(self.assets.num_vertices)
        points = self.frame.vertices[self._skin]
        weight = hair_paint.hair_weight(points, self.ears[self._skin], look, noise)
        out[self._skin] = hair_paint.hair_offsets(points, weight, look, noise) / self.mm_per_metre
        return out


def _srgb(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
