# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of the blocked matrix product measures, and what its results are compared with."""

from __future__ import annotations

import argparse

import numpy as np

from matmul.job import Blocks, MatMul, NativeMatMul, PythonMatMul
from paper.arms import Handle, InStore, Places, touch
from paper.driver import Arrays, Benchmark, MemoryPlan, Plan
from paper.executors import Executor
from paper.measuring import Case, WrongResult
from paper.native import NativeWorkers
from paper.options import MEMORY_WORKERS

# (N, b): N such that a run takes a second or less.
SIZES = [(8, 64), (8, 128), (6, 256), (4, 512), (2, 1024), (2, 2048)]
VARIED_COUNTS = [2, 4, 6]
# What one core is expected to multiply, in operations a second, for the progress bar.
EXPECTED_RATE = 5e10


def add_options(parser: argparse.ArgumentParser) -> None:
    from paper.options import at_least, listed, one_of

    parser.add_argument("--blocks", type=at_least(1), metavar="N",
                        help="A, B and C are N x N blocks (default: fewer for larger blocks)")
    parser.add_argument("--block-size", type=at_least(1), metavar="b",
                        help="b x b float64: one case instead of a sweep over sizes")
    parser.add_argument("--sizes", type=listed(at_least(1)), help="b's, of the sweep over sizes")
    parser.add_argument("--vary", type=one_of(("size", "N")), default="size",
                        help="what differs from line to line: size (default) or N, with b = 512")
    parser.add_argument("--check-identity", action="store_true",
                        help="B is the identity, and C has to be A")
    parser.add_argument("--seed", type=at_least(0), default=0)  # fmt: skip


def benchmark(options: argparse.Namespace) -> Benchmark:
    futures = "concurrent.futures"
    if options.quick:
        options.rounds, options.memory_data = 1, 2 * 2 * 2 * 64 * 64 * 8
        plans = [plan_of(options, futures, kernel, "size", 2, 64, identity)
                 for kernel, identity in (("vector", False), ("paper", True))]  # fmt: skip
    elif options.all:
        plans = [plan_of(options, futures, "vector", "size", *size) for size in SIZES]
        plans += [plan_of(options, futures, "vector", "N", count, 512) for count in VARIED_COUNTS]
        for executor in ("joblib", "dask"):
            plans += [plan_of(options, executor, "vector", "size", *size)
                      for size in ((4, 128), (4, 512), (2, 1024))]  # fmt: skip
        plans += [plan_of(options, futures, "paper", "size", *size)
                  for size in ((4, 128), (4, 512), (2, 1024))]  # fmt: skip
    else:
        plans = [plan for executor in options.executor for plan in asked_for(options, executor)]
    memory = None
    if options.all:
        for plan in plans:
            # Where the disk is not the point, reading it would take longer than all the rest.
            if plan.case.varies != "size" or plan.case.executor != "concurrent.futures":
                plan.without = ("B0",)
    if options.memory or options.all or options.quick:
        memory = memory_plan(options)
    return Benchmark("matmul", "matmul_worker", plans, memory)


def asked_for(options: argparse.Namespace, executor: str) -> list[Plan]:
    if options.vary == "N":
        cases = [(count, options.block_size or 512) for count in VARIED_COUNTS]
    elif options.block_size is not None:
        cases = [(options.blocks or 4, options.block_size)]
    else:
        counts = {side: count for count, side in SIZES}
        sides = options.sizes or list(counts)
        cases = [(options.blocks or counts.get(side, 4), side) for side in sides]
    return [plan_of(options, executor, options.kernel, options.vary, *case) for case in cases]


def plan_of(
    options: argparse.Namespace, executor: str, kernel: str, varies: str, count: int, side: int,
    identity: bool = False,
) -> Plan:  # fmt: skip
    identity = identity or options.check_identity
    block_bytes = 8 * side * side
    case = Case(
        benchmark="matmul", executor=executor, kernel=kernel, varies=varies,
        parameters={"N": count, "b": side, "B": "identity" if identity else "random",
                    "seed": options.seed},
        fragment_bytes=block_bytes, data_bytes=2 * count * count * block_bytes,
        tasks_per_step=count * count, steps=count,
    )  # fmt: skip
    made: list[Blocks] = []

    def blocks_in(places: Places) -> Blocks:
        # The same for all arms; they lie in a folder that is removed at the end of the run.
        if not made:
            made.append(Blocks(places.shared_memory, count, side))
        return made[0]

    def refer(arrays: Arrays) -> Reference:
        return Reference([array for _, array in arrays], count, identity)

    def job(
        reference: Reference, executor: Executor, handles: list[Handle], places: Places
    ) -> MatMul:
        return PythonMatMul(blocks_in(places), reference.check, kernel, executor, handles)

    def native_job(
        reference: Reference, workers: NativeWorkers, handles: list[Handle], _: InStore,
        places: Places,
    ) -> MatMul:  # fmt: skip
        return NativeMatMul(blocks_in(places), reference.check, workers, handles)

    return Plan(
        case, lambda: matrices(count, side, options.seed, identity), refer, job,
        native_job if kernel == "vector" else None,
        kernel_seconds=2.0 * side**3 * count * count / EXPECTED_RATE,
        bytes_read_per_step=2 * count * count * block_bytes,
        clean_up=lambda: [blocks.remove() for blocks in made],
    )  # fmt: skip


def matrices(count: int, side: int, seed: int, identity: bool) -> Arrays:
    """The blocks of A, then those of B, row by row, as contiguous arrays."""
    random = np.random.RandomState(seed)
    arrays = [(f"A-{row}-{column}", random.random_sample((side, side)))
              for row in range(count) for column in range(count)]  # fmt: skip
    for row in range(count):
        for column in range(count):
            if identity:
                block = np.eye(side) if row == column else np.zeros((side, side))
            else:
                block = random.random_sample((side, side))
            arrays.append((f"B-{row}-{column}", block))
    return arrays


class Reference:
    """NumPy's product of the whole matrices, or with the identity A itself."""

    def __init__(self, arrays: list[np.ndarray], count: int, identity: bool) -> None:
        a = self._whole(arrays[: count * count], count)
        self._identity = identity
        self._product = a if identity else a @ self._whole(arrays[count * count :], count)

    @staticmethod
    def _whole(blocks: list[np.ndarray], count: int) -> np.ndarray:
        return np.block([blocks[start : start + count] for start in range(0, len(blocks), count)])

    def check(self, blocks: Blocks) -> None:
        side = blocks.side
        for row, paths in enumerate(blocks.paths):
            for column, path in enumerate(paths):
                ours = np.fromfile(path).reshape(side, side)
                theirs = self._product[row * side : (row + 1) * side,
                                       column * side : (column + 1) * side]  # fmt: skip
                if self._identity and not np.array_equal(ours, theirs):
                    raise WrongResult(f"block {row}, {column} of C is not that of A")
                if not np.allclose(ours, theirs, rtol=1e-10):
                    raise WrongResult(f"block {row}, {column} of C is not that of NumPy's product")


def memory_plan(options: argparse.Namespace) -> MemoryPlan:
    # Blocks of 8 MiB, or eight blocks of what there is.
    side = min(1024, int((options.memory_data / 8 / 8) ** 0.5))
    count = max(1, int((options.memory_data / (2 * 8 * side * side)) ** 0.5))

    def native_lines(handles: list[Handle], _: InStore) -> list[str]:
        return [f"touch {handle}" for handle in handles]

    return MemoryPlan(lambda: matrices(count, side, options.seed, False), touch, native_lines,
                      2 * count * count * 8 * side * side,
                      (2,) if options.quick else MEMORY_WORKERS)  # fmt: skip
