# SPDX-License-Identifier: Apache-2.0
"""Arrays that travel as handles: those that somebody has shared, and those that a flag marks."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np

from forebay import _scope, _stores
from forebay._forebay import Ref, Store, array_hash, handle_of
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
        # What an index array picks is a copy, and no longer shared.
        item = self.view(np.ndarray)[key]
        shared = isinstance(item, np.ndarray) and handle_of(item) is not None
        return item.view(SharedArray) if shared else item

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
        return _marks.share(array, store, whole=True)
    there = store if store is not None else _stores.default()
    ref = there.put(id, np.asarray(array), version=version, exist_ok=version is not None)
    return there.get(ref).view(SharedArray)


def mark(array: np.ndarray) -> np.ndarray:
    """Return a read-only view of an array which is put into the store when it is first pickled.

    Only that view, and read-only views of it, travel as handles, and only after `install`. Until then
    nothing is copied, and no store needed.
    """
    if is_plain(array.dtype):
        _marks.note(array)
    view = array.view()
    view.flags.writeable = False
    return view


def share_once(array: np.ndarray) -> SharedArray:
    """As `share`, of an array that is promised not to change while it lives."""
    return _marks.share(array)


def share_anew(array: np.ndarray) -> SharedArray:
    """As `share`, in a segment of its own, whatever was shared of it before."""
    scope = _scope.current()
    ref = scope.store.put(scope.new_id("shared"), np.asarray(array), evictable=True)
    return scope.store.get(ref).view(SharedArray)


def forget(array: np.ndarray) -> None:
    """Its elements change: what was put of it, or of its owner's memory, is not it any more."""
    _marks.forget(array)


def forget_scope(scope: _scope.Scope) -> None:
    """What was put in it goes: no array of this process holds it any longer for itself."""
    _marks.forget_scope(scope)


def reduce_marked(array: np.ndarray) -> Reduced | None:
    """What pickle makes of a read-only view of a marked array; None for any other."""
    if not _marks.any():
        return None
    shared = _marks.find(array)
    return None if shared is None else reduce_to_handle(shared)


def is_marked(array: np.ndarray) -> bool:
    """Whether it would travel as a handle for a mark."""
    return not array.flags.writeable and bool(_marks.of(array))


class _Mark:
    """One marked array: a piece of its owner's memory, in one shape."""

    def __init__(self) -> None:
        self.lock = threading.Lock()  # put once, whoever asks first
        # A view of the segment, which keeps it in memory. Always the same object, for frameworks that
        # tell data by identity.
        self.shared: SharedArray | None = None
        self.scope: _scope.Scope | None = None
        self.sample: int | None = None
        self.hash: int | None = None  # of all elements, once somebody has asked

    def holds(self, array: np.ndarray, store: Store | None, whole: bool) -> bool:
        """Whether what was put is still there, where it is wanted, and what the array is: as far as a
        sample tells, or as a whole."""
        if self.shared is None or self.scope is None or self.sample != _sample_of(array):
            return False
        if store is not None and store is not self.scope.store:
            return False
        if whole:
            if self.hash is None:
                self.hash = array_hash(self.shared)
            if self.hash != array_hash(array):
                return False
        try:
            # Removed, perhaps with its scope, it stays readable here, but no handle finds it.
            self.scope.store.get(Ref(handle_of(self.shared)[0]))  # type: ignore[index]
        except ForebayError:
            return False
        return True


_Region = tuple[int, tuple[int, ...], tuple[int, ...], str]  # address, shape, strides, dtype


class _Owner:
    """An array that owns memory of which something is marked, by identity, while it lives."""

    def __init__(self, array: np.ndarray, gone: Any) -> None:
        self.array = weakref.ref(array, gone)
        self.marks: dict[_Region, _Mark] = {}


class _Marks:
    def __init__(self) -> None:
        self._by_id: dict[int, _Owner] = {}

    def any(self) -> bool:
        return bool(self._by_id)

    def note(self, array: np.ndarray) -> _Mark:
        owner = _owner_of(array)
        key = id(owner)
        known = self._by_id.get(key)
        if known is None or known.array() is not owner:

            def gone(reference: Any) -> None:
                # The number may be another array's by now.
                if (found := self._by_id.get(key)) is not None and found.array is reference:
                    self._by_id.pop(key, None)

            known = self._by_id[key] = _Owner(owner, gone)
        return known.marks.setdefault(_region_of(array), _Mark())

    def of(self, array: np.ndarray) -> dict[_Region, _Mark]:
        owner = _owner_of(array)
        known = self._by_id.get(id(owner))
        return known.marks if known is not None and known.array() is owner else {}

    def forget(self, array: np.ndarray) -> None:
        for mark in list(self.of(array).values()):
            mark.shared = None

    def forget_scope(self, scope: _scope.Scope) -> None:
        for owner in list(self._by_id.values()):
            for mark in list(owner.marks.values()):
                if mark.scope is scope:
                    mark.shared = mark.scope = None

    def share(
        self, array: np.ndarray, store: Store | None = None, *, whole: bool = False
    ) -> SharedArray:
        """Put it, unless that was done, and it is still as it was; return the view of the segment."""
        mark = self.note(array)
        with mark.lock:
            if not mark.holds(array, store, whole):
                scope = _scope.current(store)
                ref = scope.store.put(scope.new_id("shared"), np.asarray(array), evictable=True)
                mark.shared = scope.store.get(ref).view(SharedArray)
                mark.scope = scope
                mark.sample = _sample_of(array)
                mark.hash = None
            assert mark.shared is not None
            return mark.shared

    def find(self, array: np.ndarray) -> np.ndarray | None:
        """The piece of a marked array's segment that this array, which may be a view of it, is."""
        # What can be written to is its owner's own affair, and pickles as ever: only what a task was
        # given travels as a handle.
        if array.flags.writeable or array.size == 0:
            return None
        marks = self.of(array)
        if not marks:
            return None
        if _region_of(array) in marks:
            return self.share(array)
        start, end = _bounds_of(array)
        for address, shape, strides, dtype in list(marks):
            marked = _array_at(_owner_of(array), address, shape, strides, dtype)
            if marked is None or not (marked.flags.c_contiguous or marked.flags.f_contiguous):
                continue
            if address <= start and end <= address + marked.nbytes:
                # Laid out in the segment as here.
                shared = self.share(marked).view(np.ndarray)
                flat = shared.reshape(-1, order="A").view(np.uint8)
                offset = _address_of(array) - address
                return np.ndarray(array.shape, array.dtype, flat, offset, array.strides)
        return None


_marks = _Marks()


def _address_of(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def _region_of(array: np.ndarray) -> _Region:
    return _address_of(array), array.shape, array.strides, array.dtype.str


def _owner_of(array: np.ndarray) -> np.ndarray:
    """The last array in the chain of what it is a view of."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner


def _bounds_of(array: np.ndarray) -> tuple[int, int]:
    bounds: Any = getattr(getattr(np.lib, "array_utils", np), "byte_bounds")
    low, high = bounds(array)
    return low, high


def _array_at(
    owner: np.ndarray, address: int, shape: Any, strides: Any, dtype: str
) -> np.ndarray | None:
    if not (owner.flags.c_contiguous or owner.flags.f_contiguous):
        return None
    flat = owner.view(np.ndarray).reshape(-1, order="A").view(np.uint8)
    return np.ndarray(shape, dtype, flat, address - _address_of(owner), strides)


def _sample_of(array: np.ndarray) -> int:
    """A sample of the elements. Who flags an array promises not to change it; this catches most of those
    who do, in a few microseconds. `share` asks for no promise, and looks at all of it as well."""
    samples = 256
    picked = array.flat[:: max(1, array.size // samples)]
    return hash((picked.tobytes(), array.flat[-1:].tobytes()))


def _after_fork() -> None:
    # Another thread of the parent may have held them.
    for owner in _marks._by_id.values():  # noqa: SLF001
        for mark in owner.marks.values():
            mark.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def ref_of(array: Any) -> Ref | None:
    """The ref of the segment that an array is the whole of; None if it is not one's."""
    handle = handle_of(array) if isinstance(array, np.ndarray) else None
    return Ref(handle[0]) if handle is not None and len(handle) == 1 else None
