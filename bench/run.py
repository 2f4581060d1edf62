# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmarks against a daemon of their own and prints a table; `make bench`.

Every figure stands beside its floor, measured in turn in the same run. Shown are medians, and the
median of the ratios with the least and the largest one.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=pathlib.Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--mebibytes", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: only that nothing rots")
    parser.add_argument("--json", type=pathlib.Path, help="also write all samples there")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.keys, options.mebibytes = 2, 2000, 1
    return options


def start_daemon(program: pathlib.Path, socket: str) -> subprocess.Popen[bytes]:
    daemon = subprocess.Popen(
        [program, "--socket", socket, "--capacity", "40%", "--reserve", "512MiB", "--drop",
         "--log-level", "warning"]
    )  # fmt: skip
    deadline = time.monotonic() + 20
    while not pathlib.Path(socket).exists():
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise SystemExit("bench: forebayd did not start")
        time.sleep(0.01)
    # The reserve is made in the background; it is part of what is measured only on purpose.
    tool = program.with_name("forebay")
    while time.monotonic() < deadline:
        status = subprocess.run([tool, "--socket", socket, "status"], capture_output=True, text=True,
                                check=True).stdout  # fmt: skip
        fields = dict(line.split(" ", 1) for line in status.splitlines())
        if int(fields["warm_bytes"]) >= 512 * 2**20:
            break
        time.sleep(0.05)
    return daemon


def show(nanoseconds: float) -> str:
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "us"), (1e9, 1e6, "ms")):
        if nanoseconds < limit:
            return f"{nanoseconds / divisor:.3g} {unit}"
    return f"{nanoseconds / 1e9:.3g} s"


def table(rows: list[dict]) -> str:
    lines = [
        "| what | ours | floor | ratio (least to most) | floor is |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ratios = [ours / floor for ours, floor in zip(row["ours_ns"], row["floor_ns"], strict=True)]
        lines.append(
            f"| {row['name']} | {show(statistics.median(row['ours_ns']))} "
            f"| {show(statistics.median(row['floor_ns']))} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) "
            f"| {row['floor']} |"
        )
    return "\n".join(lines)


def main() -> None:
    options = arguments()
    rows = []
    with tempfile.TemporaryDirectory(prefix="forebay-bench-") as directory:
        socket = f"{directory}/forebay.sock"
        daemon = start_daemon(options.programs / "forebayd", socket)
        try:
            commands = [
                [options.programs / "put_get", socket, str(options.rounds), str(options.keys),
                 str(options.mebibytes)],
                [sys.executable, HERE / "put_get.py", socket, str(options.rounds),
                 str(min(options.keys, 50_000))],
            ]  # fmt: skip
            for command in commands:
                with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                    for line in process.stdout:
                        rows.append(json.loads(line))
                        print(f"measured: {rows[-1]['name']}", file=sys.stderr)
                if process.returncode != 0:
                    raise SystemExit(f"bench: {command[0]} failed")
        finally:
            daemon.terminate()
            daemon.wait()
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
