"""Read the arrays of a FLAME-style model pickle without running anything from the file.

These pickles (FLAME 2017 to 2023, SMPL, MANO) are a dict of NumPy arrays, SciPy sparse matrices and chumpy objects,
often written by Python 2. The file is interpreted by `headrecon.models.pickle_machine`, which calls nothing; here its
records become arrays, by our own decoding of their documented state. Neither chumpy nor SciPy is needed, and NumPy's
own unpickling, which trusts the file with memory layouts, is never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from headrecon.errors import AssetError
from headrecon.models.pickle_machine import Name, PickleBroken, PickleRefused, Record, read_pickle

#: FLAME 2020 is 53 MB; text pickles of the same are about three times that.
MAX_FILE_BYTES = 256 << 20
#: All arrays together, once decoded (FLAME in float64: 55 MB).
MAX_ARRAY_BYTES = 1 << 30
_MAX_DEPTH = 8
_MAX_AXIS = 1 << 31

_SPARSE = {"csc_matrix", "csr_matrix", "coo_matrix", "csc_array", "csr_array", "coo_array"}
_CHUMPY = {("chumpy.ch", "Ch"), ("chumpy.reordering", "Select"), ("chumpy.reordering", "Reshape")}
_CHUMPY |= {("chumpy.reordering", "transpose"), ("ch", "Ch")}
_ARRAY_MAKERS = {
    *((module, "_reconstruct") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "scalar") for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}

#: Every global that may be named. None of them is imported or called; all are read as text.
ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {
        *_ARRAY_MAKERS,
        *_CHUMPY,
        *((f"scipy.sparse.{file}", name) for name in _SPARSE for file in (name[:3], f"_{name[:3]}")),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("collections", "OrderedDict"),
        ("_codecs", "encode"),  # how Python 3 writes bytes in protocol 2
        ("copy_reg", "_reconstructor"),  # how protocols 0 and 1 write objects
        ("copyreg", "_reconstructor"),
        ("__builtin__", "object"),
        ("builtins", "object"),
        ("__builtin__", "bytes"),  # no bytes at all, in protocols 0 to 2
        ("builtins", "bytes"),
        ("__builtin__", "set"),  # chumpy keeps sets in its state
        ("builtins", "set"),
    }
)


def load_model_pickle(
    path: str | Path, names: Iterable[str] | None = None, max_bytes: int = MAX_ARRAY_BYTES
) -> dict[str, Any]:
    """The arrays, numbers and texts of a model pickle by name; with `names`, only those of them that are present.

    Sparse matrices come back dense, chumpy objects as the array they hold. Entries of other kinds (lists, unknown
    objects) are left out. Raises AssetError when the file is missing, too large, not a pickle of a dict, malformed, or
    asks to run anything.
    """
    path = Path(path)
    tree = _read(path)
    if not isinstance(tree, dict):
        raise AssetError(f"{path}: expected a pickle of a dict of arrays (a FLAME model), found something else")
    decoder = _Decoder(path, max_bytes)
    wanted = None if names is None else set(names)
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(name, str) and (wanted is None or name in wanted):
            decoder.name = name
            if isinstance(value, Record):
                found[name] = decoder.array(value)
            elif value is None or isinstance(value, str | int | float):
                found[name] = value
    return found


def _read(path: Path) -> Any:
    if not path.is_file():
        raise AssetError(f"{path}: no such file; expected a model pickle (.pkl)")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise AssetError(f"{path}: {size:,} bytes, more than the {MAX_FILE_BYTES:,} allowed for a model pickle")
        data = path.read_bytes()
    except OSError as error:
        raise AssetError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    try:
        return read_pickle(data, ALLOWED)
    except PickleRefused as error:
        raise AssetError(
            f"{path}: the pickle asks to run {error.args[0]}; refused, since a model file holds only arrays"
        ) from error
    except PickleBroken as error:
        raise AssetError(f"{path}: not a pickle, or a damaged one ({error.args[0]})") from error


class _Decoder:
    """Turns records into arrays and keeps count of their bytes. `name` is the entry being read, for messages."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.left, self.name = path, max_bytes, ""

    def fail(self, what: str) -> AssetError:
        return AssetError(f"{self.path}: entry {self.name!r} {what}")

    def spend(self, shape: tuple[int, ...], itemsize: int) -> int:
        """How many elements `shape` has; raises when the arrays decoded so far would exceed the limit."""
        count = 1
        for n in shape:
            count *= n
        self.left -= count * itemsize
        if self.left < 0:
            raise self.fail(f"of shape {shape} exceeds the memory allowed for a model file")
        return count

    def array(self, value: Any, depth: int = 0) -> np.ndarray:
        """The array that a record stands for."""
        if depth > _MAX_DEPTH:
            raise self.fail("is nested too deeply")
        if not isinstance(value, Record):
            raise self.fail("is not an array")
        key = (value.target.module, value.target.name)
        if key in _CHUMPY:
            return self.chumpy(value, depth)
        if value.target.name in _SPARSE:
            return self.sparse(value, depth)
        if key in _ARRAY_MAKERS:
            return getattr(self, value.target.name.lstrip("_"))(value)
        raise self.fail(f"is not an array but a {value.target.module}.{value.target.name}")

    def reconstruct(self, value: Record) -> np.ndarray:
        """NumPy's array state: (version, shape, dtype, Fortran order, raw bytes)."""
        state = value.state
        if not value.args or value.args[0] != Name("numpy", "ndarray"):
            raise self.fail("is a subclass of an array; only plain arrays are read")
        if not isinstance(state, tuple) or len(state) != 5:
            raise self.fail("has no array state")
        return self.from_bytes(state[4], self.dtype(state[2]), state[1], bool(state[3]))

    def scalar(self, value: Record) -> np.ndarray:
        """A NumPy number: (dtype, raw bytes)."""
        if len(value.args) != 2:
            raise self.fail("is a malformed number")
        return self.from_bytes(value.args[1], self.dtype(value.args[0]), (), False)

    def frombuffer(self, value: Record) -> np.ndarray:
        """NumPy's form in pickle protocol 5: (raw bytes, dtype, shape, order)."""
        if len(value.args) != 4:
            raise self.fail("is a malformed array")
        raw, dtype, shape, order = value.args
        return self.from_bytes(raw, self.dtype(dtype), shape, order == "F")

    def from_bytes(self, raw: Any, dtype: np.dtype, shape: Any, fortran: bool) -> np.ndarray:
        if (
            not isinstance(shape, tuple)
            or len(shape) > 8
            or not all(type(n) is int and 0 <= n < _MAX_AXIS for n in shape)
        ):
            raise self.fail("has a malformed shape")
        data = self.raw(raw)
        count = self.spend(shape, dtype.itemsize)
        if len(data) != count * dtype.itemsize:
            raise self.fail(f"of shape {shape} needs {count * dtype.itemsize:,} bytes, found {len(data):,}")
        if count == 0:
            return np.empty(shape, dtype.newbyteorder("="))
        array = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
        return array.astype(dtype.newbyteorder("="))

    def raw(self, value: Any) -> bytes:
        """Raw bytes, however the pickle spells them: bytes, Python 2 text, or `_codecs.encode(text, 'latin1')`."""
        if isinstance(value, Record) and value.target == Name("_codecs", "encode") and value.args:
            value = value.args[0]
        elif isinstance(value, Record) and value.target.name == "bytes" and not value.args:
            return b""
        if isinstance(value, str):
            try:
                return value.encode("latin-1")
            except UnicodeEncodeError:
                raise self.fail("holds text where raw bytes must be") from None
        if not isinstance(value, bytes):
            raise self.fail("holds no raw bytes; arrays of objects are refused")
        return value

    def dtype(self, value: Any) -> np.dtype:
        """Plain numbers and booleans only, from the type's name and byte order."""
        plain = isinstance(value, Record) and value.target == Name("numpy", "dtype") and value.args
        code = value.args[0] if plain else None
        if not isinstance(code, str) or not re.fullmatch(r"f[248]|[iu][1248]|b1", code):
            raise self.fail(f"has elements of type {code!r:.20}; only plain numbers are read, never objects")
        state = value.state if isinstance(value.state, tuple) else (3, "|")
        order = state[1] if len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise self.fail("has a malformed element type")
        return np.dtype(code) if order in "|=" else np.dtype(order + code)

    def attributes(self, value: Record) -> dict[Any, Any]:
        if not isinstance(value.state, dict):
            raise self.fail(f"is a {value.target.name} without its attributes")
        return value.state

    def chumpy(self, value: Record, depth: int) -> np.ndarray:
        """The value of a chumpy object: a variable's `x`, or a reordering of another object's value."""
        own = self.attributes(value)
        kind = value.target.name
        if kind == "Ch":
            inner = own.get("x")
            return np.array(float(inner)) if isinstance(inner, int | float) else self.array(inner, depth + 1)
        source = self.array(own.get("a"), depth + 1)
        self.spend(source.shape, source.itemsize)
        try:
            if kind == "Select":
                chosen = source.ravel()[self.array(own.get("idxs"), depth + 1)]
                return chosen.reshape(self.sizes(own["preferred_shape"])) if "preferred_shape" in own else chosen
            if kind == "Reshape":
                return source.reshape(self.sizes(own.get("newshape")))
            axes = own.get("axes")
            return np.ascontiguousarray(source.transpose(None if axes is None else self.sizes(axes)))
        except (ValueError, IndexError, TypeError) as error:
            raise self.fail(f"is a malformed chumpy {kind} ({error})") from error

    def sizes(self, value: Any) -> tuple[int, ...]:
        values = (value,) if isinstance(value, int) else value
        if not isinstance(values, tuple | list) or len(values) > 8 or not all(type(n) is int for n in values):
            raise self.fail("has a malformed shape")
        return tuple(values)

    def sparse(self, value: Record, depth: int) -> np.ndarray:
        """A SciPy matrix as a dense array; entries that are stored twice add up, as in SciPy."""
        own = self.attributes(value)
        shape = self.sizes(own.get("_shape", own.get("shape")))
        if len(shape) != 2 or min(shape) < 0 or max(shape) >= _MAX_AXIS:
            raise self.fail("has a malformed shape")
        data = self.array(own.get("data"), depth + 1).ravel()
        if value.target.name.startswith("coo"):
            rows, columns = self.coordinates(own, depth)
        else:
            by_column = value.target.name.startswith("csc")
            minor, major = self.compressed(own, shape[1] if by_column else shape[0], len(data), depth)
            rows, columns = (minor, major) if by_column else (major, minor)
        for index, size in ((rows, shape[0]), (columns, shape[1])):
            if len(index) != len(data) or index.dtype.kind not in "iu":
                raise self.fail("has malformed indices")
            if len(index) and (int(index.min()) < 0 or int(index.max()) >= size):
                raise self.fail("has indices outside its shape")
        self.spend(shape, data.itemsize)
        dense = np.zeros(shape, data.dtype)
        np.add.at(dense, (rows, columns), data)
        return dense

    def coordinates(self, own: dict[Any, Any], depth: int) -> tuple[np.ndarray, np.ndarray]:
        pair = own.get("coords", (own.get("row"), own.get("col")))
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise self.fail("has malformed indices")
        return self.array(pair[0], depth + 1).ravel(), self.array(pair[1], depth + 1).ravel()

    def compressed(self, own: dict[Any, Any], major: int, stored: int, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Minor and major index of each stored value of a CSC or CSR matrix."""
        pointers = self.array(own.get("indptr"), depth + 1).ravel()
        if pointers.dtype.kind not in "iu" or len(pointers) != major + 1:
            raise self.fail("has malformed index pointers")
        steps = np.diff(pointers.astype(np.int64))
        if pointers[0] != 0 or pointers[-1] != stored or steps.min(initial=0) < 0:
            raise self.fail("has malformed index pointers")
        return self.array(own.get("indices"), depth + 1).ravel(), np.repeat(np.arange(major), steps)
