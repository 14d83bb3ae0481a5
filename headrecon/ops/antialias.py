"""Antialiasing of a rasterized mesh's outlines, through which a picture's gradient moves them.

A rasterized picture has one sample per pixel: which face it sees jumps as a vertex moves, and so no gradient tells an
outline where to go. Here the pixels beside an outline take a share of their neighbour. The rules, shared by every back
end (and spelled out in plain torch in `ops/reference/antialias.py`):

- A pair of pixels side by side, or one above the other, that see different faces is looked at; of the two surfaces the
  nearer one has the outline.
- From the nearer one's centre a walk follows the line to the other's from face to face, 64 at most, until it meets an
  edge that is an outline: one without a face beyond, or whose two faces lie on the same side of it in the image.
- Where the outline crosses the line at t (0 at the nearer centre, 1 at the other), the far pixel takes t - 1/2 of the
  near one's colour when t is above 1/2, else the near pixel 1/2 - t of the far one's.
- An edge that runs more along the line than across it is left to the pairs of the other direction.
- Two faces that share a vertex which no outline touches are one sheet: nothing is blended between them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops._register import register_op
from headrecon.ops.rasterize import Raster
from headrecon.ops.reference.antialias import antialias_reference
from headrecon.ops.reference.gradients import gradients_of


def face_neighbours(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """The face beyond the edge opposite to each corner, int32, -1 where there is none.

    An edge of three or more faces counts as a border of each. Vertices at the same place are different vertices: weld a
    mesh whose seams double them, or the seams will be outlines.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise ShapeError(f"face_neighbours: faces must be [F,3] (triangles), found {tuple(faces.shape)}")
    table = torch.full((faces.numel(),), -1, dtype=torch.int32, device=faces.device)
    if len(faces) == 0:
        return table.reshape(-1, 3)
    ends = torch.stack([faces.roll(-1, 1), faces.roll(-2, 1)], -1).reshape(-1, 2).long()
    edge = ends.amin(1) * (int(faces.max()) + 1) + ends.amax(1)
    _, which, count = torch.unique(edge, return_inverse=True, return_counts=True)
    order = torch.argsort(which, stable=True)
    pairs = order[count[which[order]] == 2].reshape(-1, 2)
    table[pairs] = torch.div(pairs.flip(1), 3, rounding_mode="floor").int()
    return table.reshape(-1, 3)


def antialias(
    image: Float[Tensor, "B H W D"],
    raster: Raster,
    points_hom: Float[Tensor, "B V 3"],
    faces: Int[Tensor, "F 3"],
    neighbours: Int[Tensor, "F 3"] | None = None,
) -> Float[Tensor, "B H W D"]:
    """Smooth the outlines of a picture of a mesh; any number of channels, such as colour with coverage.

    image: float32, one sample per pixel, with whatever shows where there is no face. raster, points_hom, faces: as they
    went through `rasterize`. neighbours: `face_neighbours(faces)`; pass it when the same mesh is drawn repeatedly.
    Differentiable in image, and in points_hom by how moving the outlines would change the picture.
    Raises ShapeError for shapes, types or indices that do not fit; NativeMissing on a device without a built back end.
    Method: Laine et al., SIGGRAPH Asia 2020, section 3.5, with a search for the outline's edge that goes beyond the
    face that the pixel sees: near its outline a fine mesh has faces thinner than a pixel.
    """
    shape = (points_hom.shape[0], *raster.face_index.shape[1:])
    if image.ndim != 4 or image.shape[:3] != shape or raster.face_index.shape != shape or image.shape[3] == 0:
        raise ShapeError(
            f"antialias: image must be {(*shape, 'D')} as the raster {tuple(raster.face_index.shape)} of "
            f"{points_hom.shape[0]} meshes, found {tuple(image.shape)}"
        )
    if image.dtype != torch.float32 or points_hom.dtype != torch.float32:
        raise ShapeError(f"antialias: image and points_hom must be float32, found {image.dtype}, {points_hom.dtype}")
    neighbours = face_neighbours(faces) if neighbours is None else neighbours
    if neighbours.shape != faces.shape:
        raise ShapeError(f"antialias: neighbours must be {tuple(faces.shape)}, found {tuple(neighbours.shape)}")
    return _antialias(
        image,
        raster.face_index.to(torch.int32),
        raster.depth_z.detach(),
        points_hom,
        faces.to(torch.int32),
        neighbours.to(torch.int32),
    )


def _kernel(
    image: Tensor, face_index: Tensor, depth_z: Tensor, points_hom: Tensor, faces: Tensor, neighbours: Tensor
) -> Tensor:
    raster = (face_index.contiguous(), depth_z.contiguous())
    mesh = (points_hom.contiguous(), faces.contiguous(), neighbours.contiguous())
    if _native.use_reference(image):
        return antialias_reference(image, raster, mesh)
    return _native_calls.antialias(image.contiguous(), raster, mesh)[0]


def _fake(image: Tensor, *args: Tensor) -> Tensor:
    return image.new_empty(image.shape)


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    image, face_index, depth_z, points_hom, faces, neighbours = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[3])
    if _native.use_reference(image):

        def twin(image: Tensor, points_hom: Tensor) -> Tensor:
            return antialias_reference(image, (face_index, depth_z), (points_hom, faces, neighbours))

        found = gradients_of(twin, (image, points_hom), needs, (grad,))
    else:
        found = _antialias_backward(*ctx.saved_tensors, grad)
    return (found[0] if needs[0] else None, None, None, found[1] if needs[1] else None, None, None)


def _backward_kernel(
    image: Tensor,
    face_index: Tensor,
    depth_z: Tensor,
    points_hom: Tensor,
    faces: Tensor,
    neighbours: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    raster = (face_index.contiguous(), depth_z.contiguous())
    mesh = (points_hom.contiguous(), faces.contiguous(), neighbours.contiguous())
    grad_image, grad_points = _native_calls.antialias(image.contiguous(), raster, mesh, grad.contiguous())
    assert grad_points is not None
    return grad_image, grad_points


def _backward_fake(image: Tensor, face_index: Tensor, depth_z: Tensor, points_hom: Tensor, *args: Tensor) -> Any:
    return image.new_empty(image.shape), points_hom.new_empty(points_hom.shape)


_INPUTS = "Tensor image, Tensor face_index, Tensor depth_z, Tensor points_hom, Tensor faces, Tensor neighbours"
_antialias = register_op("antialias", f"({_INPUTS}) -> Tensor", _kernel, _fake, _backward, _setup_context)
_antialias_backward = register_op(
    "antialias_backward", f"({_INPUTS}, Tensor grad) -> (Tensor, Tensor)", _backward_kernel, _backward_fake
)
