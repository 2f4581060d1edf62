# SPDX-License-Identifier: Apache-2.0
"""Python values as parts of a segment, and back: pickle protocol 5 with out-of-band buffers.

The first part is the pickle; the others are the buffers that it refers to, in order. The extension
calls `dump` and `load`, and lays the parts out.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np

from forebay.errors import Unstorable

# A buffer, or an array that is copied to where it goes.
Part = Union[memoryview, np.ndarray]

# From here on, small buffers stay in the pickle: each part costs its reader a fraction of a microsecond.
_MANY_PARTS = 2**16
_SMALL_BYTES = 4096

# What picklers say "no" with. Anything else comes from a class's own code, or from a signal handler.
_CANNOT = (pickle.PicklingError, TypeError, AttributeError, NotImplementedError, ValueError)


def dump(value: object) -> list[Part]:
    """Take a value apart. Raises Unstorable, naming the type, for what cannot be."""
    try:
        head, parts = _dump_with(_Pickler, value)
        # What pickle only names, another process would look for in a __main__ of its own.
        first: list[Part] = [memoryview(head), *parts]
        if b"__main__" not in head:
            return first
        failure = None
    except Unstorable:
        raise
    except _CANNOT as error:
        failure = error
    cloud_pickler = _cloud_pickler()
    if cloud_pickler is None:
        if failure is None:
            return first
        raise _unstorable(value, failure, "; with the package cloudpickle more can be") from failure
    try:
        head, parts = _dump_with(cloud_pickler, value)
    except Unstorable:
        raise
    except _CANNOT as error:
        if failure is None:
            return first
        raise _unstorable(value, error, "") from error
    return [memoryview(head), *parts]


def load(parts: Sequence[memoryview]) -> Any:
    """Put together what `dump` has taken apart; the result refers to the parts."""
    return pickle.loads(parts[0], buffers=parts[1:])


def _unstorable(value: object, error: Exception, hint: str) -> Unstorable:
    kind = type(value)
    return Unstorable(
        f"a {kind.__module__}.{kind.__qualname__} cannot be stored, for it cannot be pickled: "
        f"{error}{hint}"
    )


def _dump_with(pickler: type[Any], value: object) -> tuple[bytes, list[Part]]:
    file = io.BytesIO()
    made = pickler(file)
    made.dump(value)
    return file.getvalue(), made.parts


class _Parts:
    """What both picklers below do alike: keep buffers out of the pickle, and know NumPy's classes."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._take)  # type: ignore[call-arg]
        self.parts: list[Part] = []
        # By the id of the placeholder's PickleBuffer, which the pickler's memo keeps alive.
        self._strided: dict[int, np.ndarray] = {}

    def _take(self, buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        strided = self._strided.pop(id(buffer), None)
        if strided is not None:
            self.parts.append(strided)
            return False
        if raw.nbytes < _SMALL_BYTES and len(self.parts) >= _MANY_PARTS:
            return True
        self.parts.append(raw)
        return False

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            reduced = self._reduce_array(value)
        else:
            reduced = _reduce_other(value)
        if reduced is not NotImplemented:
            return reduced
        override = getattr(super(), "reducer_override", None)
        return NotImplemented if override is None else override(value)

    def _reduce_array(self, array: np.ndarray) -> Any:
        kind = type(array)
        if kind is np.ma.MaskedArray:
            masked: Any = array
            return _masked_array, (
                masked.data,
                masked.mask,
                masked._fill_value,  # noqa: SLF001 - None, unless somebody chose one
                masked.hardmask,
            )
        if not is_plain(array.dtype):
            return NotImplemented
        # A shared array's own pickle is its handle: here it is the elements that are wanted.
        if kind is np.ndarray or kind is np.memmap or kind.__dict__.get("is_handle_of_segment"):
            return _array, (self._buffer_of(array), array.dtype, array.shape, _order_of(array))
        if not _reduces_as_ndarray(kind):
            return NotImplemented  # it knows itself what it is made of
        slots = [name for base in kind.__mro__ for name in _slots_of(base)]
        if slots:
            raise Unstorable(
                f"{kind.__module__}.{kind.__qualname__} is a subclass of numpy.ndarray with "
                f"attributes in slots ({', '.join(slots)}), which would be lost; give it a "
                "__reduce__, or pass numpy.asarray(array)"
            )
        state = dict(vars(array)) if hasattr(array, "__dict__") else {}
        return _subclass, (kind, array.view(np.ndarray), array.dtype.type is np.record, state)

    def _buffer_of(self, array: np.ndarray) -> pickle.PickleBuffer:
        """Return the elements in the order of `_order_of`, as a buffer of bytes."""
        if array.size == 0:
            return pickle.PickleBuffer(b"")
        if array.flags.c_contiguous or array.flags.f_contiguous:
            # Some dtypes (dates, half of the structured ones) export no buffer of their own.
            flat: Any = array.reshape(-1, order="A") if array.ndim else array.reshape(1)
            return pickle.PickleBuffer(flat.view(np.ndarray).view(np.uint8))
        # Copied once, to where it goes. The placeholder is memory that nobody touches.
        placeholder: Any = np.empty(array.nbytes, np.uint8)
        buffer = pickle.PickleBuffer(placeholder)
        self._strided[id(buffer)] = array.view(np.ndarray)
        return buffer


class _Pickler(_Parts, pickle.Pickler):
    pass


_cloud: type[Any] | None = None


def _cloud_pickler() -> type[Any] | None:
    global _cloud
    if _cloud is None:
        try:
            import cloudpickle  # type: ignore[import-untyped]
        except ImportError:
            return None

        class _CloudPickler(_Parts, cloudpickle.Pickler):
            pass

        _cloud = _CloudPickler
    return _cloud


# --- what arrays are made of


def is_plain(dtype: np.dtype) -> bool:
    return (
        not dtype.hasobject
        and dtype.isbuiltin != 2
        and dtype.kind in "biufcSUVmM"
        and dtype.itemsize > 0
    )


def _order_of(array: np.ndarray) -> str:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"


def _reduces_as_ndarray(kind: type) -> bool:
    return (
        kind.__reduce__ is np.ndarray.__reduce__
        and kind.__reduce_ex__ is np.ndarray.__reduce_ex__
        and kind.__setstate__ is np.ndarray.__setstate__  # type: ignore[attr-defined]
    )


def _slots_of(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if name not in ("__dict__", "__weakref__")]


def _array(buffer: Any, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    if len(memoryview(buffer)) == 0:
        empty = np.empty(shape, dtype, order)  # type: ignore[call-overload]
        empty.flags.writeable = False
        return empty
    # Not ndarray(buffer=...): that holds the segment's memory without its pin.
    return np.frombuffer(buffer, np.uint8).view(dtype).reshape(shape, order=order)  # type: ignore[call-overload]


def _subclass(kind: type, array: np.ndarray, records: bool, state: dict[str, Any]) -> np.ndarray:
    if records:
        array = array.view(np.dtype((np.record, array.dtype)))
    made: Any = array.view(kind)
    if state:
        vars(made).update(state)
    return made


def _masked_array(
    data: np.ndarray, mask: np.ndarray, fill_value: Any, hard_mask: bool
) -> np.ma.MaskedArray:
    made = np.ma.MaskedArray(data, mask=mask, copy=False, hard_mask=hard_mask)
    if fill_value is not None:
        made.fill_value = fill_value
    return made


# --- others


def _reduce_other(value: Any) -> Any:
    kind = type(value)
    reduce = _reducers.get(kind)
    if reduce is None:
        reduce = _find_reducer(kind)
    return reduce(value)


_Reducer = Callable[[Any], Any]


def _leave(value: Any) -> Any:
    return NotImplemented


_reducers: dict[type, _Reducer] = {}


def _find_reducer(kind: type) -> _Reducer:
    """Look once per class which of the interfaces for sharing data it has."""
    reduce = _leave
    if kind in copyreg.dispatch_table:
        pass
    elif _is_torch_tensor(kind):
        reduce = _reduce_tensor
    elif hasattr(kind, "__arrow_c_stream__") and _from_arrow_of(kind) is not None:
        reduce = _reduce_table
    elif hasattr(kind, "__dlpack__") and hasattr(kind, "__array_namespace__"):
        reduce = _reduce_dlpack
    if isinstance(kind, type) and len(_reducers) < 10_000:
        _reducers[kind] = reduce
    return reduce


def _root_of(kind: type) -> str:
    return kind.__module__.partition(".")[0]


# Tables of Arrow. pyarrow's own pickle out-of-band, buffer by buffer, and so come back without a copy,
# each buffer on 64 bytes; Arrow's IPC stream aligns to 8 only. What speaks Arrow otherwise (Polars,
# DuckDB, ...) goes through pyarrow by the PyCapsule interface, again without a copy. A pandas frame has
# that interface, too, but its own pickle keeps index and dtypes, and shares its blocks as they are.


def _from_arrow_of(kind: type) -> str | None:
    """Name the function of `kind`'s package that makes one from a pyarrow table."""
    root = _root_of(kind)
    if root in ("pyarrow", "pandas") or "pyarrow" not in sys.modules and not _can_import("pyarrow"):
        return None
    if hasattr(kind, "from_arrow"):
        return f"{kind.__qualname__}.from_arrow"
    return "from_arrow" if hasattr(sys.modules.get(root), "from_arrow") else None


def _can_import(name: str) -> bool:
    try:
        __import__(name)
    except ImportError:
        return False
    return True


def _reduce_table(value: Any) -> Any:
    import pyarrow  # type: ignore[import-untyped]

    kind = type(value)
    path = _from_arrow_of(kind) or ""
    module = kind.__module__ if hasattr(kind, "from_arrow") else _root_of(kind)
    try:
        table = pyarrow.table(value)
        again = _table(module, path, table)
    except Exception:  # noqa: BLE001 - no table, or one that Arrow has no words for: as it pickles
        return NotImplemented
    # Both directions share the data; what would come back as something else goes by its own pickle.
    if type(again) is not kind or getattr(again, "schema", None) != getattr(value, "schema", None):
        return NotImplemented
    return _table, (module, path, table)


def _table(module: str, path: str, table: Any) -> Any:
    made: Any = sys.modules.get(module) or __import__(module, fromlist=["*"])
    for name in path.split("."):
        made = getattr(made, name)
    return made(table)


def _is_torch_tensor(kind: type) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and kind in (torch.Tensor, torch.nn.Parameter)


def _reduce_tensor(value: Any) -> Any:
    import torch  # type: ignore[import-not-found]

    if (
        value.device.type != "cpu"
        or value.layout is not torch.strided
        or value.is_quantized
        or value.is_conj()
        or value.is_neg()
    ):
        return NotImplemented
    # Not every element type of torch's is one of NumPy's: their bytes are.
    plain = value.detach().contiguous()
    elements = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else np.empty(0, "u1")
    parameter = isinstance(value, torch.nn.Parameter)
    return _tensor, (elements, plain.dtype, tuple(plain.shape), parameter, value.requires_grad)


def _tensor(
    elements: np.ndarray, dtype: Any, shape: tuple[int, ...], parameter: bool, grad: bool
) -> Any:
    import warnings

    import torch

    with warnings.catch_warnings():
        # torch has no read-only tensors. A write to this one is a fault.
        warnings.filterwarnings("ignore", message=".*not writable.*")
        flat = torch.from_numpy(elements)
    made = flat.view(dtype).reshape(shape) if elements.size else torch.empty(shape, dtype=dtype)
    if parameter:
        return torch.nn.Parameter(made, requires_grad=grad)
    return made.requires_grad_() if grad else made


def _reduce_dlpack(value: Any) -> Any:
    namespace = value.__array_namespace__()
    if not hasattr(namespace, "from_dlpack") or value.__dlpack_device__()[0] != 1:  # not on the CPU
        return NotImplemented
    try:
        array = np.from_dlpack(value)
    except (BufferError, TypeError, RuntimeError):
        return NotImplemented
    return _dlpack, (namespace.__name__, array)


def _dlpack(namespace: str, array: np.ndarray) -> Any:
    module = __import__(namespace, fromlist=["from_dlpack"])
    try:
        return module.from_dlpack(array)
    except (BufferError, TypeError):
        # It takes no read-only memory, or NumPy (before 2.1) gives none: then a copy of the reader's own.
        return module.from_dlpack(array.copy())
