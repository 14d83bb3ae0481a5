"""Gaussians described at rest, and how they follow a carrier: what training learns and what files hold."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.avatars.gaussian.carrier import Carrier, Moved, Places
from headrecon.avatars.gaussian.sparse import SparseMix
from headrecon.geometry.rotations import quat_multiply
from headrecon.structures import Gaussians

#: What a linear correction changes, in this order: place (3, metres at rest), colour (3), opacity (1, before sigmoid).
CHANNELS = 7
#: Metres, sRGB and logits per unit of a correction, so that all of them are learned at one rate.
UNITS = (0.02, 0.02, 0.02, 1.0, 1.0, 1.0, 8.0)


@dataclass(frozen=True)
class SplatRig:
    """N Gaussians at rest. places: where they are bound.

    offsets: metres from that place, in the head's axes at rest. quats_wxyz: of any length. log_scales: of standard
    deviations in metres. logits: opacity before the sigmoid. colours: sRGB, may leave 0..1.
    corrections: [N, 7, K], change of offset, colour and logit per unit of each of K motion features, in `UNITS`.
    """

    places: Places
    offsets: Float[Tensor, "N 3"]
    quats_wxyz: Float[Tensor, "N 4"]
    log_scales: Float[Tensor, "N 3"]
    logits: Float[Tensor, " N"]
    colours: Float[Tensor, "N 3"]
    corrections: Float[Tensor, "N 7 K"]

    def __len__(self) -> int:
        return len(self.places)

    def tensors(self) -> dict[str, Tensor]:
        """What is learned, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "places"}

    def with_tensors(self, tensors: dict[str, Tensor]) -> SplatRig:
        """The same bindings with other values."""
        return replace(self, **tensors)

    def take(self, ids: Int[np.ndarray, " M"]) -> SplatRig:
        """Some of the Gaussians, in this order."""
        rows = torch.as_tensor(ids, device=self.offsets.device)
        return replace(self, places=self.places.take(ids), **{k: t[rows] for k, t in self.tensors().items()})

    def pose(self, moved: Moved, mix: SparseMix, features: Float[Tensor, " K"]) -> Gaussians:
        """The Gaussians of one instant in the world. mix: `places.mix(carrier)`, made once. Differentiable."""
        carried = mix(torch.cat([moved.vertices, moved.turns_wxyz, moved.stretch[:, None]], 1))
        turns = torch.nn.functional.normalize(carried[:, 3:7], dim=1)
        stretch = carried[:, 7:]
        change = (self.corrections.flatten(0, 1) @ features).reshape(-1, CHANNELS) * features.new_tensor(UNITS)
        offset = rotated(turns, self.offsets + change[:, :3])
        return Gaussians(
            means=carried[:, :3] + stretch * offset,
            quats_wxyz=quat_multiply(turns, self.quats_wxyz),
            scales=self.log_scales.exp() * stretch,
            opacities=torch.sigmoid(self.logits + change[:, 6]),
            colours=self.colours + change[:, 3:6],
        )

    def rest_means(self, carrier: Carrier) -> Float[Tensor, "N 3"]:
        """Where they are at rest, metres."""
        return self.places.mix(carrier)(carrier.rest) + self.offsets


def rotated(quats_wxyz: Float[Tensor, "N 4"], vectors: Float[Tensor, "N 3"]) -> Float[Tensor, "N 3"]:
    """Vectors turned by unit quaternions: v + 2 w (q x v) + 2 q x (q x v)."""
    axis = quats_wxyz[:, 1:]
    once = 2 * torch.linalg.cross(axis, vectors)
    return vectors + quats_wxyz[:, :1] * once + torch.linalg.cross(axis, once)


def facing(normals: Float[np.ndarray, "N 3"]) -> Float[Tensor, "N 4"]:
    """Unit quaternions that turn +z to unit normals the short way (half-way vector; -z needs an axis of its own)."""
    quats = np.concatenate([1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], np.zeros((len(normals), 1))], 1)
    quats[np.linalg.norm(quats, axis=1) < 1e-6] = (0.0, 1.0, 0.0, 0.0)
    return torch.as_tensor(quats / np.linalg.norm(quats, axis=1, keepdims=True), dtype=torch.float32)
