# SPDX-License-Identifier: Apache-2.0
"""The work that every peer does, in a process of its own; run.py starts it.

For each size: put some arrays, get random ones and touch their first and last byte, get random ones
and read all of their bytes, delete all. Before that, the same arrays are put and deleted once: a
store that keeps its memory has it warm by then. Prints a line of JSON for each size.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import pathlib
import random
import statistics
import time
from collections.abc import Callable, Iterable

import numpy as np

from peer import BYTE, Peer

FULL_SIZES = [64, 2**10, 2**14, 2**18, 2**22, 2**26, 2**28]
QUICK_SIZES = [64, 2**14, 2**20]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peer", help="module:class")
    parser.add_argument("directory", type=pathlib.Path, help="on tmpfs, empty")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.sizes = QUICK_SIZES if options.quick else FULL_SIZES
    # The arrays of one size: at most so many, and so many bytes, but two at least.
    options.keys, options.bytes = (20, 2**23) if options.quick else (500, 2**27)
    # The gets of one size: at most so many, for about so long.
    options.gets, options.seconds = (50, 0.05) if options.quick else (20_000, 0.2)
    return options


def timed(
    operation: Callable[[str], None],
    keys: Iterable[str],
    seconds: float = float("inf"),
    at_least: int = 5,
) -> list[int]:
    """The nanoseconds of one operation after the other, for about so long and no longer."""
    clock = time.perf_counter_ns
    samples = []
    end = clock() + seconds * 1e9
    for key in keys:
        start = clock()
        operation(key)
        stop = clock()
        samples.append(stop - start)
        if stop > end and len(samples) >= at_least:
            break
    return samples


def check(peer: Peer, key: str, array: np.ndarray) -> None:
    got = peer.get(key)
    if not isinstance(got, np.ndarray) or not np.array_equal(got, array):
        raise SystemExit(f"{key} did not come back as it was put")
    del got
    peer.release(key)


def rehearse(peer: Peer, array: np.ndarray, keys: list[str]) -> None:
    for key in keys:
        peer.put(key, array)
    check(peer, keys[-1], array)
    for key in keys:
        peer.delete(key)


def work(peer: Peer, array: np.ndarray, options: argparse.Namespace) -> dict[str, float]:
    count = max(2, min(options.keys, options.bytes // array.nbytes))
    rehearse(peer, array, [f"{array.nbytes}-r{number}" for number in range(count)])
    keys = [f"{array.nbytes}-{number}" for number in range(count)]
    random_keys = random.Random(0).choices(keys, k=options.gets)

    def put(key: str) -> None:
        peer.put(key, array)

    def get_and_touch(key: str) -> None:
        got = peer.get(key)
        got[0], got[-1]
        del got
        peer.release(key)

    def get_and_read(key: str) -> None:
        got = peer.get(key)
        got.max()
        del got
        peer.release(key)

    put_ns = timed(put, keys)
    get_ns = timed(get_and_touch, random_keys, options.seconds)
    read_ns = timed(get_and_read, random_keys, options.seconds)
    for key in keys:
        peer.delete(key)
    return {
        "size": array.nbytes,
        "put_ns": statistics.median(put_ns),
        "get_ns": statistics.median(get_ns),
        "put_bytes_per_second": array.nbytes * len(put_ns) / (sum(put_ns) / 1e9),
        "get_bytes_per_second": array.nbytes * len(read_ns) / (sum(read_ns) / 1e9),
    }


def main() -> None:
    options = arguments()
    module, name = options.peer.split(":")
    peer: Peer = getattr(importlib.import_module(module), name)(options.directory)
    numbers = np.random.default_rng(0).integers(0, 2**64, max(options.sizes) // 8, np.uint64)
    try:
        gc.disable()
        for size in options.sizes:
            print(json.dumps(work(peer, numbers.view(BYTE)[:size], options)), flush=True)
    finally:
        peer.close()


if __name__ == "__main__":
    main()
