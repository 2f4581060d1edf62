# SPDX-License-Identifier: Apache-2.0
"""get of the Python client beside its floor, as put_get.cpp does it for C++.

Usage: put_get.py SOCKET ROUNDS KEYS
"""

from __future__ import annotations

import json
import random
import sys
import time

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


def main(socket: str, rounds: int, keys: int) -> None:
    store = forebay.connect(socket)
    store.put("python/hot", np.zeros(1000))
    buffer = bytes(8000)
    hot = ["python/hot"] * 100_000
    buffers = [buffer] * 100_000
    row("Python get + release, hot", "np.frombuffer",
        lambda: per(store.get, hot), lambda: per(np.frombuffer, buffers), rounds)  # fmt: skip
    names = [f"python/{number}" for number in range(keys)]
    for name in names:
        store.put(name, np.zeros(8))
    random.Random(0).shuffle(names)
    row(f"Python get + release, random of {keys} keys", "np.frombuffer",
        lambda: per(store.get, names), lambda: per(np.frombuffer, buffers), rounds)  # fmt: skip
    for name in names:
        store.remove(name)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
