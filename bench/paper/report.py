# SPDX-License-Identifier: Apache-2.0
"""Tables for people, JSON for programs, and plots."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from paper.arms import ARMS
from paper.measuring import Case, Spread, verdicts

if TYPE_CHECKING:
    from rich.console import Console

# What is asked of B5 and B6.
MOST_SHARED = 1.02  # of the data: Pss_Shmem of daemon, master and workers together
MOST_PRIVATE_BYTES = 64 * 2**20  # a worker


@dataclasses.dataclass
class MemoryRow:
    arm: str
    workers: int
    data_bytes: int
    private_bytes: list[int]  # of each worker
    shared_pss_bytes: int  # of daemon, master and workers together
    kept_bytes: int  # see Arm.kept_bytes

    @property
    def node_bytes(self) -> int:
        return sum(self.private_bytes) + max(self.shared_pss_bytes, self.kept_bytes)

    @property
    def met(self) -> bool:
        return (self.shared_pss_bytes <= MOST_SHARED * self.data_bytes
                and max(self.private_bytes) <= MOST_PRIVATE_BYTES)  # fmt: skip


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def of_ratio(spread: Spread, digits: int = 2) -> str:
    return f"{spread.median:.{digits}f} ({spread.least:.2f} to {spread.most:.2f})"


def groups(cases: list[Case]) -> Iterator[list[Case]]:
    """Cases that differ in one parameter only: a table each."""
    by_group: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        by_group.setdefault((case.executor, case.kernel, case.varies), []).append(case)
    yield from by_group.values()


def label(case: Case) -> str:
    parameters = case.parameters
    if case.varies == "size":
        extra = f", N = {parameters['N']}" if "N" in parameters else ""
        extra = f"b = {parameters['b']}{extra}, " if "b" in parameters else extra
        return f"{extra}{size(case.fragment_bytes)}"
    return f"{case.varies} = {parameters[case.varies]}"


def heading(group: list[Case]) -> str:
    first = group[0]
    same = {name: value for name, value in first.parameters.items()
            if all(case.parameters[name] == value for case in group)}  # fmt: skip
    told = ", ".join(f"{name} = {value}" for name, value in same.items())
    return f"{first.benchmark}, {first.kernel} kernel, {first.executor}: {told}"


def show(
    console: Console, cases: list[Case], memory: list[MemoryRow], with_verdicts: bool = True
) -> None:
    """As Markdown, so that it can go into a README as it is."""
    for group in groups(cases):
        arms = list(group[0].seconds)
        _table(console, heading(group) + ". Milliseconds a step: median (least to most)",
               ["fragment" if group[0].varies == "size" else group[0].varies,
                *(f"{arm} {ARMS[arm].title}" for arm in arms)],
               [[label(case)] + [_step(case, arm) for arm in arms] for case in group])  # fmt: skip
        if "B5" in arms and len(arms) > 1:
            others = [arm for arm in arms if arm != "B5"]
            _table(console, "The time of B5 as a multiple of each other arm's, in the same round",
                   ["", *(f"to {arm}" for arm in others)],
                   [[label(case)] + [of_ratio(Spread.of(case.ratios("B5", arm))) for arm in others]
                    for case in group])  # fmt: skip
        _table(console, "Not in the times above, in ms: sharing the data by the master, "
               "then the first use of all of it by every worker at once",
               ["", *arms],
               [[label(case)] + [f"{milliseconds(1e3 * case.sharing_seconds[arm])} + "
                                 f"{milliseconds(1e3 * case.first_use_seconds[arm])}"
                                 for arm in arms] for case in group])  # fmt: skip
    if memory:
        _table(console, f"Memory, {size(memory[0].data_bytes)} of data; concurrent.futures",
               ["arm", "workers", "private, a worker", "Pss_Shmem of all", "of the data",
                "the node in all"],
               [[f"{row.arm} {ARMS[row.arm].title}", str(row.workers),
                 size(max(row.private_bytes)), size(row.shared_pss_bytes),
                 f"{row.shared_pss_bytes / row.data_bytes:.3f}", size(row.node_bytes)]
                for row in memory])  # fmt: skip
    if with_verdicts:
        _show_verdicts(console, cases, memory)


def _step(case: Case, arm: str) -> str:
    spread = Spread.of(case.step_milliseconds(arm))
    return (f"{milliseconds(spread.median)} ({milliseconds(spread.least)} to "
            f"{milliseconds(spread.most)})")  # fmt: skip


def _table(console: Console, title: str, columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.table import Table

    console.print(f"\n{title}:\n")
    table = Table(box=box.MARKDOWN)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    with console.capture() as captured:
        console.print(table)
    lines = (line.rstrip() for line in captured.get().splitlines())
    console.print("\n".join(line for line in lines if line))


def _show_verdicts(console: Console, cases: list[Case], memory: list[MemoryRow]) -> None:
    rows = []
    for case in cases:
        for verdict in verdicts(case):
            sign = "<" if verdict.limit == 1 else "≤"
            rows.append([f"{case.executor}, {label(case)}", f"{verdict.arm}/{verdict.to}",
                         f"{sign} {verdict.limit:g}", of_ratio(verdict.ratio, digits=3),
                         "met" if verdict.met else "missed"])  # fmt: skip
    for row in memory:
        if row.arm in ("B5", "B6"):
            rows.append([f"memory, {row.workers} workers", row.arm,
                         f"≤ {MOST_SHARED:g}, ≤ {size(MOST_PRIVATE_BYTES)}",
                         f"{row.shared_pss_bytes / row.data_bytes:.3f}, "
                         f"{size(max(row.private_bytes))}",
                         "met" if row.met else "missed"])  # fmt: skip
    if rows:
        missed = sum(row[-1] == "missed" for row in rows)
        _table(console, f"What was aimed at: {len(rows) - missed} met, {missed} missed",
               ["case", "of", "limit", "measured", ""], rows)  # fmt: skip


def write_json(
    path: pathlib.Path, machine: dict[str, Any], cases: list[Case], memory: list[MemoryRow]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "machine": machine,
        "cases": [dataclasses.asdict(case) for case in cases],
        "memory": [dataclasses.asdict(row) for row in memory],
    }, indent=1) + "\n")  # fmt: skip


# --- plots

_COLOURS = {"B0": "#999999", "B1": "#56b4e9", "B2": "#009e73", "B3": "#e69f00", "B4": "#cc79a7",
            "B5": "#d55e00", "B6": "#0072b2"}  # fmt: skip


def plot(folder: pathlib.Path, cases: list[Case], memory: list[MemoryRow]) -> list[pathlib.Path]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for group in groups(cases):
        first = group[0]
        if len(group) < 2:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        for arm in first.seconds:
            spreads = [Spread.of(case.step_milliseconds(arm)) for case in group]
            medians = [spread.median for spread in spreads]
            axes.errorbar(
                [_position(case) for case in group], medians, label=f"{arm} {ARMS[arm].title}",
                yerr=[[spread.median - spread.least for spread in spreads],
                      [spread.most - spread.median for spread in spreads]],
                color=_COLOURS[arm], marker="o", markersize=4, capsize=2,
                linewidth=2.5 if arm == "B5" else 1.2,
            )  # fmt: skip
        if first.varies == "size":
            axes.set_xscale("log", base=2)
            axes.set_xticks([_position(case) for case in group], [label(case) for case in group],
                            rotation=20, fontsize="small")  # fmt: skip
            axes.minorticks_off()
        axes.set_yscale("log")
        axes.set_xlabel("fragment" if first.varies == "size" else first.varies)
        axes.set_ylabel("milliseconds a step, median (least to most)")
        axes.set_title(heading(group), fontsize="small")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        executor = first.executor.replace(".", "-")
        written.append(folder / f"{first.benchmark}-{first.kernel}-{first.varies}-{executor}.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
    if memory:
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        for arm in dict.fromkeys(row.arm for row in memory):
            rows = [row for row in memory if row.arm == arm]
            axes.plot([row.workers for row in rows], [row.node_bytes / 2**30 for row in rows],
                      label=f"{arm} {ARMS[arm].title}", color=_COLOURS[arm], marker="o",
                      linewidth=2.5 if arm == "B5" else 1.2)  # fmt: skip
        axes.set_xscale("log", base=2)
        workers = sorted({row.workers for row in memory})
        axes.set_xticks(workers, [str(count) for count in workers])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("workers")
        axes.set_ylabel("GiB: private memory of the workers, and what the arm keeps")
        axes.set_title(f"memory, {size(memory[0].data_bytes)} of data", fontsize="small")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        written.append(folder / f"{cases[0].benchmark if cases else 'memory'}-memory.png")
        figure.savefig(written[-1], dpi=110)
        pyplot.close(figure)
    return written


def _position(case: Case) -> float:
    if case.varies == "size":
        return case.fragment_bytes
    position: float = case.parameters[case.varies]
    return position
