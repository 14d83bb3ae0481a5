"""Code that is the same for numpy arrays and torch tensors, and that leaves torch alone when it gets numpy.

Importing torch costs more than a whole draft. What needs neither gradients nor a GPU is written with operators and
names that both libraries share (numpy 2 and torch spell most of them alike), and so does without.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: A numpy array or a torch tensor; in annotations, where a function or a structure takes both.
Array = Any


def namespace(array: Array) -> Any:
    """The module with the functions for an array: `numpy`, or `torch` for tensors."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    import torch

    return torch
