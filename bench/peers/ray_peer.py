# SPDX-License-Identifier: Apache-2.0
"""Ray's object store: ray.put and ray.get of a driver, on a node of its own."""

from __future__ import annotations

import os
import pathlib

import numpy as np

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray  # noqa: E402

from peer import CAPACITY_BYTES, Peer  # noqa: E402


class Ray(Peer):
    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__(directory)
        ray.init(address="local", num_cpus=1, object_store_memory=CAPACITY_BYTES,
                 include_dashboard=False, log_to_driver=False, logging_level="error",
                 _temp_dir=str(directory))  # fmt: skip
        self._refs: dict[str, ray.ObjectRef] = {}

    def put(self, key: str, array: np.ndarray) -> None:
        self._refs[key] = ray.put(array)

    def get(self, key: str) -> np.ndarray:
        return ray.get(self._refs[key])

    def delete(self, key: str) -> None:
        del self._refs[key]

    def close(self) -> None:
        ray.shutdown()
