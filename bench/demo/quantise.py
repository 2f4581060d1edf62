# SPDX-License-Identifier: Apache-2.0
"""The main job: k-means colour quantisation of a photograph, by four workers.

Run by `make demo`. The pixels lie in the store once; three Python workers and one C++ worker map
them, and take each round's centres as the newest version.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import forebay
import picture
from arms import WORKERS, Outcome, pickled, with_store
from kernel import first_centres, nearest


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", help="a picture, or a .npy file; default: a photograph")
    parser.add_argument("--colours", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--points", type=int, default=picture.LEAST_POINTS,
                        help="tile the input until there are so many")  # fmt: skip
    parser.add_argument("--worker", type=pathlib.Path, required=True, help="the C++ worker")
    return parser.parse_args()


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def table_of(outcomes: list[Outcome]) -> Table:
    table = Table(title="k-means with four workers")
    table.add_column("data reaches the workers")
    table.add_column("sharing", justify="right")
    table.add_column("rounds", justify="right")
    table.add_column("in all", justify="right")
    table.add_column("private memory\nof the workers", justify="right")
    table.add_column("shared data", justify="right")
    for outcome in outcomes:
        table.add_row(
            outcome.name,
            f"{outcome.sharing_seconds:.2f} s",
            f"{outcome.rounds_seconds:.2f} s",
            f"{outcome.sharing_seconds + outcome.rounds_seconds:.2f} s",
            mebibytes(outcome.private_bytes),
            mebibytes(outcome.shared_bytes) if outcome.name == "store" else "none",
        )
    return table


def main() -> None:
    options = arguments()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    original = picture.load(options.input)
    if options.colours < 1 or options.rounds < 1:
        raise SystemExit("demo: colours and rounds are at least 1")
    points, times = picture.tiled(original.points, options.points)
    console.print(
        f"input: {original.path}, {original.elements.shape}, tiled {times} times to "
        f"{len(points)} x {points.shape[1]} float64 = {mebibytes(points.nbytes)}"
    )
    first = first_centres(original.points, options.colours)
    try:
        store = forebay.connect()
    except forebay.ForebayError as error:
        raise SystemExit(f"demo: no store: {error}") from None
    console.print(f"store: {store!r}")

    outcomes = []
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("rounds"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:

        def run(name: str, arm) -> None:
            task = progress.add_task(name, total=options.rounds)
            outcomes.append(arm(lambda: progress.advance(task)))

        try:
            run("store", lambda tick: with_store(
                store, options.worker, points, first, options.rounds, tick))  # fmt: skip
        except forebay.StoreFull as error:
            progress.stop()
            raise SystemExit(f"demo: {error}") from None
        for name, with_each_task in (
            ("pickled once", False),
            ("pickled with each task", True),
        ):
            run(name, lambda tick, name=name, each=with_each_task: pickled(
                name, each, points, first, options.rounds, tick))  # fmt: skip
    store.close()

    centres = outcomes[0].centres
    for outcome in outcomes[1:]:
        if not np.allclose(outcome.centres, centres, rtol=1e-6, atol=1e-6):
            raise SystemExit(f"demo: 'store' and '{outcome.name}' do not agree on the centres")
    target = original.write_quantised(centres, nearest(original.points, centres))
    console.print(f"quantised to {options.colours} colours: {target} (original: {original.path})")
    console.print(table_of(outcomes))
    console.print(
        f"All ways agree on the centres. Of the store's {WORKERS} workers one is a C++ program that\n"
        "attaches by handle; the others, and all workers of the other rows, are the same Python."
    )


if __name__ == "__main__":
    sys.exit(main())
