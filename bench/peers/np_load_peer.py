# SPDX-License-Identifier: Apache-2.0
"""np.save to a file on tmpfs, and np.load that maps it."""

from __future__ import annotations

import numpy as np

from peer import Peer


class NpLoad(Peer):
    def put(self, key: str, array: np.ndarray) -> None:
        np.save(self.directory / f"{key}.npy", array)

    def get(self, key: str) -> np.ndarray:
        return np.load(self.directory / f"{key}.npy", mmap_mode="r")

    def delete(self, key: str) -> None:
        (self.directory / f"{key}.npy").unlink()
