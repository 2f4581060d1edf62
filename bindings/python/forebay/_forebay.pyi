# SPDX-License-Identifier: Apache-2.0
import datetime
import types
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, final, overload

import numpy as np
import numpy.typing as npt

_T = TypeVar("_T")
_Id = str | bytes

__version__: str

@final
class Pin:
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

class Listing:
    def __iter__(self) -> Iterator[SegmentInfo]: ...
    def __next__(self) -> SegmentInfo: ...

class Store:
    def put(
        self,
        id: _Id,
        array: npt.NDArray[Any] | bytes | bytearray | memoryview,
        *,
        version: int | None = None,
        timeout: float | None = None,
        exist_ok: bool = False,
        evictable: bool = False,
        persistent: bool = False,
    ) -> Ref: ...
    @overload
    def get(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        after: int = 0,
    ) -> npt.NDArray[Any]: ...
    @overload
    def get(
        self,
        id: _Id | Ref,
        version: int | None = None,
        timeout: float | None = None,
        *,
        default: _T,
        after: int = 0,
    ) -> npt.NDArray[Any] | _T: ...
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
    ) -> Builder: ...
    def contains(self, id: _Id, version: int | None = None) -> bool: ...
    def __contains__(self, id: _Id, /) -> bool: ...
    def remove(self, id: _Id | Ref, version: int | None = None) -> int: ...
    def list(self, prefix: _Id = "") -> Listing: ...
    def stat(self, id: _Id | Ref, version: int | None = None) -> SegmentStat: ...
    def status(self) -> dict[str, int | str]: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def address(self) -> str: ...
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

def connect(
    address: str | None = None,
    *,
    timeout: float = 10.0,
    namespace: str = "default",
    start_daemon: bool = True,
) -> Store: ...
