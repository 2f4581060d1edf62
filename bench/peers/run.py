# SPDX-License-Identifier: Apache-2.0
"""Measures Forebay and its peers in turn, on the same work, and prints a table; `make bench-peers`.

Each peer gets a virtual environment of its own, with pinned versions. A round is one run of work.py
for each peer, one after the other, in processes of their own; shown are medians of the rounds. A
peer that cannot be had is named, with the reason.
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
SHARED_MEMORY = pathlib.Path("/dev/shm")
NUMPY = "numpy==2.4.6"
# What the largest store may fill, and the work of the others.
NEEDED_BYTES = 5 * 2**30


@dataclasses.dataclass
class Contender:
    """One row of the table: an adapter, what it needs, and what its rounds gave."""

    name: str
    adapter: str
    # Empty: this interpreter, with what it has.
    environment: str = ""
    requirements: tuple[str, ...] = ()
    # In a quick run too, by this interpreter: it needs nothing but NumPy.
    quick: bool = False
    python: str = sys.executable
    failure: str = ""
    # One round each: by size, what work.py printed.
    rounds: list[dict[int, dict[str, float]]] = dataclasses.field(default_factory=list)


def contenders() -> list[Contender]:
    return [
        Contender("floor", "floor_peer:Floor", quick=True),
        Contender("Forebay", "forebay_peer:Forebay", quick=True),
        Contender("py-lmdb 3.0.0", "lmdb_peer:Lmdb", "lmdb", ("lmdb==3.0.0", NUMPY)),
        Contender("shared_memory, kept attached", "shared_memory_peer:Kept", "shared_memory",
                  (NUMPY,), quick=True),
        Contender("shared_memory, attached each time", "shared_memory_peer:Attached",
                  "shared_memory", (NUMPY,), quick=True),
        Contender("np.load, mapped", "np_load_peer:NpLoad", "np_load", (NUMPY,), quick=True),
        Contender("joblib 1.6.0, mapped", "joblib_peer:Joblib", "joblib", ("joblib==1.6.0", NUMPY)),
        Contender("pickle", "pickle_peer:Pickle", "pickle", (NUMPY,), quick=True),
        Contender("Plasma (pyarrow 11.0.0)", "plasma_peer:Plasma", "plasma",
                  ("pyarrow==11.0.0", "numpy==1.26.4")),
        Contender("Ray 2.60.0", "ray_peer:Ray", "ray", ("ray==2.60.0", NUMPY)),
        Contender("vineyard 0.24.2", "vineyard_peer:Vineyard", "vineyard",
                  ("vineyard==0.24.2", "pyarrow==26.0.1", "pandas==3.0.6", NUMPY)),
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, default=BUILD / "dev/bin")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true",
                        help="a tiny slice with what is installed: only that nothing rots")
    parser.add_argument("--only", help="of the peers, those with this text in their name")
    parser.add_argument("--json", type=pathlib.Path, default=BUILD / "peers/results.json",
                        help="where all figures go; not with --quick")  # fmt: skip
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200].replace("|", "/") if lines else "no message"


def environment(name: str, requirements: tuple[str, ...]) -> str:
    """The interpreter of a virtual environment with just these, made if it is not there."""
    directory = BUILD / "peers" / name
    python = directory / "bin/python"
    made = directory / "requirements.txt"
    wanted = "".join(f"{requirement}\n" for requirement in requirements)
    if made.exists() and made.read_text() == wanted:
        return str(python)
    print(f"installing: {' '.join(requirements)}", file=sys.stderr)
    commands: list[list[str | pathlib.Path]] = [
        [sys.executable, "-m", "venv", "--clear", directory],
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
        if done.returncode != 0:
            raise RuntimeError(f"not installable: {last_line(done.stderr or done.stdout)}")
    made.write_text(wanted)
    return str(python)


def install(contender: Contender) -> None:
    try:
        contender.python = environment(contender.environment, contender.requirements)
    except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
        contender.failure = str(error)


def adopt_orphans() -> None:
    """Makes this process the parent of every server whose own parent dies."""
    pr_set_child_subreaper = 36
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_child_subreaper, 1, 0, 0, 0)


def children() -> list[int]:
    tasks = pathlib.Path("/proc/self/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def end_children(patience_seconds: float) -> None:
    """Waits so long for what a peer left behind to end, then kills it."""
    deadline = time.monotonic() + patience_seconds
    while True:
        try:
            child, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if child == 0:
            if time.monotonic() > deadline:
                for child in children():
                    os.kill(child, signal.SIGKILL)
            time.sleep(0.02)


def sweep(directory: pathlib.Path) -> None:
    """Takes the directory, and what the peer said it might leave, out of shared memory."""
    notes = directory / "sweep"
    for prefix in notes.read_text().split() if notes.exists() else []:
        for leftover in SHARED_MEMORY.glob(f"{prefix}*"):
            leftover.unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def run_round(contender: Contender, options: argparse.Namespace) -> dict[int, dict[str, float]]:
    # A short path: sockets are made in it.
    directory = SHARED_MEMORY / f"bench-peers-{os.getpid()}"
    directory.mkdir(mode=0o700)
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["FOREBAY_PROGRAMS"] = str(options.programs)
    if contender.name == "Forebay":
        default_path = str(options.programs.parent / "python")
        variables["PYTHONPATH"] = os.environ.get("PYTHONPATH", default_path)
    command: list[str | pathlib.Path] = [
        contender.python, "-W", "ignore", HERE / "work.py", contender.adapter, directory
    ]  # fmt: skip
    if options.quick:
        command.append("--quick")
    # Files, not pipes: a server that outlives the peer would hold a pipe open.
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        try:
            process = subprocess.Popen(command, env=variables, stdin=subprocess.DEVNULL,
                                       stdout=output, stderr=errors,
                                       start_new_session=True)  # fmt: skip
            try:
                process.wait(timeout=120)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        finally:
            end_children(patience_seconds=5)
            sweep(directory)
        output.seek(0)
        errors.seek(0)
        if process.returncode != 0:
            raise RuntimeError(f"failed: {last_line(errors.read())}")
        lines = [json.loads(line) for line in output if line.startswith("{")]
        return {line["size"]: line for line in lines}


def measure(all_contenders: list[Contender], options: argparse.Namespace) -> None:
    for number in range(1, options.rounds + 1):
        for contender in all_contenders:
            if contender.failure:
                continue
            start = time.monotonic()
            try:
                contender.rounds.append(run_round(contender, options))
            except subprocess.TimeoutExpired:
                contender.failure = f"took too long in round {number}"
            except RuntimeError as error:
                contender.failure = f"{error}, in round {number}"
            seconds = time.monotonic() - start
            print(f"round {number} of {options.rounds}: {contender.name}, {seconds:.1f} s "
                  f"{contender.failure}", file=sys.stderr)  # fmt: skip


def show_size(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024 or unit == "MiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}"


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def show_time(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if nanoseconds < limit:
            return f"{digits(nanoseconds / divisor)} {unit}"
    return f"{digits(nanoseconds / 1e9)} s"


def show_rate(bytes_per_second: float) -> str:
    for limit, divisor, unit in ((1e6, 1e3, "kB/s"), (1e9, 1e6, "MB/s")):
        if bytes_per_second < limit:
            return f"{digits(bytes_per_second / divisor)} {unit}"
    return f"{digits(bytes_per_second / 1e9)} GB/s"


def table(
    title: str, what: str, show: Callable[[float], str], all_contenders: list[Contender]
) -> str:
    """A row for each contender: by size the median of its rounds and, in brackets, the median of
    the ratios to Forebay in the same round."""
    ours = next(contender for contender in all_contenders if contender.name == "Forebay")
    sizes = sorted(ours.rounds[0])
    lines = [f"| {title} | {' | '.join(show_size(size) for size in sizes)} |",
             f"| --- |{' ---: |' * len(sizes)}"]  # fmt: skip
    for contender in all_contenders:
        cells = []
        for size in sizes if not contender.failure else []:
            values = [figures[size][what] for figures in contender.rounds]
            cell = show(statistics.median(values))
            if contender is not ours:
                ratios = [theirs[size][what] / own[size][what]
                          for theirs, own in zip(contender.rounds, ours.rounds, strict=True)]
                cell += f" ({digits(statistics.median(ratios))})"
            cells.append(cell)
        name = contender.name
        if contender.failure:
            name += f": not measured, {contender.failure}"
            cells = ["–"] * len(sizes)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(all_contenders: list[Contender]) -> str:
    return "\n\n".join((
        table("put, p50", "put_ns", show_time, all_contenders),
        table("get and release, p50", "get_ns", show_time, all_contenders),
        table("put, bytes a second", "put_bytes_per_second", show_rate, all_contenders),
        table("get and read, bytes a second", "get_bytes_per_second", show_rate, all_contenders),
    ))  # fmt: skip


def plot(results: pathlib.Path) -> None:
    try:
        python = environment("plot", ("matplotlib==3.11.2", NUMPY))
        subprocess.run([python, HERE / "plot.py", results], check=True, timeout=120)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"bench-peers: no plots: {error}", file=sys.stderr)


def main() -> None:
    options = arguments()
    # So that what is under way is ended, and shared memory swept, on SIGTERM too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    adopt_orphans()
    chosen = [contender for contender in contenders()
              if contender.name in ("floor", "Forebay")
              or (options.only or "").lower() in contender.name.lower()]  # fmt: skip
    if options.quick:
        for contender in chosen:
            if not contender.quick:
                contender.failure = "not in a quick run"
    else:
        if shutil.disk_usage(SHARED_MEMORY).free < NEEDED_BYTES:
            raise SystemExit("bench-peers: /dev/shm needs 5 GiB free")
        for contender in chosen:
            if contender.environment:
                install(contender)
    measure(chosen, options)
    by_name = {contender.name: contender for contender in chosen}
    for name in ("Forebay", "floor"):
        if by_name[name].failure:
            raise SystemExit(f"bench-peers: {name} {by_name[name].failure}")
    print(tables(chosen))
    for contender in chosen:
        if contender.failure:
            print(f"bench-peers: {contender.name}: not measured: {contender.failure}",
                  file=sys.stderr)  # fmt: skip
    if options.quick:
        if any(contender.quick and contender.failure for contender in chosen):
            raise SystemExit(1)
        return
    options.json.write_text(json.dumps(
        [{"name": contender.name, "failure": contender.failure, "rounds": contender.rounds}
         for contender in chosen], indent=1))  # fmt: skip
    plot(options.json)


if __name__ == "__main__":
    main()
