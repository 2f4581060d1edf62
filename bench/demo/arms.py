# SPDX-License-Identifier: Apache-2.0
"""The same job, its data shared in three ways: by the store, pickled once, pickled with each task."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

import forebay
from kernel import next_centres, partial_sums

HERE = pathlib.Path(__file__).parent
WORKERS = 4
FRAGMENTS_PER_WORKER = 2
PATIENCE_SECONDS = 120
# Workers share two cores or so: a thread pool in each would only make them fight.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclasses.dataclass
class Outcome:
    name: str
    centres: np.ndarray
    sharing_seconds: float  # until every worker has its data
    rounds_seconds: float
    private_bytes: int  # of all workers together, that no other process shares
    shared_bytes: int  # of the data itself, counted once


Tick = Callable[[], None]


def memory_of(pid: int) -> tuple[int, int]:
    """Private bytes, and this process's share of shared memory (its PSS), from smaps_rollup."""
    private = shared = 0
    for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("Private_Clean", "Private_Dirty"):
            private += int(value.split()[0]) * 1024
        elif name == "Pss_Shmem":
            shared = int(value.split()[0]) * 1024
    return private, shared


def fragments_of(points: np.ndarray) -> list[np.ndarray]:
    return np.array_split(points, WORKERS * FRAGMENTS_PER_WORKER)


# --- through the store


@contextlib.contextmanager
def cleaned(store: forebay.Store, prefix: str) -> Iterator[None]:
    try:
        yield
    finally:
        for name in {segment.id for segment in store.list(prefix)}:
            store.remove(name)


def with_store(
    store: forebay.Store, worker: pathlib.Path, points: np.ndarray, first: np.ndarray,
    rounds: int, tick: Tick,
) -> Outcome:  # fmt: skip
    """Pixels are put once; workers map them; centres are a new version each round."""
    prefix = f"demo/kmeans/{os.getpid()}"
    with cleaned(store, prefix), contextlib.ExitStack() as stack:
        start = time.perf_counter()
        refs = [
            store.put(f"{prefix}/pixels/{number}", fragment)
            for number, fragment in enumerate(fragments_of(points))
        ]
        commands = [[sys.executable, str(HERE / "worker.py")]] * (WORKERS - 1) + [[str(worker)]]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(sys.path)}
        workers = [
            subprocess.Popen(
                [*command, store.address, prefix, str(number), *map(str, refs[number::WORKERS])],
                env=environment,
            )
            for number, command in enumerate(commands)
        ]
        for one in workers:
            stack.callback(one.kill)
        for number, one in enumerate(workers):
            take(store, f"{prefix}/ready/{number}", 1, one)
        sharing = time.perf_counter() - start

        start = time.perf_counter()
        centres = first
        for round_number in range(1, rounds + 1):
            store.put(f"{prefix}/centres", centres, version=round_number)
            sums = sum(
                take(store, f"{prefix}/sums/{number}", round_number, one)
                for number, one in enumerate(workers)
            )
            centres = next_centres(sums, centres)
            tick()
        seconds = time.perf_counter() - start
        memory = [memory_of(one.pid) for one in workers]
        store.put(f"{prefix}/centres", np.empty((0, points.shape[1])), version=rounds + 1)
        for one in workers:
            if one.wait(PATIENCE_SECONDS) != 0:
                raise SystemExit("demo: a worker failed")
        return Outcome(
            "store", centres, sharing, seconds,
            sum(private for private, _ in memory), points.nbytes,
        )  # fmt: skip


def take(
    store: forebay.Store, name: str, version: int, worker: subprocess.Popen[bytes]
) -> np.ndarray:
    """A worker's result; it is removed, for nobody else wants it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        sums = store.get(name, version, timeout=0.5, default=None)
        if sums is not None:
            store.remove(name, version)
            return sums
        if worker.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"demo: the worker of {name} has ended, or does not answer")


# --- pickled


def pickled_worker(pipe: multiprocessing.connection.Connection, with_each_task: bool) -> None:
    fragments = None if with_each_task else pipe.recv()
    pipe.send(None)  # ready
    while True:
        message = pipe.recv()
        if message is None:
            return
        if with_each_task:
            fragments, centres = message
        else:
            centres = message
        pipe.send(sum(partial_sums(fragment, centres) for fragment in fragments))


def pickled(
    name: str, with_each_task: bool, points: np.ndarray, first: np.ndarray, rounds: int, tick: Tick
) -> Outcome:
    """Each worker gets its fragments through a pipe: once, or again with each task."""
    os.environ.update(ONE_THREAD)
    context = multiprocessing.get_context("spawn")
    start = time.perf_counter()
    fragments = fragments_of(points)
    pipes = []
    workers = []
    for number in range(WORKERS):
        mine, theirs = context.Pipe()
        worker = context.Process(target=pickled_worker, args=(theirs, with_each_task), daemon=True)
        worker.start()
        theirs.close()
        pipes.append(mine)
        workers.append(worker)
    if not with_each_task:
        for number, pipe in enumerate(pipes):
            pipe.send(fragments[number::WORKERS])
    for pipe in pipes:
        pipe.recv()
    sharing = time.perf_counter() - start

    start = time.perf_counter()
    centres = first
    for _ in range(rounds):
        for number, pipe in enumerate(pipes):
            pipe.send((fragments[number::WORKERS], centres) if with_each_task else centres)
        centres = next_centres(sum(pipe.recv() for pipe in pipes), centres)
        tick()
    seconds = time.perf_counter() - start
    private = sum(memory_of(worker.pid)[0] for worker in workers)
    for pipe in pipes:
        pipe.send(None)
    for worker in workers:
        worker.join()
    # The parent keeps the original, as the store's run keeps the segments.
    return Outcome(name, centres, sharing, seconds, private, points.nbytes)
