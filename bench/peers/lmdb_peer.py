# SPDX-License-Identifier: Apache-2.0
"""py-lmdb on tmpfs, in the mode that is quickest there: a writable map, no sync."""

from __future__ import annotations

import pathlib

import lmdb
import numpy as np

from peer import BYTE, CAPACITY_BYTES, Peer


class Lmdb(Peer):
    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        self._environment = lmdb.open(str(directory / "lmdb"), map_size=CAPACITY_BYTES,
                                      writemap=True, sync=False)  # fmt: skip
        self._reading: lmdb.Transaction

    def put(self, key: str, array: np.ndarray) -> None:
        with self._environment.begin(write=True) as writing:
            writing.put(key.encode(), array)

    def get(self, key: str) -> np.ndarray:
        # The buffer is good for as long as the transaction lasts.
        self._reading = self._environment.begin(buffers=True)
        return np.frombuffer(self._reading.get(key.encode()), BYTE)

    def release(self, key: str) -> None:
        self._reading.abort()

    def delete(self, key: str) -> None:
        with self._environment.begin(write=True) as writing:
            writing.delete(key.encode())

    def close(self) -> None:
        self._environment.close()
