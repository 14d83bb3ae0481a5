"""Work on many texels in pieces that fit the processor's cache, on all cores.

torch splits one operation at a time over its threads, and the operations on a piece are too short for that: it costs as
much as it saves. So each piece stays on one thread, and the threads take pieces in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

CHUNK = 1 << 16
T = TypeVar("T")


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Within the block torch works on the threads that call it; gives, and afterwards restores, the count before.

    The count is of the calling thread and of those that first use torch within the block.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # noqa: TID251 - put back below
    try:
        yield before
    finally:
        torch.set_num_threads(before)  # noqa: TID251


def map_chunks(work: Callable[[Int[Tensor, " m"]], T], rows: Int[Tensor, " M"], threads: int) -> list[T]:
    """`work` of each piece of the rows, in their order, on up to `threads` threads. Call it in `one_torch_thread`.

    The pieces do not depend on the number of threads, so neither do the results. What `work` raises is raised.
    """
    pieces = rows.split(CHUNK) if len(rows) else ()
    if threads < 2 or len(pieces) < 2:
        return [work(piece) for piece in pieces]
    with ThreadPoolExecutor(min(threads, len(pieces)), "texels") as pool:
        return list(pool.map(torch.no_grad()(work), pieces))  # gradients are switched off for each thread by itself
