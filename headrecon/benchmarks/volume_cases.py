"""Volume rendering: lookup in tri-planes and tri-grids, with the decoder, along rays; compositing, drawing, marching.

The work is EG3D's: 128² rays of 48 samples (786k points) through a box, three planes of 256² cells and 32 channels, a
decoder of 64 hidden units and 32 features. The peer is plain torch (grid_sample, matrices, cumulative products), as
EG3D's own code runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Peer, Prepared, Work
from headrecon.ops.composite import composite_rays
from headrecon.ops.occupancy import OccupancyGrid, march_rays, ray_box, update_occupancy
from headrecon.ops.ray_samples import Absorption, AbsorptionKind, RaySamples
from headrecon.ops.ray_sampling import importance_samples
from headrecon.ops.trigrid import PANOHEAD_AXES, TriGrid, pack_spherical_trigrid, pack_trigrid, sample_trigrid
from headrecon.ops.trigrid_decode import FeatureActivation, TriGridDecoder, decode_trigrid
from headrecon.ops.trigrid_render import render_trigrid

CHANNELS, HIDDEN, FEATURES = 32, 64, 32
NEAR, FAR = 2.25, 3.3
SOFTPLUS = Absorption(AbsorptionKind.SOFTPLUS, shift=-1.0)


@dataclass(frozen=True)
class Size:
    """side² rays of so many samples; D layers of cells² cells; charts: 0 for a box, else spheres."""

    side: int = 128
    samples: int = 48
    cells: int = 256
    depth: int = 1
    charts: int = 0


@dataclass(frozen=True)
class Scene:
    """What is rendered, all on one device."""

    raw: Tensor  # [1,3,C,D,H,W] as torch's grid_sample wants it (of the first chart)
    grid: TriGrid
    weights: tuple[Tensor, ...]
    origins: Tensor  # [R,3]
    directions: Tensor
    edges: Tensor  # [R,S+1]
    points: Tensor  # [1,R S,3]

    @property
    def decoder(self) -> TriGridDecoder:
        return TriGridDecoder(*self.weights, activation=FeatureActivation.SIGMOID)

    @property
    def near_far(self) -> Tensor:
        return self.edges[:, [0, -1]].contiguous()


def make_scene(device: str, size: Size) -> Scene:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(1, max(size.charts, 1), 3, CHANNELS, size.depth, size.cells, size.cells, generator=generator)
    shapes = ((HIDDEN, CHANNELS), (HIDDEN,), (1 + FEATURES, HIDDEN), (1 + FEATURES,))
    weights = tuple((0.3 * torch.randn(shape, generator=generator)).to(device) for shape in shapes)
    across = torch.linspace(-0.2, 0.2, size.side)
    y, x = torch.meshgrid(across, across, indexing="ij")
    origins = torch.tensor([0.3, 0.2, 2.7]).expand(size.side**2, 3).contiguous()
    directions = torch.stack([x - 0.11, y - 0.07, -torch.ones_like(x)], -1).reshape(-1, 3)
    directions = torch.nn.functional.normalize(directions, dim=1)
    edges = torch.linspace(NEAR, FAR, size.samples + 1).expand(len(origins), -1).contiguous()
    middle = 0.5 * (edges[:, 1:] + edges[:, :-1])
    points = origins[:, None] + middle[..., None] * directions[:, None]
    raw = raw.to(device)
    grid = pack_spherical_trigrid(raw, 1.0) if size.charts else pack_trigrid(raw[:, 0], 1.0)
    given = (t.to(device) for t in (origins, directions, edges, points.reshape(1, -1, 3)))
    return Scene(raw[:, 0], grid, weights, *given)


def torch_sample(scene: Scene, raw: Tensor) -> Tensor:
    """[N,C] as EG3D and PanoHead compute it."""
    at = 2.0 * scene.points[0]
    planes = torch.stack([at[:, list(axes)] for axes in PANOHEAD_AXES])
    if raw.shape[3] == 1:
        found = torch.nn.functional.grid_sample(raw[0, :, :, 0], planes[:, None, :, :2], align_corners=False)[:, :, 0]
    else:
        found = torch.nn.functional.grid_sample(raw[0], planes[:, None, None], align_corners=False)[:, :, 0, 0]
    return found.mean(0).T


def torch_decode(scene: Scene, raw: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    w1, b1, w2, b2 = weights
    out = torch.nn.functional.softplus(torch_sample(scene, raw) @ w1.T + b1) @ w2.T + b2
    return out[:, 0], 1.002 * torch.sigmoid(out[:, 1:]) - 0.001


def torch_composite(scene: Scene, density: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    rays = len(scene.origins)
    density, features = density.reshape(rays, -1), features.reshape(rays, -1, features.shape[-1])
    thickness = torch.nn.functional.softplus(density - 1.0) * scene.edges.diff(dim=1)
    alpha = 1.0 - torch.exp(-thickness)
    light = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1.0 - alpha], 1), 1)[:, :-1]
    weights = alpha * light
    return (weights[..., None] * features).sum(1), weights.sum(1)


def with_gradients(run: Callable[..., Tensor | tuple[Tensor, ...]], inputs: tuple[Tensor, ...]) -> Work:
    """Forward and backward, with a gradient of ones."""
    fresh = [x.detach().clone().requires_grad_() for x in inputs]

    def work() -> tuple[Tensor, ...]:
        outputs = run(*fresh)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.autograd.grad(outputs, fresh, [torch.ones_like(y) for y in outputs])

    return work


def _on(scene: Scene, cells: Tensor) -> TriGrid:
    return TriGrid(cells, scene.grid.box_size, scene.grid.axes, scene.grid.rotations)


def _peers(scene: Scene, run: Work) -> tuple[Peer, ...]:
    return () if scene.grid.rotations is not None else (Peer("torch", run),)


def _without_gradients(run: Work) -> Work:
    def work() -> object:
        with torch.no_grad():
            return run()

    return work


def _sample(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    peer = _without_gradients(lambda: torch_sample(scene, scene.raw))
    return Prepared(lambda: sample_trigrid(scene.grid, scene.points), _peers(scene, peer))


def _sample_shuffled(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    order = torch.randperm(scene.points.shape[1], generator=torch.Generator().manual_seed(1)).to(device)
    points = scene.points[:, order].contiguous()
    return Prepared(lambda: sample_trigrid(scene.grid, points))


def _sample_both(device: str, size: Size, moves: bool) -> Prepared:
    scene = make_scene(device, size)
    peer = with_gradients(lambda raw: torch_sample(scene, raw), (scene.raw,))
    if moves:
        run = with_gradients(lambda c, p: sample_trigrid(_on(scene, c), p), (scene.grid.cells, scene.points))
        return Prepared(run)
    run = with_gradients(lambda c: sample_trigrid(_on(scene, c), scene.points), (scene.grid.cells,))
    return Prepared(run, _peers(scene, peer))


def _decode(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    peer = _without_gradients(lambda: torch_decode(scene, scene.raw, scene.weights))
    return Prepared(lambda: decode_trigrid(scene.grid, scene.decoder, scene.points), _peers(scene, peer))


def _decode_both(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)

    def ours(cells: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        decoder = TriGridDecoder(*weights, activation=FeatureActivation.SIGMOID)
        return decode_trigrid(_on(scene, cells), decoder, scene.points)

    peer = with_gradients(lambda raw, *w: torch_decode(scene, raw, w), (scene.raw, *scene.weights))
    return Prepared(with_gradients(ours, (scene.grid.cells, *scene.weights)), _peers(scene, peer))


def _ours_along_rays(scene: Scene, samples: int, cells: Tensor, weights: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    decoder = TriGridDecoder(*weights, activation=FeatureActivation.SIGMOID)
    rays = (scene.origins[None], scene.directions[None])
    seen = render_trigrid(_on(scene, cells), decoder, rays, RaySamples.uniform(scene.near_far, samples), SOFTPLUS)
    return seen.features, seen.opacity


def _render(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    peer = _without_gradients(lambda: torch_composite(scene, *torch_decode(scene, scene.raw, scene.weights)))
    return Prepared(lambda: _ours_along_rays(scene, size.samples, scene.grid.cells, scene.weights), _peers(scene, peer))


def _render_both(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    run = with_gradients(
        lambda cells, *w: _ours_along_rays(scene, size.samples, cells, w), (scene.grid.cells, *scene.weights)
    )
    peer = with_gradients(
        lambda raw, *w: torch_composite(scene, *torch_decode(scene, raw, w)), (scene.raw, *scene.weights)
    )
    return Prepared(run, _peers(scene, peer))


def _composite(device: str, size: Size, backward: bool) -> Prepared:
    scene = make_scene(device, size)
    generator = torch.Generator().manual_seed(2)
    density = torch.randn(size.side**2, size.samples, generator=generator).to(device)
    features = torch.randn(size.side**2, size.samples, FEATURES, generator=generator).to(device)
    samples = RaySamples.dense(scene.edges[:, :-1].contiguous(), scene.edges[:, 1:].contiguous())

    def ours(density: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        seen = composite_rays(density, features, samples, SOFTPLUS)
        return seen.features, seen.opacity

    def theirs(density: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        return torch_composite(scene, density, features)

    if backward:
        both = (density, features)
        return Prepared(with_gradients(ours, both), (Peer("torch", with_gradients(theirs, both)),))
    return Prepared(lambda: ours(density, features), (Peer("torch", lambda: theirs(density, features)),))


def _importance(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    weights = torch.rand(size.side**2, size.samples, generator=torch.Generator().manual_seed(3)).to(device)

    def theirs() -> Tensor:
        total = weights.cumsum(1)
        border = torch.cat([torch.zeros_like(total[:, :1]), total], 1) / total[:, -1:]
        place = (torch.arange(size.samples, device=device) + 0.5) / size.samples
        u = place.expand(len(weights), -1).contiguous()
        k = torch.searchsorted(border, u, right=True).clamp(1, size.samples)
        low, high = border.gather(1, k - 1), border.gather(1, k)
        start, end = scene.edges.gather(1, k - 1), scene.edges.gather(1, k)
        return start + (u - low) / (high - low) * (end - start)

    return Prepared(lambda: importance_samples(scene.edges, weights, size.samples), (Peer("torch", theirs),))


def _march(device: str, size: Size) -> Prepared:
    scene = make_scene(device, size)
    corner = (0.5, 0.5, 0.5)
    empty = OccupancyGrid.full(128, (-0.5, -0.5, -0.5), corner, torch.device(device))
    ball = update_occupancy(empty, lambda points: (points.norm(dim=1) < 0.3).float(), 0.5)
    near_far = ray_box(scene.origins, scene.directions, ball.lower, ball.upper)
    work = lambda: march_rays(ball, scene.origins, scene.directions, near_far, 0.002).tensors[:2]  # noqa: E731
    return Prepared(work)


PLANES, LAYERS, SPHERES = Size(), Size(depth=3), Size(charts=2)
SMALL = Size(side=5, samples=7, cells=16, depth=2)
_NAMES = "786k points, 32 channels, 3 x 256²"
_BOTH = f"{_NAMES}, forward + backward"

CASES = (
    Case("sample_trigrid", _NAMES, partial(_sample, size=PLANES), goal_ms=81.0),
    Case("sample_trigrid", f"{_NAMES}, points shuffled", partial(_sample_shuffled, size=PLANES)),
    Case("sample_trigrid", _BOTH, partial(_sample_both, size=PLANES, moves=False), goal_ms=438.0),
    Case("sample_trigrid", f"{_BOTH}, points too", partial(_sample_both, size=PLANES, moves=True)),
    Case("sample_trigrid", f"{_NAMES} x 3 layers", partial(_sample, size=LAYERS)),
    Case("sample_spherical_trigrid", f"{_NAMES}, 2 spheres", partial(_sample, size=SPHERES)),
    Case("decode_trigrid", f"{_NAMES}, decoder 64 to 33", partial(_decode, size=PLANES), goal_ms=145.0),
    Case("decode_trigrid", f"{_NAMES}, decoder, forward + backward", partial(_decode_both, size=PLANES)),
    Case("render_trigrid", "16k rays, 48 samples", partial(_render, size=PLANES)),
    Case("render_trigrid", "16k rays, 48 samples, forward + backward", partial(_render_both, size=PLANES)),
    Case("composite_rays", "16k rays, 48 samples, 32 channels", partial(_composite, size=PLANES, backward=False)),
    Case("composite_rays", "16k rays, 48 samples, forward + backward", partial(_composite, size=PLANES, backward=True)),
    Case("importance_samples", "16k rays, 48 of 48", partial(_importance, size=PLANES)),
    Case("march_rays", "16k rays, 128³ cells, 500 steps", partial(_march, size=PLANES)),
    Case("render_trigrid", "25 rays, 7 samples, forward + backward", partial(_render_both, size=SMALL), small=True),
    Case("sample_trigrid", "175 points, forward + backward", partial(_sample_both, size=SMALL, moves=True), small=True),
    Case("composite_rays", "25 rays, forward + backward", partial(_composite, size=SMALL, backward=True), small=True),
    Case("march_rays", "25 rays", partial(_march, size=SMALL), small=True),
)  # fmt: skip
