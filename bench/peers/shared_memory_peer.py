# SPDX-License-Identifier: Apache-2.0
"""multiprocessing.shared_memory: a named segment for each array."""

from __future__ import annotations

import os
import pathlib
from multiprocessing.shared_memory import SharedMemory

import numpy as np

from peer import BYTE, Peer


class Attached(Peer):
    """Every get attaches by name, and every release detaches."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        self._prefix = f"bench-peers-{os.getpid()}-"
        self.sweep_later(self._prefix)
        self._attached: SharedMemory

    def put(self, key: str, array: np.ndarray) -> None:
        segment = SharedMemory(self._prefix + key, create=True, size=array.nbytes)
        segment.buf[:] = array.data
        segment.close()

    def get(self, key: str) -> np.ndarray:
        self._attached = SharedMemory(self._prefix + key)
        return np.frombuffer(self._attached.buf, BYTE)

    def release(self, key: str) -> None:
        self._attached.close()

    def delete(self, key: str) -> None:
        segment = SharedMemory(self._prefix + key)
        segment.close()
        segment.unlink()


class Kept(Attached):
    """The first get of a key attaches; the segment then stays attached until it is deleted."""

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        self._kept: dict[str, SharedMemory] = {}

    def get(self, key: str) -> np.ndarray:
        segment = self._kept.get(key)
        if segment is None:
            segment = self._kept[key] = SharedMemory(self._prefix + key)
        return np.frombuffer(segment.buf, BYTE)

    def release(self, key: str) -> None:
        pass

    def delete(self, key: str) -> None:
        segment = self._kept.pop(key, None)
        if segment is not None:
            segment.close()
        super().delete(key)
