# SPDX-License-Identifier: Apache-2.0
"""Arrow Plasma, of the last release that has it: buffers of bytes, filled in place and sealed."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow
from pyarrow import plasma

from peer import BYTE, CAPACITY_BYTES, Peer, Server

# Up to here one message with a copy of the bytes is quicker than create, fill and seal.
SMALL_BYTES = 16 * 2**10


def object_id(key: str) -> plasma.ObjectID:
    return plasma.ObjectID(key.encode().ljust(20, b"\0"))


class Plasma(Peer):
    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        socket = directory / "plasma.sock"
        program = pathlib.Path(pyarrow.__file__).with_name("plasma-store-server")
        self._server = Server([program, "-m", CAPACITY_BYTES, "-s", socket], socket)
        try:
            self._client = plasma.connect(str(socket))
        except BaseException:
            self._server.stop()
            raise

    def put(self, key: str, array: np.ndarray) -> None:
        if array.nbytes <= SMALL_BYTES:
            self._client.create_and_seal(object_id(key), array.tobytes(), b"")
            return
        buffer = self._client.create(object_id(key), array.nbytes)
        np.copyto(np.frombuffer(buffer, BYTE), array)
        self._client.seal(object_id(key))

    def get(self, key: str) -> np.ndarray:
        [buffer] = self._client.get_buffers([object_id(key)])
        return np.frombuffer(buffer, BYTE)

    def delete(self, key: str) -> None:
        self._client.delete([object_id(key)])

    def close(self) -> None:
        self._client.disconnect()
        self._server.stop()
