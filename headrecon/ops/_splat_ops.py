"""The torch operators that `splat_gaussians` is made of: project, harmonics, tiles, composite, and their backward
passes.

B sets of N Gaussians, each seen by C cameras, make I = B C images. On the CPU without the native library the twins in
`ops/reference` run instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from headrecon.ops import _native
from headrecon.ops import _native_calls_splat as calls
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.splat import (
    SplatView,
    harmonics_reference,
    project_reference,
    tile_pairs,
    tiles_reference,
)

_VIEW = (
    "SymInt width, SymInt height, int tile_size, float near_z, float far_z, float eps2d, float radius_clip, "
    "bool antialiased"
)


def _given(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


def _or_empty(tensors: list[Tensor | None], like: Tensor) -> tuple[Tensor, ...]:
    return tuple(like.new_empty(0) if t is None else t for t in tensors)


def _needed(found: Any, needs: Any) -> tuple[Tensor | None, ...]:
    return tuple(g if need else None for g, need in zip(found, needs, strict=True))


# --- project ---


def _project(*arguments: Any) -> tuple[Tensor, ...]:
    gaussians, cameras, with_normals, view = arguments[:4], arguments[4:6], arguments[6], SplatView(*arguments[7:])
    if not _native.use_reference(gaussians[0]):
        return calls.project(_given(*gaussians), _given(*cameras), view, with_normals)  # type: ignore[arg-type]
    splats, radii, normals = project_reference(gaussians, cameras, view)
    images = splats.shape[0] * splats.shape[1]
    image, splat, _ = tile_pairs(splats.flatten(0, 1), radii.flatten(0, 1), view)
    count = torch.bincount(image * splats.shape[2] + splat, minlength=images * splats.shape[2])
    tiles = count.reshape(radii.shape[:3])
    return splats, radii, normals if with_normals else splats.new_empty(0), tiles.int(), tiles.sum(-1)


def _project_fake(*arguments: Any) -> tuple[Tensor, ...]:
    means, viewmats = arguments[0], arguments[4]
    shape = (*viewmats.shape[:2], means.shape[1])
    normals = means.new_empty((*shape, 3) if arguments[6] else (0,))
    return (
        means.new_empty((*shape, 8)), means.new_empty((*shape, 2)), normals,
        means.new_empty(shape, dtype=torch.int32), means.new_empty(shape[:2], dtype=torch.int64),
    )  # fmt: skip


def _project_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.with_normals, ctx.view = inputs[6], inputs[7:]
    ctx.mark_non_differentiable(output[1], output[3], output[4])
    ctx.set_materialize_grads(False)


def _project_backward(ctx: Any, grad_splats: Tensor | None, _: Any, grad_normals: Tensor | None, *rest: Any) -> Any:
    *inputs, radii = ctx.saved_tensors
    if grad_splats is None and grad_normals is None:
        return (None,) * 15
    needs = [ctx.needs_input_grad[i] for i in range(5)]
    grad_normals = grad_normals if ctx.with_normals else None
    if grad_splats is None:
        grad_splats = radii.new_zeros(*radii.shape[:3], 8)
    # The twins are differentiated by autograd, which does not work within an operator.
    run = _project_grad_kernel if _native.use_reference(radii) else _project_grad
    found = run(*inputs, radii, grad_splats, grad_normals, needs, *ctx.view)
    return (*_needed(found, needs), None, None, *(None,) * 8)


def _project_grad_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    gaussians, cameras, seen, needs = arguments[:4], arguments[4:6], arguments[6:9], arguments[9]
    view = SplatView(*arguments[10:])
    if not _native.use_reference(gaussians[0]):
        radii, grad_splats, grad_normals = seen
        given = (
            radii.contiguous(),
            grad_splats.contiguous(),
            None if grad_normals is None else grad_normals.contiguous(),
        )
        return _or_empty(calls.project_backward(_given(*gaussians), _given(*cameras), view, given, tuple(needs)), radii)  # type: ignore[arg-type]

    def run(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor) -> tuple[Tensor, ...]:
        found = project_reference((means, quats, scales, opacities), (viewmats, cameras[1]), view)
        return found[0], found[2]

    return _or_empty(gradients_of(run, (*gaussians, cameras[0]), needs, seen[1:]), seen[0])


def _project_grad_fake(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(arguments[:5], arguments[9], strict=True))


# --- harmonics ---


def _harmonics(means: Tensor, coefficients: Tensor, centers: Tensor, radii: Tensor, degree: int) -> Tensor:
    if _native.use_reference(means):
        return harmonics_reference(means, coefficients, centers, radii, degree)
    return calls.harmonics(_given(means, coefficients, centers, radii), degree)  # type: ignore[arg-type]


def _harmonics_fake(means: Tensor, coefficients: Tensor, centers: Tensor, radii: Tensor, degree: int) -> Tensor:
    return means.new_empty((*radii.shape[:3], 3))


def _harmonics_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4], output)
    ctx.degree = inputs[4]


def _harmonics_backward(ctx: Any, grad: Tensor) -> Any:
    *inputs, colours = ctx.saved_tensors
    needs = list(ctx.needs_input_grad[:3])
    run = _harmonics_grad_kernel if _native.use_reference(grad) else _harmonics_grad
    return (*_needed(run(*inputs, colours, grad, ctx.degree, needs), needs), None, None)


def _harmonics_grad_kernel(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, seen, (degree, needs) = arguments[:4], arguments[4:6], arguments[6:]
    if not _native.use_reference(inputs[0]):
        return _or_empty(calls.harmonics_backward(_given(*inputs), degree, _given(*seen), tuple(needs)), inputs[0])  # type: ignore[arg-type]

    def run(means: Tensor, coefficients: Tensor, centers: Tensor) -> Tensor:
        return harmonics_reference(means, coefficients, centers, inputs[3], degree)

    return _or_empty(gradients_of(run, inputs[:3], needs, seen[1:]), inputs[0])


def _harmonics_grad_fake(*arguments: Any) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape if need else (0,)) for t, need in zip(arguments[:3], arguments[-1], strict=True))


# --- tiles ---


def _tiles(*arguments: Any) -> tuple[Tensor, ...]:
    seen, totals, (with_entries, max_pairs), view = (
        arguments[:3],
        arguments[3],
        arguments[4:6],
        SplatView(*arguments[6:]),
    )
    if not _native.use_reference(totals):
        return calls.tiles(_given(*seen), totals, view, with_entries, max_pairs)  # type: ignore[arg-type]
    offsets, ids = tiles_reference(seen[0], seen[1], view)
    return offsets, ids, ids.new_empty(0)  # the twin of the backward pass has no use for entries


def _tiles_fake(*arguments: Any) -> tuple[Tensor, ...]:
    splats, with_entries = arguments[0], arguments[4]
    rows, columns = SplatView(*arguments[6:]).tiles
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        splats.new_empty((splats.shape[0] * rows * columns + 1,), dtype=torch.int32),
        splats.new_empty((count,), dtype=torch.int32),
        splats.new_empty((count if with_entries else 0,), dtype=torch.int32),
    )


_GAUSSIANS = "Tensor means, Tensor quats, Tensor scales, Tensor opacities, Tensor viewmats, Tensor Ks"
splat_project = register_op(
    "splat_project",
    f"({_GAUSSIANS}, bool with_normals, {_VIEW}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _project,
    _project_fake,
    _project_backward,
    _project_context,
)
_project_grad = register_op(
    "splat_project_backward",
    f"({_GAUSSIANS}, Tensor radii, Tensor grad_splats, Tensor? grad_normals, bool[5] needs, {_VIEW}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _project_grad_kernel,
    _project_grad_fake,
)
splat_harmonics = register_op(
    "splat_harmonics",
    "(Tensor means, Tensor coefficients, Tensor centers, Tensor radii, int degree) -> Tensor",
    _harmonics,
    _harmonics_fake,
    _harmonics_backward,
    _harmonics_context,
)
_harmonics_grad = register_op(
    "splat_harmonics_backward",
    "(Tensor means, Tensor coefficients, Tensor centers, Tensor radii, Tensor colours, Tensor grad, int degree, "
    "bool[3] needs) -> (Tensor, Tensor, Tensor)",
    _harmonics_grad_kernel,
    _harmonics_grad_fake,
)
splat_tiles = register_op(
    "splat_tiles",
    f"(Tensor splats, Tensor radii, Tensor tiles, Tensor totals, bool with_entries, int? max_pairs, "
    f"{_VIEW}) -> (Tensor, Tensor, Tensor)",
    _tiles,
    _tiles_fake,
)
