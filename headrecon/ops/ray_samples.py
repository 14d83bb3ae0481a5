"""Where samples lie along rays: dense, packed or uniform. Data and checks; `composite` and `trigrid_render` use it."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError


class Rule(IntEnum):
    """What lies between samples: HrRule in ray_samples.h."""

    INTERVALS = 0
    NEIGHBOURS = 1


class AbsorptionKind(IntEnum):
    """What the values of samples mean: HrDensity in ray_samples.h."""

    DENSITY = 0
    SOFTPLUS = 1
    ALPHA = 2


@dataclass(frozen=True)
class Absorption:
    """How values become opacities.

    kind: DENSITY per unit of distance (below 0 counts as 0), SOFTPLUS for density = softplus(value + shift) (EG3D:
    shift -1), ALPHA for opacities 0..1. stop: a ray ends once less than this share of light gets through (0: never).
    """

    kind: AbsorptionKind = AbsorptionKind.DENSITY
    shift: float = 0.0
    stop: float = 0.0


@dataclass(frozen=True)
class RaySamples:
    """The samples of R rays, N in all. Make one with `dense`, `packed`, `at` or `uniform`.

    Distances are in units of the rays' directions. A sample stands for an interval, at whose middle it is taken; with
    Rule.NEIGHBOURS a sample lies at starts, and an interval between two holds their mean. surface: an opaque surface at
    that distance of each ray: what lies behind does not count and the interval around it is cut (NaN or inf: none).
    """

    starts: Float[Tensor, " N"] | None
    ends: Float[Tensor, " N"] | None
    offsets: Int[Tensor, " R1"] | None
    near_far: Float[Tensor, "R 2"] | None
    shifts: Float[Tensor, " R"] | None
    surface: Float[Tensor, " R"] | None
    num_rays: int
    per_ray: int
    rule: Rule = Rule.INTERVALS

    @staticmethod
    def dense(starts: Float[Tensor, "R S"], ends: Float[Tensor, "R S"]) -> RaySamples:
        """S intervals on every ray."""
        if starts.ndim != 2 or starts.shape != ends.shape:
            raise ShapeError(
                f"RaySamples.dense: starts and ends must be [R,S], found {tuple(starts.shape)} and {tuple(ends.shape)}"
            )
        rays, count = starts.shape
        return RaySamples(starts.reshape(-1), ends.reshape(-1), None, None, None, None, rays, count)

    @staticmethod
    def at(distances: Float[Tensor, "R S"]) -> RaySamples:
        """S samples at rising distances; the S - 1 intervals between them take the mean of both ends (EG3D)."""
        if distances.ndim != 2:
            raise ShapeError(f"RaySamples.at: distances must be [R,S], found {tuple(distances.shape)}")
        return RaySamples(distances.reshape(-1), None, None, None, None, None, *distances.shape, rule=Rule.NEIGHBOURS)

    @staticmethod
    def packed(starts: Float[Tensor, " N"], ends: Float[Tensor, " N"], offsets: Int[Tensor, " R1"]) -> RaySamples:
        """Ray r has the intervals offsets[r] to offsets[r + 1] - 1 (`offsets_of` makes offsets from ray indices).

        Raises ShapeError unless offsets never fall and run from 0 to N (which waits for a GPU that holds them).
        """
        if starts.ndim != 1 or starts.shape != ends.shape or offsets.ndim != 1 or len(offsets) < 1:
            raise ShapeError(
                "RaySamples.packed: starts and ends must be [N] and offsets [R+1], found "
                f"{tuple(starts.shape)}, {tuple(ends.shape)}, {tuple(offsets.shape)}"
            )
        offsets = offsets.to(torch.int64)
        if int(offsets[0]) != 0 or int(offsets[-1]) != len(starts) or bool((offsets.diff() < 0).any()):
            raise ShapeError(
                f"RaySamples.packed: offsets must rise from 0 to the number of samples, {len(starts)}; found "
                f"{int(offsets[0])} to {int(offsets[-1])}" + (", falling" if bool((offsets.diff() < 0).any()) else "")
            )
        return RaySamples(starts, ends, offsets, None, None, None, len(offsets) - 1, 0)

    @staticmethod
    def uniform(near_far: Float[Tensor, "R 2"], count: int, shifts: Float[Tensor, " R"] | None = None) -> RaySamples:
        """`count` equal intervals between near and far, which take no memory per sample.

        shifts: per ray, moves all inner borders by -0.5..0.5 of an interval, so that noise takes the place of bands.
        """
        if near_far.ndim != 2 or near_far.shape[1] != 2 or (shifts is not None and shifts.shape != near_far.shape[:1]):
            raise ShapeError(
                f"RaySamples.uniform: near_far must be [R,2] and shifts [R], found {tuple(near_far.shape)} and "
                f"{None if shifts is None else tuple(shifts.shape)}"
            )
        if count < 1:
            raise ShapeError(f"RaySamples.uniform: count must be at least 1, found {count}")
        return RaySamples(None, None, None, near_far, shifts, None, len(near_far), count)

    def with_surface(self, surface: Float[Tensor, " R"]) -> RaySamples:
        """The same with an opaque surface at these distances (NaN or inf where a ray meets none)."""
        if surface.shape != (self.num_rays,):
            raise ShapeError(f"RaySamples: surface must be [{self.num_rays}], found {tuple(surface.shape)}")
        return replace(self, surface=surface)

    @property
    def num_samples(self) -> int:
        """N."""
        return self.num_rays * self.per_ray if self.starts is None else self.starts.shape[0]

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """starts, ends, offsets, near_far, shifts, surface."""
        return self.starts, self.ends, self.offsets, self.near_far, self.shifts, self.surface

    def rays(self, begin: int, end: int) -> RaySamples:
        """The samples of rays begin to end - 1."""
        kept = slice(begin, end)
        changes: dict[str, object] = {"num_rays": end - begin}
        for name in ("near_far", "shifts", "surface"):
            tensor = getattr(self, name)
            changes[name] = None if tensor is None else tensor[kept]
        if self.offsets is None:
            samples = slice(begin * self.per_ray, end * self.per_ray)
        else:
            offsets = self.offsets[begin : end + 1]
            samples = slice(int(offsets[0]), int(offsets[-1]))
            changes["offsets"] = offsets - offsets[0]
        for name in ("starts", "ends"):
            tensor = getattr(self, name)
            changes[name] = None if tensor is None else tensor[samples]
        return replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def check(self, what: str) -> None:
        """Raises ShapeError for anything but float32 distances and surfaces."""
        for f in fields(self):
            tensor = getattr(self, f.name)
            if isinstance(tensor, Tensor) and f.name != "offsets" and tensor.dtype != torch.float32:
                raise ShapeError(f"{what}: {f.name} of the samples must be float32, found {tensor.dtype}")


def offsets_of(ray_indices: Int[Tensor, " N"], num_rays: int) -> Int[Tensor, " R1"]:
    """[R+1] where each ray's samples begin, from the ray of each sample (as nerfacc's ray_indices); never falling."""
    counts = torch.bincount(ray_indices, minlength=num_rays)
    if len(counts) > num_rays or bool((ray_indices.diff() < 0).any()):
        raise ShapeError(
            f"offsets_of: ray_indices must not fall and lie in 0..{num_rays - 1}, found up to {int(ray_indices.max())}"
            + (", falling" if bool((ray_indices.diff() < 0).any()) else "")
        )
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
