"""Gaussian splatting: pictures of 3D Gaussians, differentiable in all that they are made of.

The rules, shared by every back end (and spelled out in plain torch in `ops/reference/splat.py` and
`splat_composite.py`):

- A Gaussian is projected by the local linear approximation of EWA splatting and blurred by eps2d pixels^2. At a pixel's
  centre it has alpha = opacity exp(-q / 2), at most 0.999; below 1/255 it is not there.
- Each pixel takes the Gaussians that reach it by the depth of their centres, of equal depths the lower number first,
  until no more than 1e-4 of the background is left.
- Gaussians outside near_z < z < far_z, off the picture, with a quaternion of length 0 or with numbers that are not
  finite are not drawn, and have no gradients. Colours that are not finite count as 0.
- Results are the same, bit for bit, for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import HeadReconError, ShapeError
from headrecon.geometry.harmonics import MAX_DEGREE, num_harmonics
from headrecon.ops import _native
from headrecon.ops._splat_composite import splat_composite
from headrecon.ops._splat_ops import splat_harmonics, splat_project, splat_tiles
from headrecon.ops.reference.splat import camera_centers
from headrecon.ops.samples import DEFAULT_NEAR_Z
from headrecon.structures import Cameras, Gaussians

#: Pixels along a tile's side, by device.
TILE_SIZE = {"cpu": 32, "cuda": 16}
_MAX_SIDE = 16384


@dataclass(frozen=True)
class SplatOptions:
    """How Gaussians are drawn, and which pictures besides colour and alpha are wanted.

    near_z, far_z: metres; Gaussians whose centre is outside are not drawn. eps2d: pixels^2, added to the variance of
    every splat, so that none falls between pixels. antialiased: its opacity shrinks as the blur widens it
    (Mip-Splatting, section 4.2); a model must be rendered as it was fitted. radius_clip: pixels; smaller splats are
    left out. sh_degree: 0 to 3, of the harmonics that are used; None: all that the coefficients allow. depth,
    median_depth, normals: pictures to make. centre_gradients: see `SplatInfo.centre_gradients`. max_pairs: on a GPU,
    room for so many pairs of Gaussians and tiles (the sum of SplatInfo.tiles), the nearest; more are reported by the
    next call. None: the GPU counts them, which this waits for, and which a CUDA graph cannot capture.
    """

    near_z: float = DEFAULT_NEAR_Z
    far_z: float = float("inf")
    eps2d: float = 0.3
    antialiased: bool = False
    radius_clip: float = 0.0
    sh_degree: int | None = None
    depth: bool = False
    median_depth: bool = False
    normals: bool = False
    centre_gradients: bool = False
    max_pairs: int | None = None


@dataclass(frozen=True)
class SplatInfo:
    """What became of each Gaussian in each camera; for densification and pruning.

    radii: half width and half height in pixels of where alpha >= 1/255; 0 where it is not drawn. means2d: its centre in
    pixels. tiles: how many tiles it touches. probe: where the backward pass leaves gradients by the centres.
    """

    radii: Float[Tensor, "*BC N 2"]
    means2d: Float[Tensor, "*BC N 2"]
    tiles: Int[Tensor, "*BC N"]
    probe: Float[Tensor, "*BC N 4"] | None

    def centre_gradients(self) -> tuple[Float[Tensor, "*BC N 2"], Float[Tensor, "*BC N 2"]]:
        """After a backward pass, sums over pixels of its gradients by the centre in pixels: signed, and absolute.

        The absolute ones (Ye et al., "AbsGS", ACM MM 2024) do not cancel where a Gaussian is pulled both ways; large
        ones ask for a split. Raises HeadReconError without SplatOptions.centre_gradients or before a backward pass.
        """
        if self.probe is None or self.probe.grad is None:
            missing = "a backward pass" if self.probe is not None else "SplatOptions(centre_gradients=True)"
            raise HeadReconError(f"centre_gradients: there are none without {missing}")
        return self.probe.grad[..., :2], self.probe.grad[..., 2:]


@dataclass(frozen=True)
class SplatPictures:
    """What the cameras see. Pictures that were not asked for are None.

    image includes the background. alpha: share of it that is hidden. depth_z: metres, the mean of the centres' depths
    as they contribute, 0 where nothing does. median_depth_z: the depth of the Gaussian at which half of the
    background is hidden, 0 where that is not reached. normals: in the world, of the Gaussians' shortest axes towards
    the camera, summed as they contribute: shorter than 1 where little contributes or they disagree.
    """

    image: Float[Tensor, "*BC H W D"]
    alpha: Float[Tensor, "*BC H W"]
    depth_z: Float[Tensor, "*BC H W"] | None
    median_depth_z: Float[Tensor, "*BC H W"] | None
    normals: Float[Tensor, "*BC H W 3"] | None
    info: SplatInfo


def splat_gaussians(
    gaussians: Gaussians,
    cameras: Cameras,
    options: SplatOptions = SplatOptions(),
    background: Float[Tensor, "*BC D"] | None = None,
) -> SplatPictures:
    """Draw B sets of N Gaussians, each with C cameras: viewmats [*B,C,4,4] go with means [*B,N,3], *B may be empty.

    All float32. background: [D] for all pictures or [*B,C,D]; black if None. Differentiable in means, quats_wxyz,
    scales, opacities, colours, sh, viewmats and background; Ks are constants, of which the skew is not used. Second
    derivatives do not exist. Time goes with the pairs of Gaussians and pixels within reach, memory with Gaussians x
    cameras and with pixels. Raises ShapeError for wrong shapes, types or sizes; NativeMissing on a device without a
    built back end.

    Methods: Zwicker et al., "EWA splatting", IEEE TVCG 2002; Kerbl et al., "3D Gaussian splatting for real-time
    radiance field rendering", SIGGRAPH 2023; Yu et al., "Mip-Splatting", CVPR 2024.
    """
    _check(gaussians, cameras, options, background)
    lead, count = gaussians.means.shape[:-2], cameras.viewmats.shape[-3]
    sets = gaussians.means[..., 0, 0].numel() if gaussians.means.shape[-2] else _product(lead)
    n = gaussians.means.shape[-2]
    means = gaussians.means.reshape(sets, n, 3)
    viewmats = cameras.viewmats.reshape(sets, count, 4, 4)
    tile_size = TILE_SIZE.get(means.device.type, 16)
    size = (cameras.width, cameras.height, tile_size)
    view = (*size, options.near_z, options.far_z, options.eps2d, options.radius_clip, options.antialiased)
    splats, radii, normals, tiles, totals = splat_project(
        means,
        gaussians.quats_wxyz.reshape(sets, n, 4),
        gaussians.scales.reshape(sets, n, 3),
        gaussians.opacities.reshape(sets, n),
        viewmats,
        cameras.Ks.reshape(sets, count, 3, 3),
        options.normals,
        *view,
    )
    colours = _colours(gaussians, means, viewmats, radii, options)
    flat, images = splats.flatten(0, 1), sets * count
    probe = means.new_zeros((*lead, count, n, 4), requires_grad=True) if options.centre_gradients else None
    behind = means.new_zeros(1, colours.shape[-1]) if background is None else background.reshape(-1, colours.shape[-1])
    # What says where a splat stands in the lists serves backward passes that gather, as the CPU's does.
    gathers = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (flat, colours, behind, probe))
    gathers = gathers and not _native._on_gpu(means)
    offsets, ids, entries = splat_tiles(
        flat.detach(), radii.flatten(0, 1), tiles.flatten(0, 1), totals.flatten(0, 1), gathers, options.max_pairs, *view
    )
    image, depth_sum, normal_sum, left, _, median = splat_composite(
        flat,
        colours,
        normals.flatten(0, 1) if options.normals else None,
        behind,
        None if probe is None else probe.reshape(images, n, 4),
        offsets,
        ids,
        tiles.flatten(0, 1),
        entries,
        options.depth,
        options.median_depth,
        count,
        *size,
    )

    def shaped(tensor: Tensor) -> Tensor:
        return tensor.reshape(*lead, count, *tensor.shape[1:])

    alpha = 1.0 - left
    info = SplatInfo(shaped(radii.flatten(0, 1)), shaped(flat[..., :2]), shaped(tiles.flatten(0, 1)), probe)
    return SplatPictures(
        shaped(image),
        shaped(alpha),
        shaped(_mean_depth(depth_sum, alpha)) if options.depth else None,
        shaped(_depth_of(flat[..., 6], median)) if options.median_depth else None,
        shaped(normal_sum) if options.normals else None,
        info,
    )


def _product(sizes: tuple[int, ...]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


def _mean_depth(depth_sum: Tensor, alpha: Tensor) -> Tensor:
    seen = alpha > 0
    return torch.where(seen, depth_sum / torch.where(seen, alpha, 1.0), 0.0)


def _depth_of(depths: Tensor, number: Tensor) -> Tensor:
    """[I,H,W]: depths [I,N] of the splats with these numbers; 0 for -1."""
    if depths.shape[1] == 0:
        return torch.zeros_like(number, dtype=depths.dtype)
    found = depths.gather(1, number.flatten(1).long().clamp(min=0)).reshape(number.shape)
    return torch.where(number >= 0, found, 0.0)


def _colours(gaussians: Gaussians, means: Tensor, viewmats: Tensor, radii: Tensor, options: SplatOptions) -> Tensor:
    """[B,N,D], or [I,N,D] where they differ by camera."""
    sets, n = means.shape[:2]
    if gaussians.colours is not None:
        return (
            gaussians.colours.reshape(-1, n, gaussians.colours.shape[-1])
            if n
            else gaussians.colours.new_zeros(sets, 0, gaussians.colours.shape[-1])
        )
    assert gaussians.sh is not None
    sh = gaussians.sh.reshape(sets, n, *gaussians.sh.shape[-2:])
    degree = _degree_of(sh.shape[2], options)
    return splat_harmonics(means, sh, camera_centers(viewmats), radii, degree).flatten(0, 1)


def _degree_of(coefficients: int, options: SplatOptions) -> int:
    if options.sh_degree is not None:
        return options.sh_degree
    return max(d for d in range(MAX_DEGREE + 1) if num_harmonics(d) <= coefficients)


def _check(gaussians: Gaussians, cameras: Cameras, options: SplatOptions, background: Tensor | None) -> None:
    means, viewmats = gaussians.means, cameras.viewmats
    lead, n = tuple(means.shape[:-2]), means.shape[-2]
    count = viewmats.shape[-3] if viewmats.ndim > 2 else 0
    expected = {
        "means": (means, (*lead, n, 3)),
        "quats_wxyz": (gaussians.quats_wxyz, (*lead, n, 4)),
        "scales": (gaussians.scales, (*lead, n, 3)),
        "opacities": (gaussians.opacities, (*lead, n)),
        "viewmats": (viewmats, (*lead, count, 4, 4)),
        "Ks": (cameras.Ks, (*lead, count, 3, 3)),
    }
    channels = _check_colours(gaussians, (lead, count, n), options)
    if background is not None:
        shape = (channels,) if background.ndim == 1 else (*lead, count, channels)
        expected["background"] = (background, shape)
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
            raise ShapeError(
                f"splat_gaussians: {name} must be float32 {list(shape)} (means are {list(means.shape)}), found "
                f"{tensor.dtype} {list(tensor.shape)}"
            )
    devices = {str(tensor.device) for tensor, _ in expected.values()}
    if len(devices) > 1:
        raise ShapeError(f"splat_gaussians: all tensors must be on one device, found {' and '.join(sorted(devices))}")
    if not (1 <= cameras.width <= _MAX_SIDE and 1 <= cameras.height <= _MAX_SIDE):
        raise ShapeError(
            f"splat_gaussians: pictures must have 1 to {_MAX_SIDE} pixels a side, found "
            f"{cameras.width} x {cameras.height}"
        )
    if not (0.0 <= options.near_z < options.far_z and options.eps2d >= 0.0):
        raise ShapeError(
            f"splat_gaussians: needs 0 <= near_z < far_z and eps2d >= 0, found {options.near_z}, {options.far_z}, "
            f"{options.eps2d}"
        )


def _check_colours(gaussians: Gaussians, sizes: tuple[tuple[int, ...], int, int], options: SplatOptions) -> int:
    """Channels of the picture. sizes: leading ones, cameras, Gaussians."""
    (lead, count, n), colours, sh = sizes, gaussians.colours, gaussians.sh
    given = sh if colours is None else colours
    if given is None or (sh is not None and colours is not None):
        raise ShapeError(
            "splat_gaussians: Gaussians need either colours or sh, found " + ("none" if given is None else "both")
        )
    if given.dtype != torch.float32 or given.device != gaussians.means.device:
        raise ShapeError(
            f"splat_gaussians: colours or sh must be float32 on {gaussians.means.device}, found {given.dtype} on "
            f"{given.device}"
        )
    if colours is not None:
        if tuple(colours.shape[:-1]) not in ((*lead, n), (*lead, count, n)) or colours.shape[-1] < 1:
            raise ShapeError(
                f"splat_gaussians: colours must be {[*lead, n]} or {[*lead, count, n]} and at least one channel, found "
                f"{list(colours.shape)}"
            )
        return colours.shape[-1]
    degree = _degree_of(given.shape[-2], options) if given.ndim > 2 and given.shape[-2] else -1
    most = given.shape[-2] if given.ndim > 2 else 0
    if (
        tuple(given.shape[:-2]) != (*lead, n)
        or given.shape[-1] != 3
        or not 0 <= degree <= MAX_DEGREE
        or num_harmonics(degree) > most
    ):
        raise ShapeError(
            f"splat_gaussians: sh must be {[*lead, n, 'K', 3]} with K at least (degree + 1)^2 for a degree of 0 to 3, "
            f"found {list(given.shape)} and sh_degree {options.sh_degree}"
        )
    return 3
