"""What training an avatar will take, said and checked before it begins."""

from __future__ import annotations

import os
from dataclasses import dataclass

from headrecon.avatars.footage import Footage
from headrecon.errors import InputError

#: Bytes for each Gaussian (values, gradients and two moments of about 165 numbers, and what a step keeps of them), for
#: each pixel of a picture, and for the program. An estimate: for a default run it says 1.2 GB, and 1.09 were measured
#: on a CPU.
_PER_GAUSSIAN, _PER_PIXEL, _BASE = 6_000, 600, 900 << 20


@dataclass(frozen=True)
class AvatarPlan:
    """Frames to choose from, pixels along a side, at most so many Gaussians, steps, device, and bytes of memory."""

    frames: int
    size: int
    gaussians: int
    iterations: int
    device: str
    bytes: int

    def sentence(self) -> str:
        """The plan in one line."""
        return (
            f"{self.frames} frames of {self.size} x {self.size}, up to {self.gaussians} Gaussians, "
            f"{self.iterations} steps on {self.device}, about {self.bytes / 2**30:.1f} GB of memory"
        )


def plan_avatar(footage: Footage, gaussians: int, iterations: int, device: str) -> AvatarPlan:
    """What will be needed."""
    width, height = footage.size
    needed = _BASE + _PER_GAUSSIAN * gaussians + _PER_PIXEL * width * height
    return AvatarPlan(int(footage.usable.sum()), width, gaussians, iterations, device, needed)


def check_room(plan: AvatarPlan, free: int | None = None) -> None:
    """Raise InputError when memory will not do. free: bytes; None asks the system."""
    free = free_memory(plan.device) if free is None else free
    if free is not None and plan.bytes > free:
        raise InputError(
            f"training needs about {plan.bytes / 2**30:.1f} GB of memory on {plan.device}, {free / 2**30:.1f} GB are "
            "free; use fewer Gaussians (--set train.gaussians=15000), smaller pictures (--set footage.size=256), or "
            "close other programs"
        )


def free_memory(device: str) -> int | None:
    """Bytes that are free on a device; None where the system does not tell."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as stream:
            lines = dict(line.split(":", 1) for line in stream)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
