"""The photo's colours against shaded skin, as whitened residuals with analytic derivatives.

r_i = log photo(project(p_i)) - log albedo_i - log shade(n_i) per opponent channel, whitened with the covariance of skin
(`skin_prior`) plus what speaks against single points (`point_variance`). Marginalising the albedo this way is
what a Gaussian prior on it amounts to: r ~ N(0, K + D), r_white = chol(K + D)^-1 r.

A row of the Jacobian touches a point (through the picture's slope) and the corners of the triangles around it
(through the normal), so J = W dP with a sparse W, and dP from `PointModel`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float

from headrecon.fitting.dense.face_picture import FaceCrop, LogPicture
from headrecon.fitting.dense.light_model import shade
from headrecon.fitting.dense.skin_points import SkinPoints
from headrecon.fitting.dense.skin_prior import OPPONENT
from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import CAMERA_AXES, HeadView
from headrecon.fitting.robust import Kernel, Quadratic
from headrecon.geometry.cameras import project_with_jacobian


@dataclass(frozen=True)
class RingNormals:
    """Unit normals of the points, as sums over the triangles around them, with what their derivatives need."""

    normals: Float[np.ndarray, "N 3"]
    length: Float[np.ndarray, " N"]
    opposite: Float[np.ndarray, "T 3 3"]  # the edge across from each corner


def ring_normals(skin: SkinPoints, points: Float[np.ndarray, "V 3"]) -> RingNormals:
    a, b, c = (points[skin.corners[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack([np.bincount(skin.fan, cross[:, k], len(skin)) for k in range(3)], axis=1)
    length = np.maximum(np.linalg.norm(total, axis=1), 1e-18)
    return RingNormals(total / length[:, None], length, np.stack([b - c, c - a, a - b], axis=1))


@dataclass(frozen=True)
class PhotometricResidual:
    """What the skin points of one photo say.

    factors: Cholesky factors of the points' covariances per opponent channel. grain: what the blur of the picture does
    to log light at the points, found by blurring a picture of the model alike (`grain_effect`); held during a solve.
    """

    name: str
    view: HeadView
    skin: SkinPoints
    picture: LogPicture
    crop: FaceCrop
    light_block: str
    factors: tuple[Float[np.ndarray, "N N"], ...]
    grain: Float[np.ndarray, "N 3"]
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return (*self.view.blocks, self.light_block)

    @property
    def _turn(self) -> np.ndarray:
        return OPPONENT[: len(self.factors)]

    def raw(self, values: Values) -> Float[np.ndarray, "D N"]:
        """Residuals per opponent channel in log units, not whitened."""
        points = self.view.evaluate(self.skin.model, values)
        pixels = self.view.project(values, points[self.skin.own])
        observed, _ = self.picture.sample(self.crop.to_crop(pixels))
        shading = shade(values[self.light_block], ring_normals(self.skin, points).normals)
        return self._turn @ (observed - shading.log - self.skin.log_albedo - self.grain).T

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        return self._whiten(self.raw(values)[..., None]).reshape(-1)

    def _whiten(self, rows: Float[np.ndarray, "D N K"]) -> Float[np.ndarray, "D N K"]:
        solved = [
            scipy.linalg.solve_triangular(f, r, lower=True, check_finite=False)
            for f, r in zip(self.factors, rows, strict=True)
        ]
        return np.stack(solved)

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        residual, head, light = self.linearize_raw(values)
        white = self._whiten(np.concatenate([residual[..., None], head, light], axis=2))
        return white[..., 0].reshape(-1), white[..., 1:].reshape(-1, white.shape[2] - 1)

    def linearize_raw(
        self, values: Values
    ) -> tuple[Float[np.ndarray, "D N"], Float[np.ndarray, "D N K"], Float[np.ndarray, "D N 27"]]:
        """Residuals in log units and their derivatives by the view's blocks and by the light."""
        skin, turn = self.skin, self._turn
        points, slopes = self.view.linearize(skin.model, values)
        ring = ring_normals(skin, points)
        pixels, d_point, d_log_focal = project_with_jacobian(
            points[skin.own] * CAMERA_AXES, self.view.focals(values), self.view.geometry.principal
        )
        observed, slope = self.picture.sample(self.crop.to_crop(pixels))
        shading = shade(values[self.light_block], ring.normals)
        residual = turn @ (observed - shading.log - skin.log_albedo - self.grain).T
        slope = (turn @ slope).transpose(1, 0, 2) * self.crop.scale  # [D,N,2]
        by_place = np.einsum("dnp,npk->dnk", slope, d_point * CAMERA_AXES)
        by_normal = -(turn @ shading.by_normal).transpose(1, 0, 2)
        columns = slopes.reshape(-1, self.view.num_columns)
        head = (self._weights(by_place, by_normal, ring) @ columns).reshape(len(turn), len(skin), -1)
        head[:, :, -1] += np.einsum("dnp,np->dn", slope, d_log_focal)
        return residual, head, -(turn @ shading.by_light).transpose(1, 0, 2)

    def _weights(
        self, by_place: Float[np.ndarray, "D N 3"], by_normal: Float[np.ndarray, "D N 3"], ring: RingNormals
    ) -> scipy.sparse.csr_matrix:
        """d residual / d near vertices: a sparse matrix [D*N, 3V]."""
        skin = self.skin
        depth, pairs, index = len(by_place), len(skin.pair_point), skin.corner_pair.reshape(-1)
        n = ring.normals
        across = (by_normal - np.sum(by_normal * n, axis=2, keepdims=True) * n) / ring.length[:, None]
        # For N = sum (b - a) x (c - a): g . dN = da . ((b - c) x g), and so on round the corners.
        parts = np.cross(ring.opposite, across[:, skin.fan, None])  # [D,T,corner,3]
        flat = parts.transpose(1, 2, 0, 3).reshape(len(index), -1)
        gather = scipy.sparse.csr_matrix((np.ones(len(index)), (index, np.arange(len(index)))), (pairs, len(index)))
        entries = (gather @ flat).reshape(pairs, depth, 3).transpose(1, 0, 2).copy()
        entries[:, self._own_pair] += by_place
        columns = np.tile((skin.pair_near[:, None] * 3 + np.arange(3)).reshape(-1), depth)
        counts = 3 * np.bincount(skin.pair_point, minlength=len(skin))
        starts = np.concatenate([[0], np.cumsum(np.tile(counts, depth))])
        return scipy.sparse.csr_matrix(
            (entries.reshape(-1), columns, starts), shape=(depth * len(skin), 3 * len(skin.near))
        )

    @cached_property
    def _own_pair(self) -> np.ndarray:
        """The pair of each point with itself; pairs are sorted by point."""
        return np.flatnonzero(self.skin.pair_near == self.skin.own[self.skin.pair_point])


def covariance_factors(
    skin: SkinPoints, point_variance: Float[np.ndarray, "N D"], scale: float = 1.0
) -> tuple[Float[np.ndarray, "N N"], ...]:
    """Cholesky factors of scale * K + diag(point_variance), one per opponent channel."""
    out = []
    for channel in range(point_variance.shape[1]):
        matrix = scale * skin.covariances[channel]
        matrix[np.diag_indices(len(skin))] += point_variance[:, channel]
        out.append(scipy.linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False))
    return tuple(out)
