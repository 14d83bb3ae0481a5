"""Meshes and cameras with known answers, shared by the tests of ops and rendering."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_users_call_it(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the run-time shape checks of the tests, which would refuse a wrong shape before it does."""
    return inspect.unwrap(function)


def hom(points: list[list[float]], depth: float | list[float] = 1.0) -> Tensor:
    """Homogeneous image points [1,V,3] of pixels [V][2] at the given depths."""
    xy = torch.tensor(points)
    z = torch.as_tensor(depth, dtype=torch.float32).expand(len(points))[:, None]
    return torch.cat([xy * z, z], 1)[None]


def random_soup(
    generator: torch.Generator, vertices: int, faces: int, size: tuple[int, int], near: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Two images of random triangles: points_hom [2,V,3] with depths from `near` to near + 2, and faces [F,3]."""
    height, width = size
    z = torch.rand(2, vertices, 1, generator=generator) * 2 + near
    xy = (torch.rand(2, vertices, 2, generator=generator) * 1.6 - 0.3) * torch.tensor([width, height])
    faces_drawn = torch.randint(0, vertices, (faces, 3), generator=generator, dtype=torch.int32)
    return torch.cat([xy * z, z], -1), faces_drawn


def grid(columns: int, rows: int, size: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A jittered triangulated grid that covers more than the image: every pixel lies in exactly one triangle."""
    height, width = size
    ys, xs = torch.meshgrid(torch.linspace(-0.1, 1.1, rows), torch.linspace(-0.1, 1.1, columns), indexing="ij")
    cell = torch.tensor([1.2 * width / (columns - 1), 1.2 * height / (rows - 1)])
    xy = torch.stack([xs * width, ys * height], -1).reshape(-1, 2)
    xy = xy + (torch.rand(xy.shape, generator=generator) - 0.5) * 0.6 * cell
    index = torch.arange(columns * rows).reshape(rows, columns)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = torch.cat([torch.stack([a, b, c], -1).reshape(-1, 3), torch.stack([a, c, d], -1).reshape(-1, 3)])
    return torch.cat([xy, torch.ones(len(xy), 1)], 1)[None], faces.int()


def sphere(rings: int, segments: int, radius: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latitude-longitude sphere: vertices [V,3], outward triangles [F,3], and UVs [V,2] (u = longitude, v up).

    u runs from 0 at -x... through +z at 0.5 (the front) to 1; the seam's vertices are doubled.
    """
    theta = np.linspace(0, np.pi, rings + 1)
    phi = np.linspace(-np.pi, np.pi, segments + 1)
    t, p = np.meshgrid(theta, phi, indexing="ij")
    vertices = radius * np.stack([np.sin(t) * np.sin(p), np.cos(t), np.sin(t) * np.cos(p)], -1).reshape(-1, 3)
    uvs = np.stack([(p + np.pi) / (2 * np.pi), 1 - t / np.pi], -1).reshape(-1, 2)
    index = np.arange((rings + 1) * (segments + 1)).reshape(rings + 1, segments + 1)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    lower = np.stack([a, b, c], -1)[:-1].reshape(-1, 3)  # those of the last ring have no area, and so below
    upper = np.stack([a, c, d], -1)[1:].reshape(-1, 3)
    return vertices, np.concatenate([lower, upper]), uvs
