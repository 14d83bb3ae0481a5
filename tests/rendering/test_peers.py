"""Other projects' renderers: what is said where they are absent, and that their conventions are translated.

The peers themselves need a GPU or a build from source. Stand-ins that follow their documented conventions (axes, order
of rows, numbering of faces, units) take their place: what is tested is our side of the border.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from headrecon.errors import NativeMissing, ShapeError
from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.ops.splat_gaussians import SplatOptions, splat_gaussians
from headrecon.rendering.differentiable import MeshTopology, view_mesh
from headrecon.rendering.peers import installed_peers, rasterize_with, splat_with
from headrecon.structures import Cameras, Gaussians

HEIGHT, WIDTH = 40, 56
TRIANGLES = torch.tensor([[0, 2, 1], [1, 2, 3], [4, 5, 6]], dtype=torch.int32)


def cameras(count: int = 2) -> Cameras:
    viewmats = torch.eye(4).repeat(count, 1, 1)
    viewmats[:, 0, 3] = torch.linspace(0, 0.02, count)
    viewmats[:, 2, 3] = 0.6
    Ks = torch.tensor([[90.0, 0, 26], [0, 85.0, 21], [0, 0, 1]]).repeat(count, 1, 1)
    return Cameras(viewmats, Ks, WIDTH, HEIGHT)


def vertices() -> Tensor:
    """Two triangles that share an edge and tilt in depth, and one behind them to the upper left."""
    return torch.tensor(
        [[-0.1, -0.05, 0], [0.12, -0.04, 0.05], [-0.08, 0.08, 0.1], [0.13, 0.09, -0.05],
         [-0.15, -0.12, 0.2], [0.0, -0.1, 0.2], [-0.1, 0.05, 0.2]]
    )  # fmt: skip


@contextmanager
def stand_in(monkeypatch: pytest.MonkeyPatch, modules: dict[str, Any]) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for name, contents in modules.items():
            module = ModuleType(name)
            vars(module).update(contents)
            module.__path__ = []  # type: ignore[attr-defined]
            patch.setitem(sys.modules, name, module)
        yield


def _pytorch3d_modules(calls: list[Any]) -> dict[str, Any]:
    """+x left, +y up, the shorter side from -1 to 1; faces count through the batch; -1 where there is nothing."""

    def rasterize_meshes(meshes: Any, image_size: tuple[int, int], **options: Any) -> tuple[Tensor, ...]:
        calls.append(options)
        height, width = image_size
        x, y, z = meshes.verts.unbind(-1)
        half = min(height, width) / 2
        points = torch.stack([(width / 2 - x * half) * z, (height / 2 - y * half) * z, z], -1)
        seen = rasterize(points, meshes.faces[0], height, width)
        first = torch.arange(len(points))[:, None, None] * meshes.faces.shape[1]
        index = torch.where(seen.covered, seen.face_index.long() + first, -1)
        weights = torch.where(seen.covered[..., None], seen.barycentrics, -1.0)
        return index[..., None], torch.where(seen.covered, seen.depth_z, -1.0)[..., None], weights[..., None, :], index

    renderer = "pytorch3d.renderer.mesh.rasterize_meshes"
    return {
        "pytorch3d": {},
        "pytorch3d.structures": {"Meshes": lambda verts, faces: SimpleNamespace(verts=verts, faces=faces)},
        "pytorch3d.renderer": {},
        "pytorch3d.renderer.mesh": {},
        renderer: {"rasterize_meshes": rasterize_meshes},
    }


def _nvdiffrast_modules(calls: list[Any]) -> dict[str, Any]:
    """OpenGL's clip space; row 0 is y = -1; output u, v, z/w, face + 1, all 0 where there is nothing."""

    def rasterize_clip(context: Any, clip: Tensor, faces: Tensor, resolution: tuple[int, int]) -> tuple[Tensor, Tensor]:
        height, width = resolution
        x, y, z, w = clip.unbind(-1)
        calls.append((z / w).aminmax())
        points = torch.stack([(x + w) / 2 * width, (y + w) / 2 * height, w], -1)
        seen = rasterize(points, faces, height, width)
        first, second, _ = seen.barycentrics.unbind(-1)
        return torch.stack([first, second, first * 0, (seen.face_index + 1).float()], -1), clip

    contents = {"rasterize": rasterize_clip, "RasterizeCudaContext": lambda device: None}
    return {"nvdiffrast": {}, "nvdiffrast.torch": contents}


@pytest.mark.parametrize("name", ["pytorch3d", "nvdiffrast"])
def test_conventions_of_mesh_peers_are_translated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    modules = _pytorch3d_modules(calls) if name == "pytorch3d" else _nvdiffrast_modules(calls)
    points = to_homogeneous_image(vertices(), cameras()).requires_grad_()
    ours = rasterize(points, TRIANGLES, HEIGHT, WIDTH)
    assert set(ours.face_index.unique().tolist()) == {-1, 0, 1, 2}
    with stand_in(monkeypatch, modules):
        theirs = rasterize_with(name, points, TRIANGLES, (HEIGHT, WIDTH))  # type: ignore[arg-type]
    assert calls
    same = theirs.face_index == ours.face_index
    assert theirs.face_index.dtype == torch.int32
    assert float(same.float().mean()) > 0.995, "but for centres within rounding of an edge"
    torch.testing.assert_close(theirs.barycentrics[same], ours.barycentrics[same], rtol=0, atol=1e-4)
    torch.testing.assert_close(theirs.depth_z[same], ours.depth_z[same], rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(theirs.depth_z.sum(), points)
    (expected,) = torch.autograd.grad(ours.depth_z.sum(), points)
    assert float((gradient - expected).norm() / expected.norm()) < 0.05  # of other pixels, where they differ
    if name == "pytorch3d":
        assert calls[0]["perspective_correct"]
        assert calls[0]["z_clip_value"] > 0
    else:
        assert all(-1 < float(depth) < 1 for depth in calls[0])


def test_a_view_can_come_from_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    topology = MeshTopology(TRIANGLES, torch.full((3, 3), -1, dtype=torch.int32))
    colours = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    ours = view_mesh(vertices(), topology, cameras()).attributes(colours)
    with stand_in(monkeypatch, _pytorch3d_modules([])):
        theirs = view_mesh(vertices(), topology, cameras(), backend="pytorch3d").attributes(colours)
    assert float((ours - theirs).abs().mean()) < 1e-3


def gaussians(sh: bool) -> Gaussians:
    generator = torch.Generator().manual_seed(1)
    means = vertices()
    colours = None if sh else torch.rand(7, 3, generator=generator)
    harmonics = torch.rand(7, 4, 3, generator=generator) if sh else None
    quats = torch.randn(7, 4, generator=generator)
    return Gaussians(means, quats, torch.full((7, 3), 0.02), torch.full((7,), 0.7), colours, harmonics)


@pytest.mark.parametrize("sh", [False, True])
def test_conventions_of_gsplat_are_translated(sh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Depth is its last channel; it takes scalars by these names."""
    asked: dict[str, Any] = {}

    def rasterization(
        means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor,
        viewmats: Tensor, Ks: Tensor, width: int, height: int, **options: Any,
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
        asked.update(options)
        degree = options["sh_degree"]
        splats = Gaussians(means, quats, scales, opacities, *((colors, None) if degree is None else (None, colors)))
        drawn = splat_gaussians(
            splats,
            Cameras(viewmats, Ks, width, height),
            SplatOptions(near_z=options["near_plane"], eps2d=options["eps2d"], sh_degree=degree, depth=True),
        )
        assert drawn.depth_z is not None
        return torch.cat([drawn.image, drawn.depth_z[..., None]], -1), drawn.alpha[..., None], {}

    background = torch.tensor([0.2, 0.4, 0.9])
    ours = splat_with("headrecon", gaussians(sh), cameras(), background=background)
    with stand_in(monkeypatch, {"gsplat": {"rasterization": rasterization}}):
        theirs = splat_with("gsplat", gaussians(sh), cameras(), background=background)
    for name, found in vars(theirs).items():
        torch.testing.assert_close(found, vars(ours)[name], rtol=0, atol=1e-5, msg=name)
    assert asked["sh_degree"] == (1 if sh else None)
    assert asked["far_plane"] == 1e10
    assert asked["rasterize_mode"] == "classic"


@pytest.mark.parametrize("name", ["pytorch3d", "nvdiffrast", "gsplat"])
def test_an_absent_peer_says_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pytorch3d", "nvdiffrast", "nvdiffrast.torch", "gsplat"):
        monkeypatch.setitem(sys.modules, module, None)
    asked = {
        "gsplat": lambda: splat_with("gsplat", gaussians(False), cameras()),
        "pytorch3d": lambda: rasterize_with("pytorch3d", torch.ones(1, 7, 3), TRIANGLES, (8, 8)),
        "nvdiffrast": lambda: rasterize_with("nvdiffrast", torch.ones(1, 7, 3), TRIANGLES, (8, 8)),
    }
    with pytest.raises(NativeMissing, match=rf"the renderer '{name}' was asked for.*(pip install|built from source)"):
        asked[name]()


def test_an_unknown_backend_is_refused() -> None:
    from headrecon.rendering import peers

    unchecked = getattr(peers.rasterize_with, "__wrapped__", peers.rasterize_with)  # the tests check Literals, too
    with pytest.raises(ShapeError, match="headrecon, pytorch3d, nvdiffrast, found 'opengl'"):
        unchecked("opengl", torch.ones(1, 7, 3), TRIANGLES, (8, 8), 0.005)


def test_installed_peers_are_listed_without_importing_them() -> None:
    before = set(sys.modules)
    found = installed_peers()
    assert set(found) == {"pytorch3d", "nvdiffrast", "gsplat"}
    assert all(isinstance(how, str) for how in found.values())
    assert not {"pytorch3d", "nvdiffrast", "gsplat"} & (set(sys.modules) - before)
