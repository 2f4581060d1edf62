# SPDX-License-Identifier: Apache-2.0
"""Forebay, with a daemon of its own and the defaults of forebayd."""

from __future__ import annotations

import os
import pathlib

import numpy as np

import forebay
from peer import CAPACITY_BYTES, Peer, Server


class Forebay(Peer):
    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        socket = directory / "forebay.sock"
        program = pathlib.Path(os.environ["FOREBAY_PROGRAMS"]) / "forebayd"
        self._server = Server(
            [program, "--socket", socket, "--capacity", CAPACITY_BYTES, "--drop"], socket
        )
        try:
            self._store = forebay.connect(str(socket), start_daemon=False)
        except BaseException:
            self._server.stop()
            raise
        self.sweep_later(f"forebay.{self._store.uuid}.")

    def put(self, key: str, array: np.ndarray) -> None:
        self._store.put(key, array)

    def get(self, key: str) -> np.ndarray:
        return self._store.get(key)

    def delete(self, key: str) -> None:
        self._store.remove(key)

    def close(self) -> None:
        self._store.close()
        self._server.stop()
