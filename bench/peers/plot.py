# SPDX-License-Identifier: Apache-2.0
"""Draws what run.py measured: latency.png and throughput.png, beside this file.

Usage: plot.py RESULTS
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
MARKERS = "os^vDP*Xph<>"
FLOORS = {"put": "floor: memcpy, warm memory", "get": "floor: np.frombuffer"}


def show_size(size: float, _: object = None) -> str:
    if size < 2**10:
        return f"{size:.0f} B"
    return f"{size / 2**10:.0f} KiB" if size < 2**20 else f"{size / 2**20:.0f} MiB"


def show_time(seconds: float, _: object = None) -> str:
    for limit, factor, unit in ((1e-6, 1e9, "ns"), (1e-3, 1e6, "us"), (1, 1e3, "ms")):
        if seconds < limit * 0.999:
            return f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.0f} s"


def show_rate(rate: float, _: object = None) -> str:
    for limit, divisor, unit in ((1e6, 1e3, "kB/s"), (1e9, 1e6, "MB/s"), (1e12, 1e9, "GB/s")):
        if rate < limit * 0.999:
            return f"{rate / divisor:.0f} {unit}"
    return f"{rate / 1e12:.0f} TB/s"


def draw(
    axes: Axes, results: list[dict], what: str, scale: float, show: Callable[..., str], title: str
) -> None:
    colours = iter(plt.get_cmap("tab10").colors)
    markers = iter(MARKERS)
    for result in results:
        if result["failure"]:
            continue
        rounds = result["rounds"]
        sizes = sorted(int(size) for size in rounds[0])
        values = [scale * statistics.median(figures[str(size)][what] for figures in rounds)
                  for size in sizes]  # fmt: skip
        if result["name"] == "floor":
            axes.plot(sizes, values, "--", color="black", label=FLOORS[what[:3]])
        elif result["name"] == "Forebay":
            axes.plot(sizes, values, "-o", color="red", linewidth=2.5, zorder=3, label="Forebay")
        else:
            colour = next(colours)
            if colour[0] > 0.8 and colour[1] < 0.2:  # tab10's red is too near Forebay's
                colour = next(colours)
            axes.plot(sizes, values, color=colour, marker=next(markers), markersize=4,
                      linewidth=1.2, label=result["name"])  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(show_size)
    axes.yaxis.set_major_formatter(show)
    axes.tick_params(axis="x", labelrotation=40, which="both")
    axes.minorticks_off()
    axes.grid(True, alpha=0.3)
    axes.set_title(title)
    axes.legend(fontsize=7)


def figure(
    results: list[dict], file: str, show: Callable[..., str], scale: float, panels: dict[str, str]
) -> None:
    drawing, both = plt.subplots(1, len(panels), figsize=(12, 5.2), layout="constrained")
    for axes, (what, title) in zip(both, panels.items(), strict=True):
        draw(axes, results, what, scale, show, title)
    drawing.savefig(HERE / file, dpi=110)


def main(results: pathlib.Path) -> None:
    measured = json.loads(results.read_text())
    figure(measured, "latency.png", show_time, 1e-9,
           {"put_ns": "put, p50", "get_ns": "get, touch both ends, release, p50"})  # fmt: skip
    figure(measured, "throughput.png", show_rate, 1,
           {"put_bytes_per_second": "put, bytes a second",
            "get_bytes_per_second": "get and read, bytes a second"})  # fmt: skip


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
