# SPDX-License-Identifier: Apache-2.0
"""Runs what a benchmark plans: every arm of every case, and the memory of the arms."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import pathlib
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from paper import arms, daemon, executors, report
from paper.arms import ARMS, Arm, Handle, InStore, Places
from paper.executors import EXECUTORS, Executor
from paper.measuring import Case, Job, WrongResult, measure
from paper.memory import memory_of
from paper.native import NativeWorkers
from paper.options import BUILD

SHARED_MEMORY = pathlib.Path("/dev/shm")
# Of memory, what is left to everything else on the machine.
SPARE_BYTES = 2 * 2**30
# For the progress bar's guess: how fast an arm brings bytes to a task, in bytes a second.
_EXPECTED_RATE = {"B0": 7e8, "B1": 3e9, "B2": 8e9, "B4": 3e9}
# And what a task costs an executor, in seconds.
_EXPECTED_DISPATCH = {"concurrent.futures": 3e-4, "joblib": 1e-3, "dask": 3e-3}

Arrays = list[tuple[str, np.ndarray]]


@dataclasses.dataclass
class Plan:
    """A case, and what it takes to run it."""

    case: Case
    # The data, made anew on each call, and what computes the reference from it. The latter may also
    # correct case.steps, when the algorithm ends earlier.
    arrays: Callable[[], Arrays]
    refer: Callable[[Arrays], Any]
    # The job of a Python arm, and of C++ workers (None: this kernel has none).
    job: Callable[[Any, Executor, list[Handle], Places], Job]
    native_job: Callable[[Any, NativeWorkers, list[Handle], InStore, Places], Job] | None
    # Of all tasks of a step together, for the progress bar.
    kernel_seconds: float
    bytes_read_per_step: int
    clean_up: Callable[[], object] = lambda: None
    without: tuple[str, ...] = ()  # arms

    def expected_seconds(self, arm: str, workers: int) -> float:
        reading = self.bytes_read_per_step / _EXPECTED_RATE.get(arm, 1e12)
        tasks = _EXPECTED_DISPATCH[self.case.executor] * self.case.tasks_per_step
        parallel = min(workers, os.cpu_count() or 1)
        step = tasks + (self.kernel_seconds + reading) / parallel
        return (self.case.steps + 1) * step


@dataclasses.dataclass
class MemoryPlan:
    arrays: Callable[[], Arrays]
    kernel: Callable[[np.ndarray], object]  # what a worker does with each array
    # The same as lines for a C++ worker; with None, only its touching of the segments.
    native_lines: Callable[[list[Handle], InStore], list[str]]
    data_bytes: int
    workers: tuple[int, ...]


@dataclasses.dataclass
class Benchmark:
    name: str
    worker: str  # the C++ program
    plans: list[Plan]
    memory: MemoryPlan | None


def run(benchmark: Benchmark, options: argparse.Namespace) -> None:
    # So that folders, daemon and workers go on SIGTERM, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        _run(benchmark, options)
    except KeyboardInterrupt:
        raise SystemExit(f"{benchmark.name}: interrupted") from None


def _run(benchmark: Benchmark, options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(highlight=False, soft_wrap=True,
                      width=None if sys.stdout.isatty() else 250)  # fmt: skip
    cases = [plan.case for plan in benchmark.plans]
    if not all(_arms_of(plan, options) for plan in benchmark.plans):
        raise SystemExit("bench: none of these arms has the paper kernel; B6 is vector only")
    memory: list[report.MemoryRow] = []
    with contextlib.ExitStack() as stack:
        machine = _machine(options.folder or BUILD)
        console.print(f"{benchmark.name}: {machine['processors']} processors, {machine['processor']}, "
                      f"{report.size(machine['memory_bytes'])} memory; Python {machine['python']}, "
                      f"NumPy {machine['numpy']}; files of B0, B1, B3 on {machine['disk']}, "
                      f"huge pages: {machine['huge_pages']} (shared: {machine['shared_huge_pages']}); "
                      f"{options.workers} workers, {options.rounds} rounds")  # fmt: skip
        # On standard error, so that standard output is the report.
        progress = stack.enter_context(Progress(
            TextColumn("{task.description:42}"), BarColumn(), TimeElapsedColumn(), TextColumn("left:"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=Console(stderr=True), transient=True,
        ))  # fmt: skip
        weights = [{arm: plan.expected_seconds(arm, options.workers)
                    for arm in _arms_of(plan, options)} for plan in benchmark.plans]  # fmt: skip
        memory_weight = _memory_seconds(benchmark.memory)
        memory_runs = (len(_memory_arms(options)) * len(benchmark.memory.workers)
                       if benchmark.memory else 0)  # fmt: skip
        total = options.rounds * sum(sum(weight.values()) for weight in weights)
        bar = progress.add_task(benchmark.name, total=total + memory_runs * memory_weight)

        def tell(what: str) -> None:
            progress.update(bar, description=what)
            if not sys.stderr.isatty():  # where no bar is drawn
                done, left = progress.tasks[0].percentage, progress.tasks[0].time_remaining
                print(f"{done:3.0f} %: {what}" + (f"; {left:.0f} s left" if left else ""),
                      file=sys.stderr, flush=True)  # fmt: skip

        try:
            with _places(options, max(case.data_bytes for case in cases)) as (places, _):
                for name in dict.fromkeys(case.executor for case in cases):
                    with EXECUTORS[name](options.workers) as executor:
                        # Which has it import what all arms need.
                        executor.on_each_worker(arms.forget)
                        for plan, weight in zip(benchmark.plans, weights, strict=True):
                            if plan.case.executor != name:
                                continue
                            tell(_short(plan.case))
                            _run_plan(plan, benchmark, executor, places, options,
                                      lambda arm, weight=weight: progress.advance(bar, weight[arm]))
            if benchmark.memory:
                # With a store that has kept nothing for reuse.
                with _places(options, benchmark.memory.data_bytes) as (places, daemon_pid):
                    memory = _run_memory(
                        benchmark.memory, benchmark, places, daemon_pid, options, tell,
                        lambda: progress.advance(bar, memory_weight),
                    )
        except WrongResult as error:
            raise SystemExit(f"{benchmark.name}: wrong result: {error}") from None
    report.show(console, cases, memory, with_verdicts=not options.quick)
    for note in dict.fromkeys(note for case in cases for note in case.notes):
        console.print(note)
    if options.json:
        report.write_json(options.json, machine, cases, memory)
    if options.plot_folder:
        for path in report.plot(options.plot_folder, cases, memory):
            console.print(f"plot: {path}")


def _short(case: Case) -> str:
    return f"{case.executor}, {case.kernel}, {report.label(case)}"


def _arms_of(plan: Plan, options: argparse.Namespace) -> list[str]:
    return [arm for arm in options.arms
            if arm not in plan.without and (arm != "B6" or plan.native_job)]  # fmt: skip


def _run_plan(
    plan: Plan, benchmark: Benchmark, executor: Executor, places: Places,
    options: argparse.Namespace, tick: Callable[[str], None],
) -> None:  # fmt: skip
    case = plan.case
    arrays = plan.arrays()
    reference = plan.refer(arrays)
    jobs: dict[str, Job] = {}
    with contextlib.ExitStack() as stack:
        stack.callback(plan.clean_up)
        for key in _arms_of(plan, options):
            arm = stack.enter_context(ARMS[key](places))
            handles, case.sharing_seconds[key] = _published(arm, arrays)
            start = time.perf_counter()
            if key == "B6":
                assert isinstance(arm, InStore) and plan.native_job
                workers = stack.enter_context(_native(benchmark, places, options.workers, options))
                if workers.greeting:
                    case.notes.append(f"The C++ workers of B6: {workers.greeting}.")
                start = time.perf_counter()
                workers.on_each_worker([f"touch {handle}" for handle in handles])
                jobs[key] = plan.native_job(reference, workers, handles, arm, places)
            else:
                executor.on_each_worker(arms.open_all, handles)
                jobs[key] = plan.job(reference, executor, handles, places)
            case.first_use_seconds[key] = time.perf_counter() - start
        del arrays
        try:
            measure(case, jobs, options.rounds, tick)
        finally:
            executor.on_each_worker(arms.forget)


def _published(arm: Arm, arrays: Arrays) -> tuple[list[Handle], float]:
    start = time.perf_counter()
    try:
        handles = [arm.publish(name, array) for name, array in arrays]
    except OSError as error:
        raise SystemExit(f"bench: {arm.key} cannot share the data: {error}") from None
    seconds = time.perf_counter() - start
    arm.settle()
    return handles, seconds


def _native(
    benchmark: Benchmark, places: Places, workers: int, options: argparse.Namespace
) -> NativeWorkers:
    program = options.programs / benchmark.worker
    try:
        return NativeWorkers(program, places.socket, workers)
    except OSError as error:
        raise SystemExit(f"bench: {program} does not start: {error.strerror}") from None


# --- memory


def _memory_arms(options: argparse.Namespace) -> list[str]:
    # B0 and B1 differ in the page cache only.
    return [arm for arm in options.arms if arm != "B0"]


def _memory_seconds(plan: MemoryPlan | None) -> float:
    return 1.5 + plan.data_bytes / 2**30 * 3 if plan else 0


def _run_memory(
    plan: MemoryPlan, benchmark: Benchmark, places: Places, daemon_pid: int,
    options: argparse.Namespace, tell: Callable[[str], object], tick: Callable[[], object],
) -> list[report.MemoryRow]:  # fmt: skip
    rows = []
    for key in _memory_arms(options):
        with ARMS[key](places) as arm:
            handles, _ = _published(arm, plan.arrays())
            for workers in plan.workers:
                tell(f"memory, {key}, {workers} workers")
                if key == "B3" and workers * plan.data_bytes + SPARE_BYTES > _available_bytes():
                    print(f"memory: not measured: B3 with {workers} workers, for want of memory",
                          file=sys.stderr)  # fmt: skip
                elif key == "B6":
                    assert isinstance(arm, InStore)
                    with _native(benchmark, places, workers, options) as native:
                        native.on_each_worker(plan.native_lines(handles, arm))
                        rows.append(_memory_row(arm, plan, native.pids, daemon_pid))
                else:
                    with executors.ConcurrentFutures(workers) as executor:
                        executor.on_each_worker(arms.use_all, handles, plan.kernel)
                        pids = executor.on_each_worker(os.getpid)
                        rows.append(_memory_row(arm, plan, pids, daemon_pid))
                tick()
    return rows


def _memory_row(arm: Arm, plan: MemoryPlan, pids: list[int], daemon_pid: int) -> report.MemoryRow:
    workers = [memory_of(pid) for pid in pids]
    others = [memory_of(daemon_pid), memory_of(os.getpid())]
    return report.MemoryRow(
        arm=arm.key, workers=len(pids), data_bytes=plan.data_bytes,
        private_bytes=[memory.private_bytes for memory in workers],
        shared_pss_bytes=sum(memory.shared_pss_bytes for memory in workers + others),
        kept_bytes=arm.kept_bytes(),
    )  # fmt: skip


def _available_bytes() -> int:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


# --- where it runs


@contextlib.contextmanager
def _places(options: argparse.Namespace, most_bytes: int) -> Iterator[tuple[Places, int]]:
    """Folders and a daemon, which are gone afterwards."""
    disk = options.folder or BUILD
    if not disk.is_dir():
        raise SystemExit(f"bench: --folder: {disk} is no folder")
    # B5 and B6 hold the data twice, and results want some room.
    capacity = 2 * most_bytes + most_bytes // 2 + 256 * 2**20
    needed = 4 * most_bytes + 256 * 2**20  # B2, B4, B5, B6
    if shutil.disk_usage(SHARED_MEMORY).free < needed:
        raise SystemExit(f"bench: {SHARED_MEMORY} needs {report.size(needed)} free")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=disk) as on_disk, \
         tempfile.TemporaryDirectory(prefix="bench-", dir=SHARED_MEMORY) as in_memory, \
         daemon.daemon(options.programs, pathlib.Path(in_memory), capacity) as running:  # fmt: skip
        socket, pid = running
        os.environ["FOREBAY_SOCKET"] = socket  # for the workers
        yield Places(pathlib.Path(on_disk), pathlib.Path(in_memory), socket), pid


def _machine(disk: pathlib.Path) -> dict[str, Any]:
    def first_line(path: str) -> str:
        try:
            return pathlib.Path(path).read_text().split("\n")[0]
        except OSError:
            return "unknown"

    processor = next((line.split(":", 1)[1].strip()
                      for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())  # fmt: skip
    file_system = subprocess.run(["stat", "-f", "-c", "%T", disk], capture_output=True,
                                 text=True, check=False).stdout.strip() or "unknown"  # fmt: skip
    if file_system in ("tmpfs", "ramfs"):
        file_system += ", WHICH IS MEMORY: B0 IS NOT COLD"
    thp = "/sys/kernel/mm/transparent_hugepage"
    return {
        "processor": processor,
        "processors": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "disk": file_system,
        "huge_pages": _chosen(first_line(f"{thp}/enabled")),
        "shared_huge_pages": _chosen(first_line(f"{thp}/shmem_enabled")),
    }


def _chosen(text: str) -> str:
    """ "[never]" of "always within_size [never]", as the kernel writes choices."""
    return next((word[1:-1] for word in text.split() if word.startswith("[")), text)
