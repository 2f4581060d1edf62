# SPDX-License-Identifier: Apache-2.0
"""Arrays that travel as handles: those that somebody has shared, and those that a flag marks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np

from forebay import _scope, _stores
from forebay._forebay import Ref, Store, handle_of
from forebay._handles import Reduced, reduce_to_handle
from forebay._objects import is_plain
from forebay.errors import BadArgument, ForebayError, Unstorable


class SharedArray(np.ndarray):
    """A read-only array over a segment, which pickles as a handle, by itself, anywhere.

    Slices and transposes do so, too; what is computed from it is an ordinary array. Where it is
    unpickled, it is an ordinary read-only array over the same memory. A store that it is put into gets
    its elements.
    """

    is_handle_of_segment = True

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced = reduce_to_handle(self)
        if reduced is not None:
            return reduced
        return self.view(np.ndarray).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        if array is self:
            return array
        plain = array.view(np.ndarray)
        # NumPy before version 2 does not say whether a scalar is wanted.
        return plain[()] if return_scalar or plain.shape == () else plain

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        # What an index array picks is a copy, and no longer shared.
        return item.view(np.ndarray) if _is_alone(item) else item

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        made = super().__array_function__(func, types, args, kwargs)
        # sort, zeros_like and others make an array of this class, which shares nothing.
        return made.view(np.ndarray) if _is_alone(made) else made

    def copy(self, order: Any = "C") -> Any:
        return self.view(np.ndarray).copy(order)

    def astype(self, *arguments: Any, **options: Any) -> Any:
        made = self.view(np.ndarray).astype(*arguments, **options)
        return self if made.base is self else made

    def flatten(self, order: Any = "C") -> Any:
        return self.view(np.ndarray).flatten(order)

    def __copy__(self) -> Any:
        return self.view(np.ndarray).copy()

    def __deepcopy__(self, memo: Any) -> Any:
        return self.view(np.ndarray).copy()


def _is_alone(value: Any) -> bool:
    return type(value) is SharedArray and (value.base is None or handle_of(value) is None)


def share(
    array: np.ndarray,
    id: str | bytes | None = None,
    version: int | None = None,
    *,
    store: Store | None = None,
) -> SharedArray:
    """Return the array as one that pickles as a handle of about a hundred bytes.

    What `array` holds is copied into the store, once as long as it lives (unless it is there
    already); the result is a read-only view of that copy, which stays in memory while `array`, the
    result, or any array made of the handle lives. Afterwards it may be dropped when room is wanted, and
    it is removed when the current `scope` ends, or this process.

    With `id`, it is an ordinary segment with that name, which stays until it is removed; a `version`
    that is there with equal bytes is fine. `store`: where; None means what `connect()` finds. Raises
    what `Store.put` raises; Unstorable for what is no array of plain elements.
    """
    kind = type(array)
    if kind not in (np.ndarray, np.memmap, SharedArray) or not is_plain(array.dtype):
        raise Unstorable(
            f"share takes a numpy.ndarray of plain elements, not a {kind.__module__}."
            f"{kind.__qualname__}{'' if kind is not np.ndarray else f' of {array.dtype}'}; put any "
            "other object with Store.put, and pass on its Ref"
        )
    if id is None:
        if version is not None:
            raise BadArgument("a version without an id: say which segment it is one of")
        if handle_of(array) is not None:
            return array.view(SharedArray)
        return _marks.share(array, store)
    there = store if store is not None else _stores.default()
    ref = there.put(id, np.asarray(array), version=version, exist_ok=version is not None)
    return there.get(ref).view(SharedArray)


def mark(array: np.ndarray) -> np.ndarray:
    """Return a read-only view of an array which is put into the store when it is first pickled.

    Needs `install`. Until then nothing is copied, and no store needed.
    """
    _marks.note(array)
    view = array.view()
    view.flags.writeable = False
    return view


def forget(array: np.ndarray) -> None:
    """Its elements are about to change: what was put of it is not it any more."""
    _marks.forget(array)


def reduce_marked(array: np.ndarray) -> Reduced | None:
    """What pickle makes of a marked array, or of a view of one; None for any other."""
    if not _marks.any():
        return None
    shared = _marks.find(array)
    return None if shared is None else reduce_to_handle(shared)


class _Mark:
    """One marked array, by identity, while it lives."""

    def __init__(self, array: np.ndarray, forget: Any) -> None:
        self.array = weakref.ref(array, forget)
        # A view of the segment, which keeps it in memory. Always the same object, for frameworks that
        # tell data by identity.
        self.shared: SharedArray | None = None
        self.store: Store | None = None
        self.fingerprint = 0

    def holds(self, fingerprint: int, store: Store | None) -> bool:
        """Whether what was put is still there, where it is wanted, and what the array is."""
        if self.shared is None or self.store is None or self.fingerprint != fingerprint:
            return False
        if store is not None and store is not self.store:
            return False
        try:
            # Removed, perhaps with its scope, it stays readable here, but no handle finds it.
            self.store.get(Ref(handle_of(self.shared)[0]))  # type: ignore[index]
        except ForebayError:
            return False
        return True


class _Marks:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._by_id: dict[int, _Mark] = {}

    def any(self) -> bool:
        return bool(self._by_id)

    def note(self, array: np.ndarray) -> _Mark:
        key = id(array)
        with self._lock:
            mark = self._by_id.get(key)
            if mark is None or mark.array() is not array:

                def gone(reference: Any) -> None:
                    # Collected anywhere, also while the lock is held: dict.pop needs none.
                    if (found := self._by_id.get(key)) is not None and found.array is reference:
                        self._by_id.pop(key, None)

                mark = self._by_id[key] = _Mark(array, gone)
            return mark

    def forget(self, array: np.ndarray) -> None:
        with self._lock:
            mark = self._by_id.get(id(array))
            if mark is not None and mark.array() is array:
                mark.shared = None

    def share(self, array: np.ndarray, store: Store | None = None) -> SharedArray:
        """Put it, unless that was done, and is still as it was; return the view of the segment."""
        mark = self.note(array)
        fingerprint = _fingerprint(array)
        with self._lock:
            if not mark.holds(fingerprint, store):
                scope = _scope.current(store)
                ref = scope.store.put(scope.new_id("shared"), np.asarray(array), evictable=True)
                mark.shared = scope.store.get(ref).view(SharedArray)
                mark.store = scope.store
                mark.fingerprint = fingerprint
            assert mark.shared is not None
            return mark.shared

    def find(self, array: np.ndarray) -> np.ndarray | None:
        """The part of a marked array's segment that this array, which may be a view of it, is."""
        owner: Any = array
        while isinstance(owner, np.ndarray):
            mark = self._by_id.get(id(owner))
            if mark is not None and mark.array() is owner:
                return self._part(owner, array)
            owner = owner.base
        return None

    def _part(self, owner: np.ndarray, array: np.ndarray) -> np.ndarray | None:
        if not (owner.flags.c_contiguous or owner.flags.f_contiguous) or array.size == 0:
            return None
        start = owner.__array_interface__["data"][0]
        offset = array.__array_interface__["data"][0] - start
        try:
            low, high = np.lib.array_utils.byte_bounds(array)
        except AttributeError:  # NumPy 1
            low, high = np.byte_bounds(array)  # type: ignore[attr-defined]
        if low < start or high > start + owner.nbytes:
            return None
        shared = self.share(owner)
        flat = shared.view(np.ndarray).reshape(-1, order="A").view(np.uint8)
        return np.ndarray(array.shape, array.dtype, flat, offset, array.strides)


_marks = _Marks()


def _after_fork() -> None:
    _marks._lock = threading.RLock()  # noqa: SLF001 - another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def _fingerprint(array: np.ndarray) -> int:
    """A sample of the elements. Whoever marks an array promises not to change it; this catches most
    of those who do, for a few microseconds."""
    samples = 256
    picked = array.flat[:: max(1, array.size // samples)]
    return hash((picked.tobytes(), array.flat[-1:].tobytes(), array.shape, array.dtype.str))


def ref_of(array: Any) -> Ref | None:
    """The ref of the segment that an array is the whole of; None if it is not one's."""
    handle = handle_of(array) if isinstance(array, np.ndarray) else None
    return Ref(handle[0]) if handle is not None and len(handle) == 1 else None
