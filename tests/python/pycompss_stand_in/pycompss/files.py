# SPDX-License-Identifier: Apache-2.0
"""Values as files."""

import pathlib
import pickle

import numpy as np


def write(path: pathlib.Path, value: object) -> None:
    with path.open("wb") as file:
        if "numpy" in type(value).__module__.split(".") and isinstance(value, np.ndarray):
            file.write(b"0001")
            np.save(file, value, allow_pickle=False)
        else:
            file.write(b"0000")
            pickle.dump(value, file, protocol=pickle.HIGHEST_PROTOCOL)


def read(path: pathlib.Path) -> object:
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False) if file.read(4) == b"0001" else pickle.load(file)
