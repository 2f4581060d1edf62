# SPDX-License-Identifier: Apache-2.0
"""vineyard: put and get of arrays by object id, without names and without etcd."""

from __future__ import annotations

import pathlib

import numpy as np
import vineyard
import vineyard.bdist

from peer import CAPACITY_BYTES, Peer, Server


class Vineyard(Peer):
    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        socket = directory / "vineyard.sock"
        program = pathlib.Path(vineyard.bdist.__file__).with_name("vineyardd")
        self._server = Server([program, f"--socket={socket}", f"--size={CAPACITY_BYTES}",
                               "--meta=local", "--rpc=false"], socket)  # fmt: skip
        try:
            self._client = vineyard.connect(str(socket))
        except BaseException:
            self._server.stop()
            raise
        self._ids: dict[str, vineyard.ObjectID] = {}

    def put(self, key: str, array: np.ndarray) -> None:
        self._ids[key] = self._client.put(array)

    def get(self, key: str) -> np.ndarray:
        return self._client.get(self._ids[key])

    def delete(self, key: str) -> None:
        self._client.delete(self._ids.pop(key))

    def close(self) -> None:
        self._client.close()
        self._server.stop()
