# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks against daemons of their own and prints tables; `make bench`.

Every figure stands beside its floor or its peer, measured in turn in the same run. Shown are medians,
and the median of the ratios with the least and the largest one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass
class Row:
    name: str
    floor: str
    ours_ns: list[float]
    floor_ns: list[float]

    @property
    def ratios(self) -> list[float]:
        return [ours / floor for ours, floor in zip(self.ours_ns, self.floor_ns, strict=True)]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--gibibyte", type=int, default=1024, help="of the largest puts, in MiB")
    parser.add_argument("--most", type=int, default=10_000_000, help="segments, for the growth")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only that nothing rots")
    parser.add_argument("--json", type=pathlib.Path, help="also write all samples there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.keys, options.mebibytes = 2, 2000, 1
        options.gibibyte, options.most = 2, 1000
    return options


class Programs:
    """The built programs, and the daemons that the benchmarks run against."""

    def __init__(self, directory: pathlib.Path, work: pathlib.Path) -> None:
        self.directory = directory
        self.work = work

    def run(self, name: str, *arguments: object) -> str:
        command = [self.directory / name, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"bench: {name} failed:\n{done.stderr}")
        return done.stdout

    def status(self, socket: str) -> dict[str, str]:
        text = self.run("forebay", "--socket", socket, "status")
        return dict(line.split(" ", 1) for line in text.splitlines())

    @contextlib.contextmanager
    def daemon(self, reserve_mebibytes: int, capacity: str = "40%") -> Iterator[str]:
        """Start a daemon, wait until its reserve is warm, and end it."""
        socket = str(self.work / "forebay.sock")
        daemon = subprocess.Popen(
            [self.directory / "forebayd", "--socket", socket, "--capacity", capacity,
             "--reserve", f"{reserve_mebibytes}MiB", "--drop", "--log-level", "warning"]
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            while not pathlib.Path(socket).exists():
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit("bench: forebayd did not start")
                time.sleep(0.01)
            while int(self.status(socket)["warm_bytes"]) < reserve_mebibytes * 2**20:
                if time.monotonic() > deadline:
                    raise SystemExit("bench: the reserve did not get warm")
                time.sleep(0.05)
            yield socket
        finally:
            daemon.terminate()
            daemon.wait()


def timed(command: list[object]) -> float:
    start = time.perf_counter_ns()
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter_ns() - start


def steady(programs: Programs, options: argparse.Namespace) -> Iterator[Row]:
    """Yield the rows that a program measures by itself against a running daemon."""
    with programs.daemon(8 if options.quick else 512) as socket:
        commands: list[list[object]] = [
            [programs.directory / "put_get", socket, options.rounds, options.keys, options.mebibytes],
            [programs.directory / "readers", socket, options.rounds,
             2000 if options.quick else 2_000_000],
            [sys.executable, HERE / "put_get.py", socket, options.rounds,
             min(options.keys, 50_000), options.mebibytes],
            [sys.executable, HERE / "tasks.py", socket, options.rounds],
            [programs.directory / "versions", socket, options.rounds, options.gibibyte],
        ]  # fmt: skip
        for command in commands:
            with subprocess.Popen(
                list(map(str, command)), stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                for line in process.stdout:
                    yield Row(**json.loads(line))
            if process.returncode != 0:
                raise SystemExit(f"bench: {command[0]} failed")


def first_put(programs: Programs, options: argparse.Namespace) -> Iterator[Row]:
    samples: dict[str, list[float]] = {"put_ns": [], "faulted_ns": [], "untouched_ns": []}
    for _ in range(options.rounds):
        with programs.daemon(options.gibibyte + options.gibibyte // 8 + 1) as socket:
            for key, value in json.loads(
                programs.run("first_put", socket, options.gibibyte)
            ).items():
                samples[key].append(value)
    name = f"first put into a fresh store, {options.gibibyte} MiB"
    yield Row(name, "memcpy into pre-faulted memory", samples["put_ns"], samples["faulted_ns"])
    yield Row(name, "memcpy into untouched memory", samples["put_ns"], samples["untouched_ns"])


def fresh_process(programs: Programs, options: argparse.Namespace) -> Iterator[Row]:
    array = np.arange(options.gibibyte * 2**17, dtype=np.float64)
    bare = pathlib.Path("/dev/shm") / f"forebay-bench-{os.getpid()}"
    with programs.daemon(options.gibibyte + 16) as socket:
        import forebay

        try:
            array.tofile(bare)
            with forebay.connect(socket) as store:
                store.put("attach", array)
            attach = programs.directory / "attach"
            ours, floor = [], []
            for _ in range(options.rounds + 1):
                floor.append(timed([attach, "--bare", bare]))
                ours.append(timed([attach, socket, "attach"]))
        finally:
            bare.unlink(missing_ok=True)
    yield Row(
        f"fresh process: connect, first get of {options.gibibyte} MiB, sum",
        "map, populate and sum in a fresh process",
        ours[1:],
        floor[1:],
    )


def connecting(programs: Programs, options: argparse.Namespace) -> tuple[list[str], Row]:
    with programs.daemon(8) as socket:
        measured = json.loads(
            programs.run("connect", socket, options.rounds, programs.directory / "forebayd",
                         programs.work)
        )  # fmt: skip
    lines = ["", "| what | median (least to most) |", "| --- | --- |"]
    for key, name in (
        ("running_ns", "connect() with a daemon running"),
        ("starting_ns", "connect() that starts one"),
    ):
        values = measured[key]
        lines.append(f"| {name} | {spread(values)} |")
    code = "import time; t = time.perf_counter_ns(); import {}; print(time.perf_counter_ns() - t)"
    times: dict[str, list[float]] = {"numpy": [], "forebay": []}
    for _ in range(options.rounds + 1):
        for module, values in times.items():
            done = subprocess.run([sys.executable, "-c", code.format(module)], check=True,
                                  capture_output=True, text=True)  # fmt: skip
            values.append(float(done.stdout))
    row = Row("import forebay", "import numpy", times["forebay"][1:], times["numpy"][1:])
    return lines, row


def growth(programs: Programs, options: argparse.Namespace) -> list[str]:
    capacity = "64MiB" if options.quick else "4GiB"
    with programs.daemon(8, capacity) as socket:
        text = programs.run("many", socket, options.most)
    lines = [
        "",
        "| segments of 64 B | put in batches, each | get, random | of these loads | put | remove "
        "| all listed in pages, each | memory beside payload, each |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for line in text.splitlines():
        at = json.loads(line)
        listed = show(at["list_all_ns"] / at["segments"]) if at["list_all_ns"] else "not measured"
        lines.append(
            f"| {at['segments']:,} | {show(at['put_many_ns'])} | {show(at['get_ns'])} "
            f"| {at['get_ns'] / at['load_ns']:.2f} × {show(at['load_ns'])} | {show(at['put_ns'])} "
            f"| {show(at['remove_ns'])} | {listed} | {at['bytes_each']:.0f} B |"
        )
    return lines


def show(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if nanoseconds < limit:
            return f"{nanoseconds / divisor:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"


def spread(values: list[float]) -> str:
    return f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"


def table(rows: list[Row]) -> list[str]:
    lines = [
        "| what | ours | floor | ratio (least to most) | floor is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {show(statistics.median(row.ours_ns))} "
            f"| {show(statistics.median(row.floor_ns))} "
            f"| {statistics.median(row.ratios):.2f} ({min(row.ratios):.2f} to {max(row.ratios):.2f}) "
            f"| {row.floor} |"
        )
    return lines


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        programs = Programs(options.programs, pathlib.Path(directory))
        rows: list[Row] = []
        for part in (steady, first_put, fresh_process):
            for row in part(programs, options):
                rows.append(row)
                print(f"measured: {row.name}", file=sys.stderr)
        connect_lines, import_row = connecting(programs, options)
        rows.append(import_row)
        lines = table(rows) + connect_lines + growth(programs, options)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
