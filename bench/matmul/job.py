# SPDX-License-Identifier: Apache-2.0
"""The job: N^3 tasks C[r][c] += A[r][i] @ B[i][c], for all r and c in a step, step by step over i.

So each of the N^2 chains is N tasks long, and no two tasks of a step touch the same block of C. A and
B are read by way of the arm. C is INOUT, is never shared, and is handled alike in all arms: a file on
tmpfs for each block, which the task maps and adds to in place.
"""

from __future__ import annotations

import mmap
import os
import pathlib
from collections.abc import Callable

import numpy as np

from matmul import kernels
from paper.arms import Handle, opened
from paper.executors import Executor
from paper.native import NativeWorkers


def mapped(path: str, side: int) -> np.ndarray:
    """The block of C in this file, for reading and writing."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        block = np.frombuffer(mmap.mmap(descriptor, 8 * side * side), np.float64)
    finally:
        os.close(descriptor)
    return block.reshape(side, side)


def task(kernel: str, c_path: str, side: int, a: Handle, b: Handle) -> None:
    multiply = kernels.paper if kernel == "paper" else kernels.vector
    multiply(mapped(c_path, side), opened(a), opened(b))


class Blocks:
    """The blocks of C, which all arms use in turn."""

    def __init__(self, folder: pathlib.Path, count: int, side: int) -> None:
        self.count = count
        self.side = side
        self.paths = [[str(folder / f"C-{row}-{column}") for column in range(count)]
                      for row in range(count)]  # fmt: skip
        for path in sum(self.paths, []):
            with open(path, "wb") as file:
                file.truncate(8 * side * side)

    def clear(self) -> None:
        for path in sum(self.paths, []):
            mapped(path, self.side)[:] = 0

    def remove(self) -> None:
        for path in sum(self.paths, []):
            pathlib.Path(path).unlink(missing_ok=True)


# Compares C with the reference; raises WrongResult.
Check = Callable[[Blocks], None]


class MatMul:
    """How the tasks of a step are done, subclasses say."""

    def __init__(self, blocks: Blocks, check: Check) -> None:
        self._blocks = blocks
        self._check = check
        self.steps = blocks.count

    def prepare(self) -> None:
        self._blocks.clear()

    def run(self, steps: int) -> None:
        for i in range(steps):
            self.step(i)

    def step(self, i: int) -> None:
        raise NotImplementedError

    def check(self) -> None:
        self._check(self._blocks)


class PythonMatMul(MatMul):
    def __init__(
        self, blocks: Blocks, check: Check, kernel: str, executor: Executor, handles: list[Handle]
    ) -> None:
        super().__init__(blocks, check)
        self._kernel = kernel
        self._executor = executor
        self._a, self._b = as_grids(handles, blocks.count)

    def step(self, i: int) -> None:
        blocks = self._blocks
        self._executor.map(task, [
            (self._kernel, path, blocks.side, self._a[row][i], self._b[i][column])
            for row, paths in enumerate(blocks.paths) for column, path in enumerate(paths)
        ])  # fmt: skip


class NativeMatMul(MatMul):
    def __init__(
        self, blocks: Blocks, check: Check, workers: NativeWorkers, handles: list[Handle]
    ) -> None:
        super().__init__(blocks, check)
        self._workers = workers
        self._a, self._b = as_grids([str(handle) for handle in handles], blocks.count)

    def step(self, i: int) -> None:
        self._workers.map([
            f"{self._a[row][i]} {self._b[i][column]} {path} {self._blocks.side}"
            for row, paths in enumerate(self._blocks.paths) for column, path in enumerate(paths)
        ])  # fmt: skip


def as_grids(handles: list, count: int) -> tuple[list[list], list[list]]:
    """Those of A, then those of B, row by row."""
    rows = [handles[start : start + count] for start in range(0, len(handles), count)]
    return rows[:count], rows[count:]
