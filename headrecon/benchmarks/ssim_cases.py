"""Structural similarity of two pictures, forward and backward to one of them."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from headrecon.benchmarks.cases import Case, Peer, Prepared, Work, peer
from headrecon.ops.reference.ssim import ssim_reference
from headrecon.ops.ssim import ssim_map


@lru_cache(maxsize=2)
def _pictures(device: str, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, side, side, 3, generator=generator)
    reference = (0.7 * image + 0.3 * torch.rand(1, side, side, 3, generator=generator)).to(device)
    return image.to(device).requires_grad_(), reference


def _torchmetrics(module: Any, image: Tensor, reference: Tensor) -> Work:
    first, second = image.permute(0, 3, 1, 2), reference.permute(0, 3, 1, 2)
    return lambda: module.structural_similarity_index_measure(first, second, data_range=1.0)


def _fused_ssim(module: Any, image: Tensor, reference: Tensor) -> Work:
    first, second = (t.permute(0, 3, 1, 2).contiguous() for t in (image, reference))
    return lambda: module.fused_ssim(first, second)


def _forward(device: str, side: int) -> Prepared:
    image, reference = _pictures(device, side)
    fixed = image.detach()
    peers = [
        Peer("torch: conv2d", lambda: ssim_reference(fixed, reference, False, 1.0)),
        peer("torchmetrics", "torchmetrics.functional.image", partial(_torchmetrics, image=fixed, reference=reference)),
    ]
    if device == "cuda":
        source = "built from source: github.com/rahul-goel/fused-ssim"
        peers.append(peer("fused-ssim", "fused_ssim", partial(_fused_ssim, image=fixed, reference=reference), source))
    return Prepared(lambda: ssim_map(fixed, reference), tuple(peers))


def _both_ways(device: str, side: int) -> Prepared:
    image, reference = _pictures(device, side)

    def gradient(found: Tensor) -> Any:
        return torch.autograd.grad(found.mean(), image)

    peers = (Peer("torch: conv2d", lambda: gradient(ssim_reference(image, reference, False, 1.0))),)
    return Prepared(lambda: gradient(ssim_map(image, reference)), peers)


CASES = (
    Case("ssim_map", "64²", partial(_forward, side=64), small=True),
    Case("ssim_map forward + backward", "64²", partial(_both_ways, side=64), small=True),
    Case("ssim_map", "512²", partial(_forward, side=512)),
    Case("ssim_map forward + backward", "512²", partial(_both_ways, side=512)),
    Case("ssim_map", "1024²", partial(_forward, side=1024)),
    Case("ssim_map forward + backward", "1024²", partial(_both_ways, side=1024)),
)
