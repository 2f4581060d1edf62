# SPDX-License-Identifier: Apache-2.0
"""A blocked matrix product whose blocks are three times the store's memory; part of `make bench-spill`.

C[r][c] = sum of A[r][i] @ B[i][c]: the blocks of A, B and C are segments of a forebayd whose capacity
is a third of them, with a forebay-poold beside it. What is read next is known, so the job says it:
`hint` when a block is read again, `prefetch` for the blocks of the next products. Beside it the same
job with room for all blocks, in turn. C is checked after Freivalds, read back from the store.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

import paper.start  # noqa: E402, F401  (before NumPy)

import numpy as np  # noqa: E402

import forebay  # noqa: E402
import forebay.errors  # noqa: E402
from spill import processes  # noqa: E402

MIB = 2**20
PATIENCE = 60.0  # seconds, for room


@dataclasses.dataclass
class Sample:
    seconds: float
    resident: int
    spilled: int
    fetched: int


class Watcher:
    """Looks at the store while the job runs, on connections of its own."""

    def __init__(self, address: str) -> None:
        self.samples: list[Sample] = []
        self._store = forebay.connect(address)
        self._events = self._store.subscribe("")
        self._fetched = 0
        self._end = threading.Event()
        self._start = time.perf_counter()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            last = self._end.wait(0.05)
            with contextlib.suppress(forebay.errors.Timeout):
                while True:
                    event = self._events.next(timeout=0)
                    if event.kind == "restored":
                        self._fetched += event.size
            status = self._store.status()
            self.samples.append(
                Sample(time.perf_counter() - self._start, int(status["used_bytes"]),
                       int(status["spilled_bytes"]), self._fetched)
            )  # fmt: skip
            if last:
                return

    def close(self) -> list[Sample]:
        self._end.set()
        self._thread.join()
        self._store.close()
        return self.samples


class Product:
    """The product of two matrices of `count` x `count` blocks in a store."""

    def __init__(
        self, store: forebay.Store, count: int, side: int, spills: bool, ahead: int
    ) -> None:
        self.store = store
        self.count = count
        self.side = side
        self._spills = spills
        self._ahead = 2 * ahead  # reads

    def fill(self) -> None:
        for matrix, seed in (("A", 1), ("B", 2)):
            random = np.random.default_rng(seed)
            for row in range(self.count):
                for column in range(self.count):
                    with self.store.create(f"{matrix}/{row}/{column}", (self.side, self.side),
                                           timeout=PATIENCE) as block:  # fmt: skip
                        random.random(out=block)

    def multiply(self) -> float:
        """Returns the seconds that it took."""
        # Each row of C from the other side than the one before: what was read last is read first.
        tasks = [
            (row, column if row % 2 == 0 else self.count - 1 - column)
            for row in range(self.count)
            for column in range(self.count)
        ]
        reads = [self._reads(row, column) for row, column in tasks]
        order = sum(reads, [])
        # When each block is read again: the job's own order, turned around.
        uses: dict[str, collections.deque[int]] = collections.defaultdict(collections.deque)
        for number, block in enumerate(order):
            uses[block].append(number)
        product = np.empty((self.side, self.side))
        done = 0
        start = time.perf_counter()
        if self._spills and self._ahead:
            self.store.prefetch(order[: self._ahead])
        for task, (row, column) in enumerate(tasks):
            with self.store.create(f"C/{row}/{column}", (self.side, self.side),
                                   timeout=PATIENCE) as c:  # fmt: skip
                for i in range(self.count):
                    a = self.store.get(f"A/{row}/{i}")
                    b = self.store.get(f"B/{i}/{column}")
                    if self._spills and self._ahead:
                        self.store.prefetch(order[done + self._ahead : done + self._ahead + 2])
                    np.matmul(a, b, out=c if i == 0 else product)
                    if i > 0:
                        c += product
                    del a, b
                    done += 2
            if self._spills:
                self._hint(f"C/{row}/{column}", reads[task], uses, done)
        return time.perf_counter() - start

    def _reads(self, row: int, column: int) -> list[str]:
        return [
            name
            for i in range(self.count)
            for name in (f"A/{row}/{i}", f"B/{i}/{column}")
        ]  # fmt: skip

    def _hint(
        self, c: str, blocks: list[str], uses: dict[str, collections.deque[int]], done: int
    ) -> None:
        over = [c]
        for block in blocks:
            upcoming = uses[block]
            while upcoming and upcoming[0] < done:
                upcoming.popleft()
            if upcoming:
                self.store.hint(block, next_use=upcoming[0] - done + 1)
            else:
                over.append(block)
        self.store.hint(over, last_use=True)

    def check(self) -> None:
        """After Freivalds: A (B x) is C x, for a random x."""
        size = self.count * self.side
        x = np.random.default_rng(3).choice((-1.0, 1.0), size)
        difference = np.abs(self._times("A", self._times("B", x)) - self._times("C", x)).max()
        # Sums of `size` products of numbers below 1, twice.
        if not difference < 1e-13 * size * size:
            raise SystemExit(f"bench: C is not A @ B, but {difference:g} off")

    def _times(self, matrix: str, x: np.ndarray) -> np.ndarray:
        result = np.zeros_like(x)
        for row in range(self.count):
            for column in range(self.count):
                block = self.store.get(f"{matrix}/{row}/{column}", timeout=PATIENCE)
                result[row * self.side : (row + 1) * self.side] += (
                    block @ x[column * self.side : (column + 1) * self.side]
                )
        return result


@contextlib.contextmanager
def address(
    options: argparse.Namespace, folder: pathlib.Path, data_bytes: int, spills: bool
) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        if spills:
            pool = stack.enter_context(
                processes.pool(options.programs, folder, f"{data_bytes * 3 // 2 // MIB}MiB",
                               options.transport)
            )  # fmt: skip
            daemon = stack.enter_context(
                processes.daemon(options.programs, folder, f"{data_bytes // 3 // MIB}MiB", pool,
                                 options.transport)
            )  # fmt: skip
        else:
            daemon = stack.enter_context(
                processes.daemon(options.programs, folder, f"{data_bytes * 3 // 2 // MIB}MiB")
            )
        yield daemon.socket


@dataclasses.dataclass
class Run:
    seconds: float
    samples: list[Sample]


def run(
    options: argparse.Namespace, folder: pathlib.Path, data_bytes: int, spills: bool
) -> Run:
    with address(options, folder, data_bytes, spills) as socket:
        with forebay.connect(socket) as store:
            product = Product(store, options.blocks, options.side, spills, options.ahead)
            product.fill()
            watcher = Watcher(socket)
            try:
                seconds = product.multiply()
            finally:
                samples = watcher.close()
            product.check()
    return Run(seconds, samples)


def plot(path: pathlib.Path, samples: list[Sample], capacity: int, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    times = [sample.seconds for sample in samples]
    for field, label in (
        ("resident", "in the store's memory"),
        ("spilled", "only in the pool"),
        ("fetched", "fetched back so far"),
    ):
        axes.plot(times, [getattr(sample, field) / MIB for sample in samples], label=label)
    axes.axhline(capacity / MIB, color="black", linestyle=":", linewidth=1, label="capacity")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB")
    axes.set_title(title, fontsize="small")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(prog="out_of_core", description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--blocks", type=int, default=6, help="of each matrix, in each direction")
    parser.add_argument("--side", type=int, default=1024, help="of a block")
    # What was prefetched is not let go at once again: this, and the blocks of the product at hand,
    # must be well below the capacity.
    parser.add_argument("--ahead", type=int, default=3,
                        help="so many products ahead their blocks are fetched; 0: not at all")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--transport", default="auto", help='for example "plain tcp"')
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only that nothing rots")
    parser.add_argument("--plot", type=pathlib.Path, help="memory over time, of the last run")
    parser.add_argument("--json", type=pathlib.Path, help="also write all samples there")
    options = parser.parse_args()
    if options.quick:
        options.blocks, options.side, options.rounds = 6, 256, 1
    data_bytes = 3 * options.blocks**2 * options.side**2 * 8
    capacity = data_bytes // 3 // MIB * MIB
    resident: list[Run] = []
    spilled: list[Run] = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
            folder = pathlib.Path(directory)
            resident.append(run(options, folder, data_bytes, spills=False))
            spilled.append(run(options, folder, data_bytes, spills=True))
    if all(one.samples[-1].spilled == 0 for one in spilled):
        raise SystemExit("bench: nothing was spilled")
    ratios = [one.seconds / other.seconds
              for one, other in zip(resident, spilled, strict=True)]  # fmt: skip
    title = (f"{options.blocks} x {options.blocks} blocks of {options.side} x {options.side}: "
             f"{data_bytes // MIB} MiB in a store of {capacity // MIB} MiB")  # fmt: skip
    print(title)
    print(f"everything resident: {spread([one.seconds for one in resident])} s")
    print(f"spilling: {spread([one.seconds for one in spilled])} s, fetched "
          f"{spread([one.samples[-1].fetched / MIB for one in spilled])} MiB")  # fmt: skip
    print(f"speed, of the resident one's: {spread(ratios)}; aimed at: at least 0.5")
    if options.plot:
        plot(options.plot, spilled[-1].samples, capacity, title)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({"resident": [dataclasses.asdict(one) for one in resident],
                        "spilled": [dataclasses.asdict(one) for one in spilled]})
        )  # fmt: skip


if __name__ == "__main__":
    main()
