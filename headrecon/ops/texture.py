"""Texture lookup: bilinear, or trilinear in a pyramid of halved pictures so that small pictures do not shimmer.

UVs follow OBJ: u to the right, v up, (0, 0) the lower left corner of the picture. The centre of the texel in row i,
column j of an H x W picture (row 0 on top) lies at u = (j + 0.5) / W, v = 1 - (i + 0.5) / H. (glTF has v down: its
readers and writers flip it at the border.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headrecon.errors import ShapeError
from headrecon.ops import _native, _native_calls
from headrecon.ops._register import register_op
from headrecon.ops.reference.gradients import gradients_of
from headrecon.ops.reference.texture import pyramid_reference, texture_reference

Wrap = Literal["clamp", "repeat"]
#: HR_MAX_LEVELS in texture.h.
_MAX_LEVELS = 16


@dataclass(frozen=True)
class TexturePyramid:
    """T textures with their halved versions: the levels one after the other, the finest first, each row by row."""

    texels: Float[Tensor, "T N D"]
    height: int
    width: int
    levels: int

    def level(self, k: int) -> Float[Tensor, "T h w D"]:
        """Level k as pictures of height >> k by width >> k."""
        begin = sum((self.height >> i) * (self.width >> i) for i in range(k))
        height, width = self.height >> k, self.width >> k
        return self.texels[:, begin : begin + height * width].reshape(-1, height, width, self.texels.shape[2])


def texture_pyramid(texture: Float[Tensor, "*T H W D"], smallest_side: int = 1) -> TexturePyramid:
    """The pyramid of one texture [H,W,D] or of several [T,H,W,D]: each level is the mean of 2 x 2 texels of the last.

    Halving stops where a side is odd (texels would shift against the UVs) or would fall below smallest_side: islands of
    a UV layout mix across their borders in small levels. Differentiable. float32.
    Method: Williams, "Pyramidal Parametrics", SIGGRAPH 1983.
    """
    if texture.ndim not in (3, 4) or 0 in texture.shape[-3:] or texture.dtype != torch.float32:
        raise ShapeError(
            "texture_pyramid: texture must be float32 [H,W,D] or [T,H,W,D] with H, W, D > 0, "
            f"found {texture.dtype} {tuple(texture.shape)}"
        )
    batch = texture if texture.ndim == 4 else texture[None]
    height, width = batch.shape[1:3]
    levels = 1
    while levels < _MAX_LEVELS and _halves(height >> (levels - 1), width >> (levels - 1), smallest_side):
        levels += 1
    return TexturePyramid(_pyramid(batch, levels), height, width, levels)


def _halves(height: int, width: int, smallest_side: int) -> bool:
    return height % 2 == 0 and width % 2 == 0 and min(height, width) // 2 >= max(smallest_side, 1)


def sample_texture(
    texture: Float[Tensor, "*T H W D"] | TexturePyramid,
    uvs: Float[Tensor, "*P 2"],
    wrap: Wrap = "clamp",
    *,
    slopes: Float[Tensor, "*P 2 2"] | None = None,
    face_index: Int[Tensor, "*P"] | None = None,
) -> Float[Tensor, "*P D"]:
    """Colours of a texture at uvs (v up). wrap says what lies beyond 0..1: the border's colour or a repetition.

    texture: float32 [H,W,D]; or [T,H,W,D], one for each row of uvs [T,...,2]; or a `texture_pyramid` of either. slopes
    (`interpolate.screen_slopes` of the UVs) choose between its levels so that the longer side of a pixel spans one
    texel; without them the finest is used. face_index: pixels with -1 give 0 and no gradient.
    NaN reads the first texel. Differentiable in texture and uvs (piecewise, as bilinear interpolation is), not slopes.
    Raises ShapeError for wrong shapes or types; NativeMissing on a device without a built back end.
    """
    if not isinstance(texture, TexturePyramid):
        texture = _single_level(texture)
    if uvs.shape[-1:] != (2,) or uvs.dtype != torch.float32:
        raise ShapeError(f"sample_texture: uvs must be float32 [...,2], found {uvs.dtype} {tuple(uvs.shape)}")
    lead, count = uvs.shape[:-1], len(texture.texels)
    if count > 1 and (not lead or lead[0] != count):
        raise ShapeError(f"sample_texture: {count} textures need uvs [{count},...,2], found {tuple(uvs.shape)}")
    if slopes is not None and slopes.shape != (*lead, 2, 2):
        raise ShapeError(f"sample_texture: slopes must be {(*lead, 2, 2)}, found {tuple(slopes.shape)}")
    if face_index is not None and face_index.shape != lead:
        raise ShapeError(f"sample_texture: face_index must be {tuple(lead)}, found {tuple(face_index.shape)}")
    batch = count
    pixels = lead.numel() // batch
    values = _texture(
        texture.texels,
        uvs.reshape(batch, pixels, 2),
        None if slopes is None else slopes.detach().reshape(batch, pixels, 4),
        None if face_index is None else face_index.reshape(batch, pixels).to(torch.int32),
        texture.height,
        texture.width,
        texture.levels,
        wrap,
    )
    return values.reshape(*lead, values.shape[-1])


def _single_level(texture: Tensor) -> TexturePyramid:
    if texture.ndim not in (3, 4) or 0 in texture.shape or texture.dtype != torch.float32:
        raise ShapeError(
            "sample_texture: texture must be float32 [H,W,D] or [T,H,W,D] with T, H, W, D > 0, "
            f"found {texture.dtype} {tuple(texture.shape)}"
        )
    height, width, channels = texture.shape[-3:]
    return TexturePyramid(texture.reshape(-1, height * width, channels), height, width, 1)


def _pyramid_kernel(texture: Tensor, levels: int) -> Tensor:
    if _native.use_reference(texture):
        return pyramid_reference(texture, levels)
    count, height, width, channels = texture.shape
    texels = texture.new_empty(count, _texels(height, width, levels), channels)
    texels[:, : height * width] = texture.reshape(count, height * width, channels)
    _native_calls.pyramid(texels, (height, width), levels)
    return texels


def _texels(height: Any, width: Any, levels: int) -> Any:
    """Of all levels together. Sizes are symbols while torch traces a graph."""
    return sum((height >> k) * (width >> k) for k in range(levels))


def _pyramid_fake(texture: Tensor, levels: int) -> Tensor:
    count, height, width, channels = texture.shape
    return texture.new_empty(count, _texels(height, width, levels), channels)


def _pyramid_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.size, ctx.levels = inputs[0].shape[1:3], inputs[1]


def _pyramid_grad(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _pyramid_backward(grad, *ctx.size, ctx.levels), None


def _pyramid_backward_kernel(grad: Tensor, height: int, width: int, levels: int) -> Tensor:
    count, _, channels = grad.shape
    if _native.use_reference(grad):
        return _fold_reference(grad, height, width, levels)
    folded = grad.clone(memory_format=torch.contiguous_format)
    _native_calls.pyramid(folded, (height, width), levels, backward=True)
    return folded[:, : height * width].reshape(count, height, width, channels).contiguous()


def _fold_reference(grad: Tensor, height: int, width: int, levels: int) -> Tensor:
    """The adjoint of averaging: a texel of the next level gives a quarter of its gradient to each of its four."""
    pyramid = TexturePyramid(grad, height, width, levels)
    total = pyramid.level(levels - 1)
    for k in reversed(range(levels - 1)):
        total = pyramid.level(k) + 0.25 * total.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return total.clone()


def _pyramid_backward_fake(grad: Tensor, height: Any, width: Any, levels: int) -> Tensor:  # symbols, as in _texels
    return grad.new_empty(grad.shape[0], height, width, grad.shape[2])


def _texture_kernel(
    texels: Tensor,
    uvs: Tensor,
    slopes: Tensor | None,
    face_index: Tensor | None,
    height: int,
    width: int,
    levels: int,
    wrap: str,
) -> Tensor:
    lookups = (uvs.contiguous(), _contiguous(slopes), _contiguous(face_index))
    run = texture_reference if _native.use_reference(texels) else _native_calls.texture
    return run(texels.contiguous(), lookups, (height, width), levels, wrap)


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _texture_fake(texels: Tensor, uvs: Tensor, *args: object) -> Tensor:
    return texels.new_empty(*uvs.shape[:2], texels.shape[2])


def _texture_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.shape = inputs[4:]


def _texture_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    texels, uvs, slopes, face_index = ctx.saved_tensors
    needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
    if _native.use_reference(texels):
        height, width, levels, wrap = ctx.shape

        def twin(texels: Tensor, uvs: Tensor) -> Tensor:
            return texture_reference(texels, (uvs, slopes, face_index), (height, width), levels, wrap)

        found = gradients_of(twin, (texels, uvs), needs, (grad,))
    else:
        found = _texture_backward(texels, uvs, slopes, face_index, *ctx.shape, grad, *needs)
        found = [g if need else None for g, need in zip(found, needs, strict=True)]
    return (*found, None, None, None, None, None, None)


def _texture_backward_kernel(  # noqa: PLR0913 - an operator's schema is flat
    texels: Tensor,
    uvs: Tensor,
    slopes: Tensor | None,
    face_index: Tensor | None,
    height: int,
    width: int,
    levels: int,
    wrap: str,
    grad: Tensor,
    need_texels: bool,
    need_uvs: bool,
) -> tuple[Tensor, Tensor]:
    lookups = (uvs.contiguous(), _contiguous(slopes), _contiguous(face_index))
    shape, needs = (height, width, levels, wrap), (need_texels, need_uvs)
    found = _native_calls.texture_backward(texels.contiguous(), lookups, shape, grad.contiguous(), needs)
    grad_texels, grad_uvs = (uvs.new_empty(0) if g is None else g for g in found)
    return grad_texels, grad_uvs


def _texture_backward_fake(texels: Tensor, uvs: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    need_texels, need_uvs = args[-2:]
    return (
        torch.empty_like(texels) if need_texels else uvs.new_empty(0),
        torch.empty_like(uvs) if need_uvs else uvs.new_empty(0),
    )


_LOOKUP = (
    "Tensor texels, Tensor uvs, Tensor? slopes, Tensor? face_index, "
    "SymInt height, SymInt width, SymInt levels, str wrap"
)
_pyramid = register_op(
    "pyramid",
    "(Tensor texture, SymInt levels) -> Tensor",
    _pyramid_kernel,
    _pyramid_fake,
    _pyramid_grad,
    _pyramid_setup,
)
_pyramid_backward = register_op(
    "pyramid_backward",
    "(Tensor grad, SymInt height, SymInt width, SymInt levels) -> Tensor",
    _pyramid_backward_kernel,
    _pyramid_backward_fake,
)
_texture = register_op(
    "texture", f"({_LOOKUP}) -> Tensor", _texture_kernel, _texture_fake, _texture_grad, _texture_setup
)
_texture_backward = register_op(
    "texture_backward",
    f"({_LOOKUP}, Tensor grad, bool need_texels, bool need_uvs) -> (Tensor, Tensor)",
    _texture_backward_kernel,
    _texture_backward_fake,
)
