# SPDX-License-Identifier: Apache-2.0
"""Measures spilling to a pool on this machine, beside a plain TCP stream; `make bench-spill`.

Starts a forebayd and a forebay-poold of its own. Every figure and its floor are measured in turn in
the same run. Shown are medians, least and most, and beside them what is aimed at.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from spill import processes  # noqa: E402


@dataclasses.dataclass
class Row:
    name: str
    unit: str
    floor_name: str
    ours: list[float]
    floor: list[float]

    @property
    def ratios(self) -> list[float]:
        # Without a floor there are none; nor beside a floor of nothing.
        return [ours / floor for ours, floor in zip(self.ours, self.floor, strict=False) if floor]


@dataclasses.dataclass
class Aim:
    """What a figure should be: that of the medians of the ratios, or of the figure itself."""

    at_least: bool
    limit: float
    of_ratio: bool = True

    def met(self, row: Row) -> bool:
        value = statistics.median(row.ratios if self.of_ratio else row.ours)
        return value >= self.limit if self.at_least else value <= self.limit

    def text(self, row: Row) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}" + ("" if self.of_ratio else f" {row.unit}")


# By how the row's name begins.
AIMS = {
    "spill of 4 KiB": None,
    "spill of": Aim(True, 0.90),
    "restore of": Aim(True, 0.95),
    "processor time of daemon and pool, idle": Aim(False, 1, of_ratio=False),
    "processor time of both ends": Aim(False, 0.22, of_ratio=False),
    "get of a spilled 4 KiB, p50": Aim(False, 2),
    "fetch of 4 KiB without the daemon": Aim(False, 2),
    "4 KiB objects in packs": Aim(True, 3),
    "get of a spilled 4 KiB during": Aim(False, 1000, of_ratio=False),
    "get of a hot resident": Aim(False, 1.1),
    "get of a random resident": Aim(False, 2),
}


def aim_of(row: Row) -> Aim | None:
    return next((aim for start, aim in AIMS.items() if row.name.startswith(start)), None)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def table(rows: list[Row]) -> Iterator[str]:
    yield "| what | | ours | floor | ratio | aimed at | | floor is |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for row in rows:
        aim = aim_of(row)
        yield (
            f"| {row.name} | {row.unit} | {spread(row.ours)} "
            f"| {spread(row.floor) if row.floor else ''} "
            f"| {spread(row.ratios) if row.ratios else ''} | {aim.text(row) if aim else ''} "
            f"| {('yes' if aim.met(row) else '**no**') if aim else ''} | {row.floor_name} |"
        )


def measured(options: argparse.Namespace) -> Iterator[Row]:
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="forebay-bench-"))
        )
        mebibytes = options.mebibytes
        pool = stack.enter_context(
            processes.pool(options.programs, folder, f"{4 * mebibytes + 256}MiB", options.transport)
        )
        daemon = stack.enter_context(
            processes.daemon(options.programs, folder, f"{6 * mebibytes + 256}MiB", pool,
                             options.transport)
        )  # fmt: skip
        print(f"transport: {pool.transport}", file=sys.stderr)
        command = [options.programs / "spill_worker", daemon.socket, pool.address, pool.key_file,
                   options.transport, daemon.process.pid, pool.process.pid, options.rounds,
                   mebibytes]  # fmt: skip
        worker = stack.enter_context(
            subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True)
        )
        assert worker.stdout is not None
        for line in worker.stdout:
            yield Row(**json.loads(line))
        if worker.wait() != 0:
            raise SystemExit("bench: spill_worker failed")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-spill", description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--mebibytes", type=int, default=256, help="moved in each sample")
    parser.add_argument("--transport", default="auto", help='for example "plain tcp"')
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only that nothing rots")
    parser.add_argument("--json", type=pathlib.Path, help="also write all samples there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.mebibytes = 1, 16
    rows = []
    for row in measured(options):
        rows.append(row)
        print(f"measured: {row.name}", file=sys.stderr)
    print("\n".join(table(rows)))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
