"""Pictures of Gaussians: `ops.splat_gaussians` over any number of cameras, a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops.splat_gaussians import SplatOptions, SplatPictures, splat_gaussians
from headrecon.structures import Cameras, Gaussians

#: Of splats and pixels together, in each chunk of cameras. Every splat takes 52 bytes, every pixel about 30.
_MOST_ITEMS = 16 << 20


DEFAULT_OPTIONS = SplatOptions()


@dataclass(frozen=True)
class GaussianPictures:
    """What C cameras see. image has the background behind it; pictures that were not asked for are None.

    As in `ops.splat_gaussians.SplatPictures`: depths in metres, 0 where nothing is seen, normals in the world.
    """

    image: Float[Tensor, "C H W D"]
    alpha: Float[Tensor, "C H W"]
    depth_z: Float[Tensor, "C H W"] | None = None
    median_depth_z: Float[Tensor, "C H W"] | None = None
    normals: Float[Tensor, "C H W 3"] | None = None


def render_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    options: SplatOptions = DEFAULT_OPTIONS,
    background: Float[Tensor, " D"] | None = None,
    *,
    cameras_at_once: int | None = None,
) -> GaussianPictures:
    """Draw one set of Gaussians (means [N,3]) with cameras viewmats [C,4,4]; torch tensors or numpy arrays.

    cameras_at_once: how many share one call, which bounds memory; None: as many as keep it to about a gigabyte. The
    pictures do not depend on it. Differentiable as `splat_gaussians` is (where memory then holds what all chunks keep
    for the backward pass). Raises ShapeError for what does not fit together.
    """
    gaussians, cameras = _tensors(gaussians), cameras.torch()
    if gaussians.means.ndim != 2 or cameras.viewmats.ndim != 3:
        raise ShapeError(
            "render_gaussians: needs means [N,3] and viewmats [C,4,4], found "
            f"{list(gaussians.means.shape)} and {list(cameras.viewmats.shape)}; ops.splat_gaussians draws batches"
        )
    count = len(cameras.viewmats)
    share = len(gaussians) + cameras.width * cameras.height
    step = max(1, _MOST_ITEMS // max(share, 1)) if cameras_at_once is None else max(1, cameras_at_once)
    chunks = [
        splat_gaussians(_seen_by(gaussians, first, step), part, options, background)
        for first, part in _chunks(cameras, step, count)
    ]
    return _joined(chunks)


def _tensors(gaussians: Gaussians) -> Gaussians:
    found = {f.name: getattr(gaussians, f.name) for f in fields(gaussians)}
    return Gaussians(**{name: None if t is None else torch.asarray(t).float() for name, t in found.items()})


def _chunks(cameras: Cameras, step: int, count: int) -> Iterator[tuple[int, Cameras]]:
    for first in range(0, max(count, 1), step):
        part = slice(first, first + step)
        yield first, replace(cameras, viewmats=cameras.viewmats[part], Ks=cameras.Ks[part])


def _seen_by(gaussians: Gaussians, first: int, step: int) -> Gaussians:
    """The same, with the colours of these cameras where there is a set for each."""
    if gaussians.colours is None or gaussians.colours.ndim == 2:
        return gaussians
    return replace(gaussians, colours=gaussians.colours[first : first + step])


def _joined(chunks: list[SplatPictures]) -> GaussianPictures:
    if len(chunks) == 1:
        return GaussianPictures(**{f.name: getattr(chunks[0], f.name) for f in fields(GaussianPictures)})
    joined = {}
    for f in fields(GaussianPictures):
        parts = [getattr(chunk, f.name) for chunk in chunks]
        joined[f.name] = None if parts[0] is None else torch.cat(parts)
    return GaussianPictures(**joined)
