"""Packs arrays into one glTF binary buffer with the accessors that describe them (glTF 2.0 specification, 3.6)."""

from __future__ import annotations

from typing import Any

import numpy as np

_COMPONENT = {np.dtype("uint8"): 5121, np.dtype("uint16"): 5123, np.dtype("uint32"): 5125, np.dtype("float32"): 5126}
_SHAPE = {(): "SCALAR", (2,): "VEC2", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}

ARRAY_BUFFER = 34962
ELEMENT_ARRAY_BUFFER = 34963

#: A sparse accessor pays 2 to 4 bytes of index per entry; above this share of entries a plain one is smaller.
_SPARSE_LIMIT = 0.8


class GltfBuffer:
    """Grows a binary blob, the buffer views and the accessors; every start is aligned to 4 bytes."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self.views: list[Any] = []
        self.accessors: list[Any] = []
        self._zeros: dict[int, int] = {}  # one accessor of zeros per length, shared by every target at rest

    def view(self, data: bytes, target: int | None = None) -> int:
        """Append raw bytes; the index of their buffer view."""
        from pygltflib import BufferView

        self.blob += b"\0" * (-len(self.blob) % 4)
        self.views.append(BufferView(buffer=0, byteOffset=len(self.blob), byteLength=len(data), target=target))
        self.blob += data
        return len(self.views) - 1

    def array(self, array: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """Append an array [N, ...]; the index of its accessor. `bounds` adds min and max."""
        view = self.view(np.ascontiguousarray(array).tobytes(), target)
        return self._accessor(array, bounds, bufferView=view, byteOffset=0)

    def deltas(self, delta: np.ndarray, tolerance: float) -> int:
        """Append [N,3] offsets, mostly zero, as a sparse accessor; rows shorter than `tolerance` become zero."""
        from pygltflib import AccessorSparseIndices, AccessorSparseValues, Sparse

        moved = np.linalg.norm(delta, axis=1) > tolerance
        kept = np.where(moved[:, None], delta, 0).astype(np.float32)
        if moved.sum() > _SPARSE_LIMIT * len(delta):
            return self.array(kept, ARRAY_BUFFER, bounds=True)
        if not moved.any():
            # Neither buffer view nor sparse part: the specification defines such an accessor as all zeros.
            if len(kept) not in self._zeros:
                self._zeros[len(kept)] = self._accessor(kept, bounds=True)
            return self._zeros[len(kept)]
        rows = np.flatnonzero(moved).astype(np.uint16 if len(delta) <= 65536 else np.uint32)
        sparse = Sparse(
            count=len(rows),
            indices=AccessorSparseIndices(
                bufferView=self.view(rows.tobytes()), byteOffset=0, componentType=_COMPONENT[rows.dtype]
            ),
            values=AccessorSparseValues(bufferView=self.view(kept[moved].tobytes()), byteOffset=0),
        )
        return self._accessor(kept, bounds=True, sparse=sparse)

    def _accessor(self, array: np.ndarray, bounds: bool, **fields: Any) -> int:
        from pygltflib import Accessor

        fields.setdefault("byteOffset", None)  # allowed only beside a buffer view
        if bounds:
            # One number per component: of scalars a list of one (glTF 2.0, section 5.1.6).
            fields["min"] = np.atleast_1d(array.min(axis=0)).astype(float).tolist()
            fields["max"] = np.atleast_1d(array.max(axis=0)).astype(float).tolist()
        self.accessors.append(
            Accessor(componentType=_COMPONENT[array.dtype], count=len(array), type=_SHAPE[array.shape[1:]], **fields)
        )
        return len(self.accessors) - 1
