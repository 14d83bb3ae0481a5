"""Makes a torch operator out of plain functions.

`torch.library.custom_op` does the same and more, but its first call imports torch's compiler: one to two seconds that a
user of the command line would wait for (measured with torch 2.13). The lower-level calls used here do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headrecon.errors import ShapeError


def on_one_device(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel, after a look at where its tensors are: torch hands mixed ones over, and a GPU cannot read the others.

    Raises ShapeError when tensors that hold anything lie on more than one device.
    """

    def checked(*arguments: Any) -> Any:
        devices = {str(a.device) for a in arguments if isinstance(a, Tensor) and a.numel()}
        if len(devices) > 1:
            raise ShapeError(f"{name}: all tensors must be on one device, found {' and '.join(sorted(devices))}")
        return kernel(*arguments)

    return checked


def register_op(
    name: str,
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., None] | None = None,
) -> Callable[..., Any]:
    """Define `headrecon::<name>` and return its callable.

    kernel runs on CPU and CUDA tensors alike: `_native` picks the back end by the device and raises NativeMissing with
    the build command where it is not built. fake gives outputs of the right shape and type without data. Without
    `backward`, asking autograd for gradients raises.
    """
    qualified = f"headrecon::{name}"
    torch.library.define(qualified, schema)
    torch.library.impl(qualified, "cpu", kernel)
    torch.library.impl(qualified, "cuda", on_one_device(name, kernel))

    def no_gradient(ctx: Any, *grads: object) -> Any:
        raise RuntimeError(f"{qualified} is not differentiable yet: detach its inputs, or its outputs, from autograd")

    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward or no_gradient, setup_context=setup_context)
    return getattr(torch.ops.headrecon, name)
