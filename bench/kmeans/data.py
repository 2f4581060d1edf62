# SPDX-License-Identifier: Apache-2.0
"""The data set of the paper: uniform points in fragments, and centres that are not drawn from them."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Parameters:
    points: int
    dimensions: int = 64
    centres: int = 4
    fragments: int = 16
    iterations: int = 20
    seed: int = 0
    epsilon: float = 1e-9

    @property
    def points_per_fragment(self) -> int:
        return max(1, self.points // self.fragments)

    @property
    def fragment_bytes(self) -> int:
        return self.points_per_fragment * self.dimensions * 8

    @property
    def data_bytes(self) -> int:
        return self.points * self.dimensions * 8


def fragments_of(parameters: Parameters) -> list[np.ndarray]:
    """One more than asked for when the points do not divide: the last has the rest."""
    rows = parameters.points_per_fragment
    fragments = []
    for offset in range(0, parameters.points, rows):
        random = np.random.RandomState(parameters.seed + offset)
        fragment = random.random_sample(
            (min(rows, parameters.points - offset), parameters.dimensions)
        )
        fragment -= fragment.min()
        largest = fragment.max()
        if largest > 0:
            fragment /= largest
        fragments.append(fragment)
    return fragments


def first_centres(parameters: Parameters) -> np.ndarray:
    random = np.random.RandomState(parameters.seed)
    return random.random_sample((parameters.centres, parameters.dimensions))
