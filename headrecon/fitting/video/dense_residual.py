"""A frame's skin against the person's, as whitened residuals; the frame's light is marginalised.

r_i = log light(project(p_i(x))) - template_i, and r ~ N(0, D + B S B') with D the points' own variances and B S B' the
covariance of light that changes smoothly (`FacePoints.basis`). With q the light that explains r best,
r' (D + B S B')^-1 r = |D^-1/2 (r - B q)|^2 + |S^-1/2 q|^2, and q is linear in r: so is what is left of the Jacobian
(variable projection, Golub and Pereyra 1973, with the weights held).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from headrecon.fitting.least_squares import Values
from headrecon.fitting.parameters import CAMERA_AXES, HeadView
from headrecon.fitting.robust import Kernel, Quadratic
from headrecon.fitting.video.dense_picture import FacePicture
from headrecon.fitting.video.dense_points import COLOUR_SHARE
from headrecon.geometry.cameras import project_with_jacobian
from headrecon.models.point_model import PointModel


@dataclass(frozen=True)
class LightSolver:
    """Takes smooth light out of weighted residuals of one channel. roots: square roots of the points' weights."""

    basis: Float[np.ndarray, "N M"]  # times roots
    inverse: Float[np.ndarray, "M M"]  # of the light's normal matrix
    precision_root: Float[np.ndarray, " M"]
    roots: Float[np.ndarray, " N"]

    @staticmethod
    def make(
        basis: Float[np.ndarray, "N M"], sigma: Float[np.ndarray, " M"], weights: Float[np.ndarray, " N"]
    ) -> LightSolver:
        roots = np.sqrt(weights)
        weighted = basis * roots[:, None]
        normal = weighted.T @ weighted + np.diag(1 / sigma**2)
        return LightSolver(weighted, np.linalg.inv(normal), 1 / sigma, roots)

    def light(self, residual: Float[np.ndarray, " N"]) -> Float[np.ndarray, " M"]:
        """The light that explains the residuals best."""
        return self.inverse @ (self.basis.T @ (self.roots * residual))

    def __call__(self, rows: Float[np.ndarray, "N *K"]) -> Float[np.ndarray, "L *K"]:
        """Whitened: the points' rows, then the light's own."""
        roots, precision = self.roots, self.precision_root
        if rows.ndim > 1:
            roots, precision = roots[:, None], precision[:, None]
        rows = rows * roots
        light = self.inverse @ (self.basis.T @ rows)
        return np.concatenate([rows - self.basis @ light, precision * light])


def light_solvers(
    basis: Float[np.ndarray, "N M"], sigma: Float[np.ndarray, " M"], weights: Float[np.ndarray, "N C"]
) -> tuple[LightSolver, ...]:
    """One per channel: lightness, then the balance of colours."""
    return tuple(LightSolver.make(basis, sigma * (1.0 if c == 0 else COLOUR_SHARE), w) for c, w in enumerate(weights.T))


@dataclass(frozen=True)
class SkinResidual:
    """What the N points of one frame say. light: solvers with the points' weights, held during a solve."""

    view: HeadView
    points: PointModel
    picture: FacePicture
    template: Float[np.ndarray, "N C"]
    light: tuple[LightSolver, ...]
    name: str = "skin"
    kernel: Kernel = field(default_factory=Quadratic)
    group: int = 1

    @property
    def blocks(self) -> tuple[str, ...]:
        return self.view.blocks

    def evaluate(self, values: Values) -> Float[np.ndarray, " M"]:
        pixels = self.view.project(values, self.view.evaluate(self.points, values))
        observed, _, _ = self.picture.sample(pixels)
        missed = observed - self.template
        return np.concatenate([solver(missed[:, c]) for c, solver in enumerate(self.light)])

    def linearize(self, values: Values) -> tuple[Float[np.ndarray, " M"], Float[np.ndarray, "M K"]]:
        points = self.view.evaluate(self.points, values)
        pixels, d_point, d_log_focal = project_with_jacobian(
            points * CAMERA_AXES, self.view.focals(values), self.view.geometry.principal
        )
        observed, slopes, _ = self.picture.sample(pixels)
        jacobian = self.view.pulled_back(self.points, values, slopes @ (d_point * CAMERA_AXES))
        jacobian[:, :, -1] += (slopes @ d_log_focal[..., None])[..., 0]
        missed = observed - self.template
        return (
            np.concatenate([solver(missed[:, c]) for c, solver in enumerate(self.light)]),
            np.concatenate([solver(jacobian[:, c]) for c, solver in enumerate(self.light)]),
        )
