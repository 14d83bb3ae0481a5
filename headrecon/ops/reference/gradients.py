"""Gradients of the twins, for machines without the native library: autograd through plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def gradients_of(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """Gradients of the inputs that are needed, given those of the outputs (None stands for zero)."""
    with torch.enable_grad():
        fresh = [x.detach().requires_grad_(need) for x, need in zip(inputs, needs, strict=True)]
        outputs = function(*fresh)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        pairs = [(y, g) for y, g in zip(outputs, grads, strict=True) if g is not None and y.requires_grad]
        wanted = [x for x, need in zip(fresh, needs, strict=True) if need]
        if not pairs or not wanted:
            found = iter([torch.zeros_like(x) for x in wanted])
        else:
            found = iter(
                torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs], materialize_grads=True)
            )
    return [next(found) if need else None for need in needs]
