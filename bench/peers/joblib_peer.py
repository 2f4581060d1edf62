# SPDX-License-Identifier: Apache-2.0
"""joblib.dump to a file on tmpfs, and joblib.load that maps it, as its workers get arguments."""

from __future__ import annotations

import joblib
import numpy as np

from peer import Peer


class Joblib(Peer):
    def put(self, key: str, array: np.ndarray) -> None:
        joblib.dump(array, self.directory / f"{key}.joblib")

    def get(self, key: str) -> np.ndarray:
        return joblib.load(self.directory / f"{key}.joblib", mmap_mode="r")

    def delete(self, key: str) -> None:
        (self.directory / f"{key}.joblib").unlink()
