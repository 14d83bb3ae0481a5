"""Times the rasterizer, its backward passes and the mesh renderer on egg-shaped meshes that fill the picture as a head.

Prints the median and the best of many runs, and the processor time of the best (all threads together), which a busy
machine disturbs less. `--json FILE` also writes them. Goals (two cores with AVX-512): 9.7k faces at 512² raster +
interpolate 3 ms, 100k faces at 1024² 10 ms, backward at most twice that, a textured picture of 768² with 2 x 2 samples
well under 250 ms.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops.antialias import antialias, face_neighbours
from headrecon.ops.interpolate import interpolate, screen_slopes
from headrecon.ops.rasterize import rasterize, to_homogeneous_image
from headrecon.ops.texture import sample_texture, texture_pyramid
from headrecon.rendering.cameras_orbit import orbit_cameras
from headrecon.rendering.mesh import Appearance, RenderOptions, render_mesh
from headrecon.structures import Mesh

#: Quoted, not measured here: 9.7k faces at 512², forward and backward, on a two-core AVX-512 server CPU. None of them
#: has a wheel to compare with on a CPU (the `drtk` on PyPI is another project).
PEERS_MS = {
    "DRTK, CPU kernels": (10.2, 21.7),
    "PyTorch3D": (7978.0, 4091.0),
    "Embree, ray casting": (13.3, None),
}


def egg(rings: int, segments: int) -> Mesh:
    """A closed surface with 2 segments (rings - 1) triangles, 16 x 24 x 20 cm, with UVs."""
    t, p = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(-np.pi, np.pi, segments + 1), indexing="ij")
    xyz = np.stack([0.08 * np.sin(t) * np.sin(p), 0.12 * np.cos(t), 0.10 * np.sin(t) * np.cos(p)], -1).reshape(-1, 3)
    uvs = np.stack([p / (2 * np.pi) + 0.5, 1 - t / np.pi], -1).reshape(-1, 2)
    index = np.arange(len(xyz)).reshape(rings + 1, segments + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    lower, upper = np.stack([a, b, c], -1)[:-1].reshape(-1, 3), np.stack([a, c, d], -1)[1:].reshape(-1, 3)
    faces = np.concatenate([lower, upper])
    return Mesh(xyz, faces, uvs, faces)


def measure(work: Callable[[], object], runs: int) -> dict[str, float]:
    """Median and best wall time and best processor time (all threads), in ms."""
    wall, processor = [], []
    for _ in range(runs + 2):
        start, start_processor = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - start_processor)
    wall, processor = wall[2:], processor[2:]  # the first runs fault in memory and start threads
    return {"median_ms": 1e3 * float(np.median(wall)), "best_ms": 1e3 * min(wall), "cpu_ms": 1e3 * min(processor)}


def raster_cases(runs: int) -> dict[str, dict[str, float]]:
    results = {}
    for label, mesh, size in (("9.7k faces 512²", egg(70, 70), 512), ("100k faces 1024²", egg(224, 224), 1024)):
        vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces).int()
        points = to_homogeneous_image(vertices, orbit_cameras(mesh.vertices, [20.0], size))
        raster = rasterize(points, faces, size, size)

        def both(points=points, faces=faces, size=size, vertices=vertices) -> None:
            seen = rasterize(points, faces, size, size)
            interpolate(vertices, faces, seen.face_index, seen.barycentrics)

        def alone(points=points, faces=faces, size=size) -> None:
            rasterize(points, faces, size, size)

        def values(raster=raster, faces=faces, vertices=vertices) -> None:
            interpolate(vertices, faces, raster.face_index, raster.barycentrics)

        results[f"raster + interpolate, {label}"] = measure(both, runs)
        results[f"raster, {label}"] = measure(alone, runs)
        results[f"interpolate 3 channels, {label}"] = measure(values, runs)
    return results


def fit_work(mesh: Mesh, size: int) -> dict[str, Callable[[], object]]:
    """What a fit does: backward passes, outlines and texture, each ready to run again and again."""
    assert mesh.uvs is not None
    vertices, faces = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.faces).int()
    uvs, neighbours = torch.from_numpy(mesh.uvs).float(), face_neighbours(faces)
    points = to_homogeneous_image(vertices, orbit_cameras(mesh.vertices, [20.0], size)).requires_grad_()
    colours = torch.rand(len(vertices), 3).requires_grad_()
    raster = rasterize(points, faces, size, size)
    values = interpolate(colours, faces, raster.face_index, raster.barycentrics)
    grad, image, fixed = torch.rand(values.shape), values.detach().requires_grad_(), points.detach()
    smooth = antialias(image, raster, points, faces, neighbours)
    at = interpolate(uvs, faces, raster.face_index, raster.barycentrics).detach().requires_grad_()
    slopes = screen_slopes(uvs, faces, raster, fixed, faces)
    texture = torch.rand(1024, 1024, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    pyramid = texture_pyramid(texture, 16)

    def look_up() -> Tensor:
        return sample_texture(pyramid, at, slopes=slopes, face_index=raster.face_index)

    def backward(output: Tensor, *inputs: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)

    return {
        "backward of raster + interpolate": backward(values, points, colours),
        "antialias": lambda: antialias(values.detach(), raster, fixed, faces, neighbours),
        "backward of antialias": backward(smooth, image, points),
        "slopes of UVs": lambda: screen_slopes(uvs, faces, raster, fixed, faces),
        "texture 1024², trilinear": look_up,
        "backward of texture (texels, UVs)": backward(look_up(), pyramid.texels, at),
    }


def backward_cases(runs: int) -> dict[str, dict[str, float]]:
    results = {}
    for label, mesh, size in (("9.7k faces 512²", egg(70, 70), 512), ("100k faces 1024²", egg(224, 224), 1024)):
        for name, work in fit_work(mesh, size).items():
            results[f"{name}, {label}"] = measure(work, runs)
    return results


def render_cases(runs: int) -> dict[str, dict[str, float]]:
    mesh = egg(70, 70)
    texture = torch.rand(2048, 2048, 3, generator=torch.Generator().manual_seed(0))
    results = {}
    for label, size, factor, appearance in (
        ("textured 768², 2 x 2 samples", 768, 2, Appearance(texture_srgb=texture)),
        ("textured 768², 3 x 3 samples", 768, 3, Appearance(texture_srgb=texture)),
        ("clay 512², 2 x 2 samples", 512, 2, Appearance()),
    ):
        cameras = orbit_cameras(mesh.vertices, [20.0], size)
        options = RenderOptions(supersample=factor)

        def picture(cameras=cameras, appearance=appearance, options=options) -> None:
            render_mesh(mesh, cameras, appearance, options)

        results[f"render_mesh {label}"] = measure(picture, max(runs // 3, 3))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--runs", type=int, default=60, help="runs per figure (default: 60)")
    args = parser.parse_args()
    built = _native.describe()
    print(f"native: {built['isa_in_use'] or 'not built, reference ops'}; threads: {torch.get_num_threads()}")
    results = {**raster_cases(args.runs), **backward_cases(args.runs), **render_cases(args.runs)}
    for name, figures in results.items():
        times = "   ".join(f"{kind.removesuffix('_ms')} {value:7.2f}" for kind, value in figures.items())
        print(f"{name:58s} {times} ms")
    for name, (forward, backward) in PEERS_MS.items():
        found = f"forward {forward:7.1f}" + ("" if backward is None else f"   backward {backward:7.1f}")
        print(f"{'quoted: ' + name + ', 9.7k faces 512²':58s} {found} ms")
    if args.json:
        args.json.write_text(json.dumps({"native": built["isa_in_use"], "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
