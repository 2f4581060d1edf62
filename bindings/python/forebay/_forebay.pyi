# SPDX-License-Identifier: Apache-2.0
import asyncio
import concurrent.futures
import datetime
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, final, overload

import numpy as np
import numpy.typing as npt

from forebay._subscription import Subscription

_T = TypeVar("_T")
_Id = str | bytes
_Array = npt.NDArray[Any] | bytes | bytearray | memoryview
# Any object: see docs/objects.md.
_ToPut = Any
# An array, but of a group types.MappingProxyType[str, ndarray], of a manifest a tuple of values, and of
# any other object what it was.
_Value = npt.NDArray[Any] | Any
_Keep = int | Literal["all"]

__version__: str

@final
class Pin:
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Copy:
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Draft:
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Ref:
    def __init__(
        self,
        text: str,
        *,
        dtype: str | None = None,
        shape: Sequence[int] | None = None,
        fortran_order: bool = False,
    ) -> None: ...
    @property
    def store(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def id(self) -> str | bytes: ...
    @property
    def version(self) -> int: ...
    @property
    def serial(self) -> int: ...
    @property
    def dtype(self) -> str | None: ...
    @property
    def shape(self) -> tuple[int, ...] | None: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __reduce__(self) -> tuple[Any, ...]: ...

class Builder:
    @property
    def array(self) -> npt.NDArray[Any]: ...
    @property
    def version(self) -> int: ...
    def seal(self) -> Ref: ...
    def abort(self) -> None: ...
    def __enter__(self) -> npt.NDArray[Any]: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: types.TracebackType | None,
        /,
    ) -> None: ...

class SegmentInfo:
    @property
    def id(self) -> str | bytes: ...
    @property
    def version(self) -> int: ...
    @property
    def serial(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def dtype(self) -> str | None: ...
    @property
    def shape(self) -> tuple[int, ...] | None: ...
    @property
    def sealed_at(self) -> datetime.datetime: ...
    @property
    def evictable(self) -> bool: ...
    @property
    def persistent(self) -> bool: ...

class Holder:
    @property
    def pid(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def pins(self) -> int: ...

class SegmentStat:
    @property
    def info(self) -> SegmentInfo: ...
    @property
    def state(self) -> str: ...
    @property
    def holders(self) -> list[Holder]: ...
    @property
    def leases(self) -> list[Holder]: ...
    @property
    def manifests(self) -> int: ...
    @property
    def keep(self) -> _Keep | None: ...
    @property
    def expires_in(self) -> float | None: ...

class TierCopy:
    @property
    def tier(self) -> str: ...
    @property
    def up(self) -> bool: ...

class Whereabouts:
    @property
    def version(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def in_memory(self) -> bool: ...
    @property
    def published(self) -> bool: ...
    @property
    def stored(self) -> int: ...
    @property
    def copies(self) -> list[TierCopy]: ...

class Event:
    @property
    def kind(self) -> Literal["sealed", "removed", "spilled", "restored", "missed"]: ...
    @property
    def cause(
        self,
    ) -> Literal["removed", "kept_newer", "expired", "evicted", "superseded", "lost"] | None: ...
    @property
    def id(self) -> str | bytes: ...
    @property
    def version(self) -> int: ...
    @property
    def serial(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def missed(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...

class Listing:
    def __iter__(self) -> Iterator[SegmentInfo]: ...
    def __next__(self) -> SegmentInfo: ...

class Store:
    def put(
        self,
        id: _Id,
        array: _ToPut,
        *,
        version: int | None = None,
        timeout: float | None = None,
        exist_ok: bool = False,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> Ref: ...
    def put_manifest(
        self,
        id: _Id,
        refs: Iterable[Ref],
        *,
        version: int | None = None,
        timeout: float | None = None,
        exist_ok: bool = False,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> Ref: ...
    @overload
    def put_many(
        self,
        items: Mapping[_Id, _ToPut] | Iterable[tuple[_Id, _ToPut]],
        *,
        return_exceptions: Literal[False] = False,
        version: int | None = None,
        timeout: float | None = None,
        exist_ok: bool = False,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> list[Ref]: ...
    @overload
    def put_many(
        self,
        items: Mapping[_Id, _ToPut] | Iterable[tuple[_Id, _ToPut]],
        *,
        return_exceptions: bool,
        version: int | None = None,
        timeout: float | None = None,
        exist_ok: bool = False,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> list[Ref | Exception]: ...
    @overload
    def get(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        after: int = 0,
        writable: Literal[False, "copy"] | None = False,
        range: slice | tuple[int, int] | None = None,
        from_: Literal["pool"] | None = None,
    ) -> _Value: ...
    @overload
    def get(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        default: _T,
        after: int = 0,
        writable: Literal[False, "copy"] | None = False,
        range: slice | tuple[int, int] | None = None,
        from_: Literal["pool"] | None = None,
    ) -> _Value | _T: ...
    @overload
    def get_many(
        self,
        ids: Iterable[_Id | Ref],
        version: int | None = None,
        timeout: float | None = None,
        *,
        return_exceptions: Literal[False] = False,
    ) -> list[_Value]: ...
    @overload
    def get_many(
        self,
        ids: Iterable[_Id | Ref],
        version: int | None = None,
        timeout: float | None = None,
        *,
        return_exceptions: bool,
    ) -> list[_Value | Exception]: ...
    @overload
    def get_async(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        after: int = 0,
        concurrent: Literal[False] = False,
    ) -> asyncio.Future[_Value]: ...
    @overload
    def get_async(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        after: int = 0,
        concurrent: Literal[True],
    ) -> concurrent.futures.Future[_Value]: ...
    def get_or_create(
        self,
        id: _Id,
        loader: Callable[[], _ToPut],
        version: int | None = None,
        timeout: float | None = None,
        *,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> _Value: ...
    def create(
        self,
        id: _Id,
        shape: int | Sequence[int],
        dtype: npt.DTypeLike = "f8",
        *,
        order: str = "C",
        version: int | None = None,
        timeout: float | None = None,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> Builder: ...
    def update(
        self,
        id: _Id,
        from_version: int | None = None,
        *,
        take: bool = False,
        timeout: float | None = None,
        evictable: bool = False,
        persistent: bool = False,
        keep: _Keep | None = None,
        ttl: float | None = None,
    ) -> Builder: ...
    def wait(
        self,
        items: Iterable[_T],
        num_returns: int = 1,
        timeout: float | None = None,
    ) -> tuple[list[_T], list[_T]]: ...
    def subscribe(self, prefix: _Id = "", from_cursor: str | None = None) -> Subscription: ...
    def contains(self, id: _Id, version: int | None = None) -> bool: ...
    def contains_many(self, ids: Iterable[_Id]) -> list[bool]: ...
    def __contains__(self, id: _Id, /) -> bool: ...
    def remove(
        self, id: _Id | Ref, version: int | None = None, *, before: int | None = None
    ) -> int: ...
    def remove_prefix(self, prefix: _Id) -> int: ...
    def _begin_scope(self, prefix: _Id) -> None: ...
    def _end_scope(self, prefix: _Id) -> int: ...
    @overload
    def remove_many(
        self, items: Iterable[_Id | Ref], *, return_exceptions: Literal[False] = False
    ) -> list[int]: ...
    @overload
    def remove_many(
        self, items: Iterable[_Id | Ref], *, return_exceptions: bool
    ) -> list[int | Exception]: ...
    def hold(self, id: _Id | Ref, version: int | None = None) -> Ref: ...
    def unhold(self, ref: Ref) -> None: ...
    def persist(self, id: _Id | Ref, version: int | None = None) -> Ref: ...
    def keep(self, id: _Id, versions: _Keep) -> None: ...
    def list(self, prefix: _Id = "") -> Listing: ...
    def stat(self, id: _Id | Ref, version: int | None = None) -> SegmentStat: ...
    def prefetch(self, ids: _Id | Ref | Iterable[_Id | Ref]) -> int: ...
    def restore(
        self, ids: _Id | Ref | Iterable[_Id | Ref], timeout: float | None = None
    ) -> int: ...
    def spill(
        self, ids: _Id | Ref | Iterable[_Id | Ref], timeout: float | None = None
    ) -> int: ...
    def publish(
        self, ids: _Id | Ref | Iterable[_Id | Ref], timeout: float | None = None
    ) -> int: ...
    def where(self, id: _Id | Ref, version: int | None = None) -> Whereabouts: ...
    def hint(
        self,
        ids: _Id | Ref | Iterable[_Id | Ref],
        *,
        last_use: bool = False,
        next_use: int = 0,
        priority: int = 0,
    ) -> None: ...
    def status(self) -> dict[str, int | str]: ...
    def _array_at(
        self,
        ref: Ref,
        dtype: str,
        offset: int,
        shape: Sequence[int],
        strides: Sequence[int] | None = None,
    ) -> npt.NDArray[Any]: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def address(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def capacity(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    def __enter__(self) -> Store: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: types.TracebackType | None,
        /,
    ) -> None: ...

def handle_of(array: object) -> tuple[Any, ...] | None: ...
def array_hash(array: npt.NDArray[Any]) -> int: ...
def default_address() -> str: ...
def connect(
    address: str | None = None,
    *,
    timeout: float = 10.0,
    namespace: str = "default",
    start_daemon: bool = True,
) -> Store: ...
