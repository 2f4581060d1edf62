# SPDX-License-Identifier: Apache-2.0
"""Handles: how an array over a segment travels between processes as about a hundred bytes.

A handle holds no pin: the segment may have gone when it arrives, and then `attach` raises what `get`
does. Keep the array where it came from, or `hold` its ref, while handles are on their way.
"""

from __future__ import annotations

import copyreg
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from forebay import _frameworks, _stores
from forebay._forebay import Ref, handle_of


def attach(
    text: str,
    dtype: str | None = None,
    offset: int = 0,
    shape: tuple[int, ...] = (),
    strides: tuple[int, ...] | None = None,
    address: str | None = None,
) -> Any:
    """Return the read-only array that a handle stands for, without a copy.

    `text` is a ref's. With `dtype`, the array is one of that `shape` that begins `offset` bytes into
    the segment; without, the segment's whole value. Raises what `Store.get` raises, WrongStore when
    the daemon has another store by now, and TypeMismatch when the segment does not hold that array.
    """
    ref = Ref(text)
    if dtype is None and address is None:
        return _stores.get(ref)
    store = _stores.find(ref.store, ref.namespace, address)
    if dtype is None:
        return store.get(ref)
    return store._array_at(ref, dtype, offset, shape, strides)  # noqa: SLF001


Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def reduce_to_handle(array: np.ndarray) -> Reduced | None:
    """Return what pickle makes of an array that lies in a segment; None for any other."""
    handle = handle_of(array)
    if handle is None:
        return None
    address = _stores.elsewhere(handle[0])
    if address is None:
        return attach, handle
    return attach, (*handle, *(None, 0, (), None)[len(handle) - 1 :], address)


class _AsEver:
    """Stands for an array that is pickled as NumPy does it, which depends on the protocol.

    What is registered with copyreg is not told the protocol; an object's own __reduce_ex__ is.
    """

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.array.__reduce_ex__(protocol)


def reduce(array: np.ndarray) -> Reduced | None:
    """The same, also of a read-only view of a marked array, which is put into the store now."""
    from forebay import _shared

    return reduce_to_handle(array) or _shared.reduce_marked(array)


def _reduce(array: np.ndarray) -> Any:
    reduced = reduce(array)
    if reduced is not None:
        return reduced
    if array.dtype.hasobject:
        # It may contain itself, which only the order of NumPy's own steps allows.
        return array.__reduce__()
    # Nothing but the standard library, for whoever unpickles it may know nothing of Forebay.
    return operator.getitem, ((_AsEver(array),), 0)


_installed = False
# Whether a flagged function of this process has asked for it. Looked up in this module, which functions that
# are pickled by value do not take along.
asked = False


def install_once() -> None:
    global asked
    asked = True
    install()


def install() -> None:
    """From now on, arrays that lie in a segment are pickled as handles in this process.

    So are their slices, transposes and broadcasts. What is computed from them, and all other arrays, are
    unpickled as ever, also where there is no Forebay (their pickles have some thirty bytes more). This goes for everything that uses pickle: multiprocessing, concurrent.futures,
    joblib, Dask, Ray, Parsl, ... Where it is unpickled, `forebay` must be importable and the same
    daemon reachable. May be called again, for instance after a framework was imported.
    """
    global _installed
    if not _installed:
        copyreg.pickle(np.ndarray, _reduce)  # type: ignore[arg-type]
        _installed = True
    _frameworks.install()


def uninstall() -> None:
    """Undo `install`."""
    global _installed
    if _installed:
        copyreg.dispatch_table.pop(np.ndarray, None)
        _installed = False
    _frameworks.uninstall()
