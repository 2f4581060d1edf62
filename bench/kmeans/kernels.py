# SPDX-License-Identifier: Apache-2.0
"""The two kernels: the paper's loops in Python over points, and what one would write with NumPy.

Besides the speed they differ in the algorithm. The paper averages the means of the fragments, each of
which counts the same however few points it has; `vector` adds sums and counts, which is Lloyd's. A
cluster without points gets a zero row in the former, and keeps its centre in the latter.
"""

from __future__ import annotations

import numpy as np

# Of a fragment at a time: these bytes and their scores stay in the second-level cache.
BLOCK_BYTES = 2**19


def paper(points: np.ndarray, labels: list[int], centres: np.ndarray) -> np.ndarray:
    """The mean of the points of each centre, (centres, dimensions); `labels` is INOUT."""
    if not labels:
        labels.extend([0] * len(points))
    counts = [0] * len(centres)
    for number, point in enumerate(points):
        distances = [np.linalg.norm(point - centre) for centre in centres]
        label = int(np.argmin(distances))
        labels[number] = label
        counts[label] += 1
    means = np.zeros(centres.shape)
    for number, point in enumerate(points):
        label = labels[number]
        means[label] += point / counts[label]
    return means


def paper_next(means: list[np.ndarray], centres: np.ndarray) -> np.ndarray:
    total = np.zeros(centres.shape)
    for mean in means:
        total += mean
    return total / len(means)


def vector(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(centres, 1 + dimensions): how many points are nearest to each centre, and their sum.

    Labels stay here: no task needs those of the iteration before.
    """
    count, dimensions = centres.shape
    rows = min(max(1, BLOCK_BYTES // (8 * dimensions)), len(points))
    # |p - c|^2 = |p|^2 - 2 (p.c - |c|^2 / 2), and |p|^2 is the same for all centres.
    half_norms = (centres**2).sum(axis=1)[:, np.newaxis] / 2
    scores = np.empty((count, rows))
    belongs = np.empty((count, rows))
    sums = np.zeros((count, 1 + dimensions))
    for start in range(0, len(points), rows):
        block = points[start : start + rows]
        if len(block) < rows:
            scores, belongs = scores[:, : len(block)], belongs[:, : len(block)]
        np.matmul(centres, block.T, out=scores)
        scores -= half_norms
        # A one where a point is nearest to a centre, else a zero: the sums are a product then.
        np.equal(scores, scores.max(axis=0), out=belongs)
        counts = belongs.sum(axis=1)
        if counts.sum() != len(block):  # a point is equally near to two
            np.equal(scores.argmax(axis=0), np.arange(count)[:, np.newaxis], out=belongs)
            counts = belongs.sum(axis=1)
        sums[:, 0] += counts
        sums[:, 1:] += belongs @ block
    return sums


def vector_next(sums: list[np.ndarray], centres: np.ndarray) -> np.ndarray:
    total = np.zeros_like(sums[0])
    for one in sums:
        total += one
    counts = total[:, :1]
    return np.where(counts > 0, total[:, 1:] / np.maximum(counts, 1), centres)
