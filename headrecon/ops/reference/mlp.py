"""Plain-torch twin of the small fully connected network, any float type, differentiable by autograd."""

from __future__ import annotations

import torch
from torch import Tensor

from headrecon.ops.field_specs import Activation, MlpSpec


def fused_mlp_reference(inputs: Tensor, weights: Tensor, biases: Tensor | None, spec: MlpSpec) -> Tensor:
    """[N,O] of inputs [N,I], flat weights and flat biases or None."""
    matrices = spec.matrices(weights)
    added = [None] * len(matrices) if biases is None else spec.bias_vectors(biases)
    x = inputs
    for k, (matrix, bias) in enumerate(zip(matrices, added, strict=True)):
        z = torch.nn.functional.linear(x, matrix, bias)
        x = _activate(z, spec.activation if k + 1 < len(matrices) else spec.output_activation, spec.softplus_beta)
    return x


def _activate(z: Tensor, kind: Activation, beta: float) -> Tensor:
    if kind == "relu":
        return torch.relu(z)
    if kind == "softplus":  # torch's own switches to a straight line at a threshold, or overflows without one
        return torch.logaddexp(beta * z, torch.zeros_like(z)) / beta
    if kind == "sigmoid":
        return torch.sigmoid(z)
    return torch.exp(z) if kind == "exp" else z
