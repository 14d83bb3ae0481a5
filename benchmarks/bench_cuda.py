"""Compares the CUDA ops with the CPU's on egg-shaped meshes that fill the picture as a head does, then times them.

    python -m benchmarks.bench_cuda [--json FILE] [--check-only] [--small]

Times are medians in ms. `gpu` is the GPU's alone: many calls captured in a CUDA graph, replayed between two events.
`call` is one call as Python makes it, between two events. `cpu` is the same op on this machine's processor. Of
headrecon's dependencies only torch, numpy and jaxtyping are needed. Exits with 1 when results disagree.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops.antialias import antialias
from headrecon.ops.interpolate import interpolate, screen_slopes
from headrecon.ops.rasterize import Raster, rasterize
from headrecon.ops.samples import ShadeColours, ShadeGeometry, ShadeLights
from headrecon.ops.shade import shade
from headrecon.ops.texture import sample_texture, texture_pyramid

Work = Callable[[], Any]
CAPTURED_CALLS = 10
#: Sums over many pixels in another order, and the GPU's log2 and pow, account for 1e-4.
MOST_DISAGREEMENT = 1e-3


@dataclass(frozen=True)
class Scene:
    """What is drawn, all on one device."""

    label: str
    size: int
    points: Tensor  # [B,V,3] homogeneous
    faces: Tensor
    vertices: Tensor
    uvs: Tensor
    texture: Tensor

    def to(self, device: str) -> Scene:
        moved = (t.to(device) for t in (self.points, self.faces, self.vertices, self.uvs, self.texture))
        return Scene(self.label, self.size, *moved)


def egg(rings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Vertices in metres, faces and UVs of a closed surface with 2 rings (rings - 1) triangles, 16 x 24 x 20 cm."""
    t, p = np.meshgrid(np.linspace(0, np.pi, rings + 1), np.linspace(-np.pi, np.pi, rings + 1), indexing="ij")
    xyz = np.stack([0.08 * np.sin(t) * np.sin(p), 0.12 * np.cos(t), 0.10 * np.sin(t) * np.cos(p)], -1).reshape(-1, 3)
    uvs = np.stack([p / (2 * np.pi) + 0.5, 1 - t / np.pi], -1).reshape(-1, 2)
    index = np.arange(len(xyz)).reshape(rings + 1, rings + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    lower, upper = np.stack([a, b, c], -1)[:-1].reshape(-1, 3), np.stack([a, c, d], -1)[1:].reshape(-1, 3)
    return xyz, np.concatenate([lower, upper]), uvs


def scene(label: str, rings: int, size: int, batch: int) -> Scene:
    """Eggs seen from 60 cm, each turned a little further."""
    xyz, faces, uvs = egg(rings)
    points = []
    for i in range(batch):
        turn = 0.35 + 0.2 * i
        rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        camera = xyz @ rotation.T * [1, -1, -1] + [0, 0, 0.6]  # y down, z forward
        focal = 2.2 * size
        k = np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
        points.append(camera @ k.T)
    texture = torch.rand(512, 512, 3, generator=torch.Generator().manual_seed(0))
    tensors = [torch.from_numpy(np.asarray(a, np.float32)) for a in (np.stack(points), xyz, uvs)]
    return Scene(label, size, tensors[0], torch.from_numpy(faces).int(), tensors[1], tensors[2], texture)


def look(s: Scene) -> tuple[ShadeGeometry, ShadeColours, Tensor, ShadeLights]:
    """What `shade` wants to know."""
    device, count = s.points.device, len(s.points)
    corners = torch.cat([s.faces, s.faces, s.faces], 1)
    normals = torch.nn.functional.normalize(s.vertices, dim=1)
    lights = torch.tensor([[0.3, 0.5, 0.81, 1.0, 0.9, 0.8], [-0.6, 0.0, 0.8, 0.3, 0.3, 0.4]], device=device)
    ambient = torch.full((9, 3), 0.1, device=device)
    surface = torch.tensor([0.04, 0.5, 0.2, 0.1, 0.05], device=device)
    rotations = torch.eye(3, device=device).repeat(count, 1, 1)
    centers = torch.tensor([[0.0, 0.0, 0.6]], device=device).repeat(count, 1)
    geometry = ShadeGeometry(corners, s.vertices, normals, s.uvs)
    return geometry, ShadeColours(texture=s.texture), centers, ShadeLights(rotations, ambient, lights, surface)


def works(s: Scene) -> dict[str, Work]:
    """Every op, forward and backward, each returning what can be compared."""
    points, texture = s.points.clone().requires_grad_(), s.texture.clone().requires_grad_()
    raster = rasterize(points, s.faces, s.size, s.size)
    seen = Raster(raster.face_index, raster.barycentrics.detach(), raster.depth_z.detach())
    slopes = screen_slopes(s.uvs, s.faces, seen, s.points, s.faces)
    attributes, weights = s.vertices.clone().requires_grad_(), seen.barycentrics.clone().requires_grad_()
    positions = interpolate(attributes, s.faces, seen.face_index, weights)
    at = interpolate(s.uvs, s.faces, seen.face_index, seen.barycentrics).requires_grad_()
    pyramid = texture_pyramid(texture)
    colours = sample_texture(pyramid, at, slopes=slopes, face_index=seen.face_index)
    image = colours.detach().clone().requires_grad_()
    smooth = antialias(image, seen, points, s.faces)
    generator = torch.Generator().manual_seed(1)

    def weight(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like.device)

    grads = {name: weight(t) for name, t in (("depth", seen.depth_z), ("weights", seen.barycentrics), ("image", image))}
    geometry, look_colours, centers, lights = look(s)

    def gradient(output: Tensor, inputs: tuple[Tensor, ...], grad: Tensor) -> Work:
        return lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)

    def rasterize_backward() -> Any:
        outputs, wanted = (raster.barycentrics, raster.depth_z), (grads["weights"], grads["depth"])
        return torch.autograd.grad(outputs, (points,), wanted, retain_graph=True)

    return {
        "rasterize": lambda: list(vars(rasterize(s.points, s.faces, s.size, s.size)).values()),
        "rasterize backward": rasterize_backward,
        "interpolate": lambda: interpolate(s.vertices, s.faces, seen.face_index, seen.barycentrics),
        "interpolate backward": gradient(positions, (attributes, weights), grads["image"]),
        "screen_slopes": lambda: screen_slopes(s.uvs, s.faces, seen, s.points, s.faces),
        "texture_pyramid": lambda: texture_pyramid(s.texture).texels,
        "texture": lambda: sample_texture(pyramid, at, slopes=slopes, face_index=seen.face_index).detach(),
        "texture backward": gradient(colours, (texture, at), grads["image"]),
        "antialias": lambda: antialias(image.detach(), seen, s.points, s.faces),
        "antialias backward": gradient(smooth, (image, points), grads["image"]),
        "shade": lambda: shade(seen, geometry, look_colours, centers, lights),
    }


def disagreement(gpu: Any, cpu: Any) -> float:
    """Largest difference of any output, relative to its largest value; of faces, the share of pixels that differ."""
    pairs = zip(*([x] if isinstance(x, Tensor) else list(x) for x in (gpu, cpu)), strict=True)
    worst = 0.0
    for a, b in pairs:
        a, b = a.detach().cpu(), b.detach()
        if not a.dtype.is_floating_point:
            worst = max(worst, float((a != b).float().mean()))
            continue
        # A pixel at an outline may see another face; the median would hide that, so a thousandth of values is let off.
        error = (a - b).abs().flatten()
        largest = error.kthvalue(max(1, int(0.999 * error.numel()))).values if error.numel() else torch.zeros(())
        worst = max(worst, float(largest / b.abs().max().clamp(min=1e-12)))
    return worst


def between_events(work: Work, runs: int, calls: int) -> float:
    """Median ms per call, by CUDA events around `work`, which makes so many calls."""
    times = []
    for _ in range(runs):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / calls)
    return statistics.median(times)


def captured(work: Work) -> Work | None:
    """Replays CAPTURED_CALLS calls without Python between them; None when the op cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(CAPTURED_CALLS):
                work()
    except RuntimeError as error:
        print(f"    not captured: {str(error).splitlines()[0]}", file=sys.stderr)
        return None
    return graph.replay


def milliseconds_on_cpu(work: Work, runs: int) -> float:
    work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def run_scene(made: Scene, runs: int, check_only: bool) -> dict[str, dict[str, float | None]]:
    """Disagreement of every op, and times unless check_only."""
    results: dict[str, dict[str, float | None]] = {}
    # Backward passes run on the stream of their forward pass, and the default stream cannot be captured.
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        gpu, cpu = works(made.to("cuda")), works(made)
        for name, work in gpu.items():
            entry: dict[str, float | None] = {"disagreement": disagreement(work(), cpu[name]())}
            if not check_only:
                for _ in range(3):
                    work()
                entry["call_ms"] = between_events(work, runs, 1)
                replay = captured(work)
                entry["gpu_ms"] = between_events(replay, runs, CAPTURED_CALLS) if replay else None
                entry["cpu_ms"] = milliseconds_on_cpu(cpu[name], max(3, runs // 10))
            results[name] = entry
            figures = "  ".join(f"{key} {value:9.4g}" for key, value in entry.items() if value is not None)
            print(f"  {name:22s} {figures}", flush=True)
        torch.cuda.synchronize()
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--runs", type=int, default=50, help="runs per figure (default: 50)")
    parser.add_argument("--check-only", action="store_true", help="compare with the CPU, time nothing")
    parser.add_argument("--small", action="store_true", help="one small mesh only")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"needs an NVIDIA GPU and a CUDA build of torch; torch {torch.__version__} sees none", file=sys.stderr)
        return 2
    scenes = [("2k faces 128², 3 images", 32, 128, 3)]
    if not args.small:
        scenes += [("9.7k faces 512²", 70, 512, 1), ("100k faces 1024²", 224, 1024, 1)]
        scenes += [("9.7k faces 512², 8 images", 70, 512, 8)]
    about = _native.describe()
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cuda_archs": about["cuda_archs"],
        "cpu": {"threads": torch.get_num_threads(), "isa": about["isa_in_use"]},
        "scenes": {},
    }
    print(f"{report['device']}, torch {report['torch']}, kernels for {' '.join(about['cuda_archs'])}")
    for label, *shape in scenes:
        print(label, flush=True)
        report["scenes"][label] = run_scene(scene(label, *shape), args.runs, args.check_only)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    wrong = [
        f"{label}: {name}"
        for label, entries in report["scenes"].items()
        for name, entry in entries.items()
        if not entry["disagreement"] <= MOST_DISAGREEMENT
    ]
    print("\n".join(["GPU and CPU disagree:", *wrong]) if wrong else "GPU and CPU agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
