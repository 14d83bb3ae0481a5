"""Makes a torch operator out of plain functions.

`torch.library.custom_op` does the same and more, but its first call imports torch's compiler: one to two seconds that a
user of the command line would wait for (measured with torch 2.13). The lower-level calls used here do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


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
    torch.library.impl(qualified, ("cpu", "cuda"), kernel)

    def no_gradient(ctx: Any, *grads: object) -> Any:
        raise RuntimeError(f"{qualified} is not differentiable yet: detach its inputs, or its outputs, from autograd")

    torch.library.register_fake(qualified, fake)
    torch.library.register_autograd(qualified, backward or no_gradient, setup_context=setup_context)
    return getattr(torch.ops.headrecon, name)
