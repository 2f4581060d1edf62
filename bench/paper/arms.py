# SPDX-License-Identifier: Apache-2.0
"""The arms: how an array that the master has reaches the tasks that read it.

An arm publishes an array in the master and gets a handle, a small value that is pickled into the
task; `opened`, in the worker, gives the array. Everything else of a run is the same in all arms.
Handles keep what they need for longer than one task in module variables, which are the worker's own:
nothing of them is pickled.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing.managers
import os
import pathlib
from collections.abc import Callable
from multiprocessing import resource_tracker, shared_memory
from typing import ClassVar, Protocol, Union

import numpy as np

import forebay


class OpenHandle(Protocol):
    def open(self) -> np.ndarray: ...


# Forebay's own is a Ref.
Handle = Union[OpenHandle, forebay.Ref]


def opened(handle: Handle) -> np.ndarray:
    if isinstance(handle, forebay.Ref):
        array: np.ndarray = _store().get(handle)
        return array
    return handle.open()


@dataclasses.dataclass(frozen=True)
class Places:
    """Where arms may put things, and the key of the manager's server."""

    disk: pathlib.Path
    shared_memory: pathlib.Path
    socket: str


class Arm:
    """One way. Used as a context manager: at its end, everything that it published is gone."""

    key: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, places: Places) -> None:
        self.places = places

    def publish(self, name: str, array: np.ndarray) -> Handle:
        raise NotImplementedError

    def settle(self) -> None:
        """After all was published, not timed: what would otherwise go on in the background."""

    def kept_bytes(self) -> int:
        """What it takes of the node's memory outside of processes: shared memory, whoever has
        mapped it, and files that have to stay in the page cache."""
        return 0

    def withdraw(self) -> None:
        """Takes back everything that was published. Workers are told by `forget`."""

    def __enter__(self) -> Arm:
        return self

    def __exit__(self, *_: object) -> None:
        self.withdraw()


class _FileArm(Arm):
    """One .npy file for each array."""

    handle: ClassVar[type]

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self._files: list[pathlib.Path] = []

    def folder(self) -> pathlib.Path:
        return self.places.disk

    def publish(self, name: str, array: np.ndarray) -> Handle:
        path = self.folder() / f"{self.key}-{name}.npy"
        self._files.append(path)
        np.save(path, array)
        handle: OpenHandle = self.handle(str(path))
        return handle

    def settle(self) -> None:
        # Only clean pages can be dropped from the page cache, which the cold arm does.
        for path in self._files:
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    def files_bytes(self) -> int:
        return sum(path.stat().st_size for path in self._files)

    def withdraw(self) -> None:
        for path in self._files:
            path.unlink(missing_ok=True)
        self._files.clear()


# --- B0 and B1: the file is read by each task


@dataclasses.dataclass(frozen=True)
class ColdFileHandle:
    path: str

    def open(self) -> np.ndarray:
        with open(self.path, "rb", buffering=0) as file:
            # Whoever read it before has left it in the page cache.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            array: np.ndarray = np.load(file)
            return array


@dataclasses.dataclass(frozen=True)
class WarmFileHandle:
    path: str

    def open(self) -> np.ndarray:
        array: np.ndarray = np.load(self.path)
        return array


class ColdFile(_FileArm):
    key = "B0"
    title = "file, cold"
    handle = ColdFileHandle


class WarmFile(_FileArm):
    key = "B1"
    title = "file, warm"
    handle = WarmFileHandle

    def kept_bytes(self) -> int:
        return self.files_bytes()


# --- B2: the file lies on tmpfs, and is mapped by each task


@dataclasses.dataclass(frozen=True)
class MappedFileHandle:
    path: str

    def open(self) -> np.ndarray:
        # A plain array: slices of np.memmap, a subclass, cost a call into Python each.
        return np.asarray(np.load(self.path, mmap_mode="r"))


class MappedFile(_FileArm):
    key = "B2"
    title = "mmap on tmpfs"
    handle = MappedFileHandle

    def folder(self) -> pathlib.Path:
        return self.places.shared_memory

    def kept_bytes(self) -> int:
        return self.files_bytes()


# --- B3: a dictionary in each process

_dictionary: dict[str, np.ndarray] = {}


@dataclasses.dataclass(frozen=True)
class DictionaryHandle:
    path: str

    def open(self) -> np.ndarray:
        array = _dictionary.get(self.path)
        if array is None:
            array = _dictionary[self.path] = np.load(self.path)
        return array


class Dictionary(_FileArm):
    key = "B3"
    title = "dictionary"
    handle = DictionaryHandle


# --- B4: a copying cache in shared memory, as PyCOMPSs' worker cache: an index that a manager's server
# keeps, a segment for each array, and a private copy for each task


class _IndexServer(multiprocessing.managers.BaseManager):
    pass


@functools.cache
def _the_index() -> dict[str, tuple[str, tuple[int, ...], str]]:
    return {}


_IndexServer.register("index", _the_index, multiprocessing.managers.DictProxy)


@functools.cache
def _index_at(address: str, key: bytes) -> multiprocessing.managers.DictProxy:
    server = _IndexServer(address, key)
    server.connect()
    # What the proxy connects with, here and in the threads of this process.
    multiprocessing.current_process().authkey = key
    return server.index()  # type: ignore[attr-defined,no-any-return]


def attached(name: str) -> shared_memory.SharedMemory:
    """A segment of somebody else's. This process's resource tracker is not told, or it would
    unlink the segment, or complain, when the process ends."""
    register = resource_tracker.register
    resource_tracker.register = lambda *_: None
    try:
        return shared_memory.SharedMemory(name)
    finally:
        resource_tracker.register = register


@dataclasses.dataclass(frozen=True)
class CopyingCacheHandle:
    address: str
    key: bytes
    name: str

    def open(self) -> np.ndarray:
        segment_name, shape, dtype = _index_at(self.address, self.key)[self.name]
        segment = attached(segment_name)
        try:
            theirs = np.ndarray(shape, dtype, segment.buf)
            mine = np.empty(shape, dtype)
            np.copyto(mine, theirs)
            del theirs
            return mine
        finally:
            segment.close()


class CopyingCache(Arm):
    key = "B4"
    title = "copying cache"

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        # Over a Unix socket: over TCP, as there, each look-up would wait for acknowledgements.
        context = multiprocessing.get_context("spawn")
        self._segments = multiprocessing.managers.SharedMemoryManager(ctx=context)
        self._segments.start()
        self._authkey = os.urandom(16)
        self._server = _IndexServer(authkey=self._authkey, ctx=context)
        self._server.start()
        self._index = self._server.index()  # type: ignore[attr-defined]
        self._published: list[shared_memory.SharedMemory] = []

    def publish(self, name: str, array: np.ndarray) -> Handle:
        segment = self._segments.SharedMemory(array.nbytes)
        np.copyto(np.ndarray(array.shape, array.dtype, segment.buf), array)
        self._published.append(segment)
        self._index[name] = (segment.name, array.shape, array.dtype.str)
        address = self._server.address
        assert isinstance(address, str)
        return CopyingCacheHandle(address, self._authkey, name)

    def kept_bytes(self) -> int:
        return sum(segment.size for segment in self._published)

    def withdraw(self) -> None:
        self._index.clear()
        for segment in self._published:
            segment.close()
            segment.unlink()
        self._published.clear()

    def __exit__(self, *_: object) -> None:
        self.withdraw()
        self._server.shutdown()
        self._segments.shutdown()


# --- B5 and B6: Forebay


@functools.cache
def _store() -> forebay.Store:
    return forebay.connect()  # to $FOREBAY_SOCKET


class InStore(Arm):
    key = "B5"
    title = "Forebay"

    def __init__(self, places: Places) -> None:
        super().__init__(places)
        self.store = forebay.connect(places.socket)
        self._refs: list[forebay.Ref] = []

    def publish(self, name: str, array: np.ndarray) -> Handle:
        ref = self.store.put(f"{self.key}/{name}", array)
        self._refs.append(ref)
        return ref

    def kept_bytes(self) -> int:
        # With the memory that it keeps ready, or for reuse.
        status = self.store.status()
        return int(status["arena_backed_bytes"]) + int(status["index_backed_bytes"])

    def withdraw(self) -> None:
        self.store.remove_many(self._refs)
        self._refs.clear()

    def __exit__(self, *_: object) -> None:
        self.withdraw()
        self.store.close()


class InStoreNative(InStore):
    """The same, but the tasks are those of C++ workers: see native.py."""

    key = "B6"
    title = "Forebay, C++"


ARMS: dict[str, type[Arm]] = {
    arm.key: arm
    for arm in (ColdFile, WarmFile, MappedFile, Dictionary, CopyingCache, InStore, InStoreNative)
}


# --- what is run on each worker

_held: list[np.ndarray] = []


def open_all(handles: list[Handle]) -> None:
    """The first use of each: whatever an arm does once in a process is done here, and each page
    touched."""
    for handle in handles:
        touch(opened(handle))


def touch(array: np.ndarray) -> None:
    array.reshape(-1)[:: 4096 // array.itemsize].sum()


def use_all(handles: list[Handle], kernel: Callable[[np.ndarray], object]) -> None:
    """Runs the kernel on each, and goes on holding the last one, as in the midst of a task."""
    for handle in handles:
        _held[:] = [opened(handle)]
        kernel(_held[0])


def forget() -> None:
    """Lets go of what this process keeps from published arrays."""
    _dictionary.clear()
    _held.clear()
