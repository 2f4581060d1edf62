# SPDX-License-Identifier: Apache-2.0
"""get and put of the Python client beside their floors and beside py-lmdb.

Usage: put_get.py SOCKET ROUNDS KEYS MEBIBYTES
"""

from __future__ import annotations

import json
import mmap
import random
import sys
import tempfile
import time

import lmdb
import numpy as np

import forebay


def row(name: str, floor_name: str, ours, floor, rounds: int) -> None:
    ours()
    floor()
    ours_ns = []
    floor_ns = []
    for _ in range(rounds):
        floor_ns.append(floor())
        ours_ns.append(ours())
    print(json.dumps({"name": name, "floor": floor_name, "ours_ns": ours_ns, "floor_ns": floor_ns}),
          flush=True)  # fmt: skip


def per(function, arguments: list) -> float:
    start = time.perf_counter_ns()
    for argument in arguments:
        function(argument)
    return (time.perf_counter_ns() - start) / len(arguments)


class Lmdb:
    """What a py-lmdb user writes to get an array without a copy."""

    def __init__(self, directory: str) -> None:
        self.environment = lmdb.open(directory, map_size=2**32, sync=False)

    def put(self, key: str, array: np.ndarray) -> None:
        with self.environment.begin(write=True) as transaction:
            transaction.put(key.encode(), array.tobytes())

    def get(self, key: str) -> np.ndarray:
        with self.environment.begin(buffers=True) as transaction:
            return np.frombuffer(transaction.get(key.encode()))


def gets(store: forebay.Store, rounds: int, keys: int, mebibytes: int) -> None:
    with tempfile.TemporaryDirectory(prefix="forebay-bench-", dir="/dev/shm") as directory:
        peer = Lmdb(directory)
        for name, array in (
            ("8 kB", np.zeros(1000)),
            (f"{mebibytes} MiB", np.zeros(mebibytes * 2**17)),
        ):
            store.put("python/hot", array)
            peer.put("python/hot", array)
            hot = ["python/hot"] * 50_000
            row(f"Python get + release, hot, {name}", "py-lmdb",
                lambda: per(store.get, hot), lambda: per(peer.get, hot), rounds)  # fmt: skip
            store.remove("python/hot")
        names = [f"python/{number}" for number in range(keys)]
        for name in names:
            store.put(name, np.zeros(8))
            peer.put(name, np.zeros(8))
        random.Random(0).shuffle(names)
        row(f"Python get + release, random of {keys}", "py-lmdb",
            lambda: per(store.get, names), lambda: per(peer.get, names), rounds)  # fmt: skip
        for name in names:
            store.remove(name)


def puts(store: forebay.Store, rounds: int, mebibytes: int) -> None:
    array = np.ones(mebibytes * 2**17)
    warm = np.frombuffer(mmap.mmap(-1, array.nbytes))
    warm[:] = 1

    def put() -> float:
        start = time.perf_counter_ns()
        store.put("python/large", array)
        elapsed = time.perf_counter_ns() - start
        store.remove("python/large")
        return elapsed

    def copy() -> float:
        start = time.perf_counter_ns()
        np.copyto(warm, array)
        return time.perf_counter_ns() - start

    row(f"Python put {mebibytes} MiB, steady", "np.copyto into warm shared memory", put, copy, rounds)


def main(socket: str, rounds: int, keys: int, mebibytes: int) -> None:
    store = forebay.connect(socket)
    gets(store, rounds, keys, mebibytes)
    puts(store, rounds, mebibytes)
    if mebibytes >= 64:
        puts(store, rounds, 1024)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
