# SPDX-License-Identifier: Apache-2.0
"""pickle to a file on tmpfs and back: each get is a copy."""

from __future__ import annotations

import pickle

import numpy as np

from peer import Peer


class Pickle(Peer):
    def put(self, key: str, array: np.ndarray) -> None:
        with (self.directory / f"{key}.pickle").open("wb") as file:
            pickle.dump(array, file, pickle.HIGHEST_PROTOCOL)

    def get(self, key: str) -> np.ndarray:
        with (self.directory / f"{key}.pickle").open("rb") as file:
            return pickle.load(file)

    def delete(self, key: str) -> None:
        (self.directory / f"{key}.pickle").unlink()
