# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of k-means (Lloyd, "Least squares quantization in PCM", 1982)."""

from __future__ import annotations

import numpy as np

# Rows at a time: the distances of so many to a few dozen centres stay in the cache.
BLOCK_ROWS = 4096


def partial_sums(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Count and sum the points that are nearest to each centre.

    Returns (centres, 1 + dimensions) float64: the count, then the sum of each dimension.
    """
    sums = np.zeros((len(centres), 1 + points.shape[1]))
    # One buffer for all blocks: a fresh one each time would be given back to the system and taken
    # again, page fault by page fault, in a process whose heap is small.
    scores = np.empty((BLOCK_ROWS, len(centres)))
    for start in range(0, len(points), BLOCK_ROWS):
        block = points[start : start + BLOCK_ROWS]
        labels = nearest(block, centres, scores[: len(block)])
        sums[:, 0] += np.bincount(labels, minlength=len(centres))
        for dimension in range(points.shape[1]):
            sums[:, 1 + dimension] += np.bincount(
                labels, weights=block[:, dimension], minlength=len(centres)
            )
    return sums


def nearest(
    points: np.ndarray, centres: np.ndarray, scores: np.ndarray | None = None
) -> np.ndarray:
    """The index of the nearest centre of each point; `scores` is room for the work."""
    # |p - c|^2 = |p|^2 - 2 (p.c - |c|^2 / 2), and |p|^2 is the same for all centres.
    scores = np.matmul(points, centres.T, out=scores)
    scores -= (centres**2).sum(axis=1) / 2
    return scores.argmax(axis=1)


def next_centres(sums: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The means of the points of each centre; a centre without points stays where it is."""
    counts = sums[:, :1]
    return np.where(counts > 0, sums[:, 1:] / np.maximum(counts, 1), centres)


def first_centres(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """`count` different points, chosen at random."""
    rng = np.random.default_rng(seed)
    candidates = points[rng.choice(len(points), min(len(points), 100 * count), replace=False)]
    different = np.unique(candidates, axis=0)
    if len(different) < count:
        raise SystemExit(f"demo: the input has only {len(different)} different points; ask for fewer")
    return different[rng.choice(len(different), count, replace=False)]
