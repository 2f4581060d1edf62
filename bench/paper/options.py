# SPDX-License-Identifier: Apache-2.0
"""The command line that both benchmarks share."""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Callable
from typing import NoReturn

BENCH = pathlib.Path(__file__).resolve().parent.parent
BUILD = BENCH.parent / "build"
ARM_KEYS = ("B0", "B1", "B2", "B3", "B4", "B5", "B6")
MEMORY_WORKERS = (1, 2, 4, 8)
EXECUTOR_NAMES = ("concurrent.futures", "joblib", "dask")


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    return number


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def size(text: str) -> int:
    found = re.fullmatch(r"(\d+)\s*(B|KiB|MiB|GiB)?", text.strip())
    if not found or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; write 64KiB, 16MiB, 1GiB")
    return int(found[1]) * 1024 ** ("B", "KiB", "MiB", "GiB").index(found[2] or "B")


def listed(one: Callable[[str], object]) -> Callable[[str], list[object]]:
    return lambda text: [one(part) for part in text.split(",")]


def one_of(names: tuple[str, ...]) -> Callable[[str], str]:
    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    return name


def parser(name: str, description: str | None) -> Parser:
    made = Parser(prog=name, description=description,
                  formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--all", action="store_true",
                      help=f"all that make {name} shows; alone or with --rounds, --arms, --workers")
    made.add_argument("--quick", action="store_true",
                      help="a tiny slice of everything: only that nothing rots")
    made.add_argument("--arms", type=listed(one_of(ARM_KEYS)), default=list(ARM_KEYS),
                      help="some of " + ",".join(ARM_KEYS))
    made.add_argument("--executor", type=listed(one_of(EXECUTOR_NAMES)),
                      default=["concurrent.futures"], help="some of " + ",".join(EXECUTOR_NAMES))
    made.add_argument("--kernel", type=one_of(("paper", "vector")), default="vector",
                      help="paper or vector (default)")
    made.add_argument("--workers", type=at_least(1), default=2)
    made.add_argument("--rounds", type=at_least(1), default=9)
    made.add_argument("--memory", action="store_true",
                      help="measure the memory of 1, 2, 4 and 8 workers, too, on --memory-data")
    made.add_argument("--memory-data", type=size, default=2**30, help="default: 1GiB")
    made.add_argument("--folder", type=pathlib.Path,
                      help="where the files of B0, B1 and B3 go: on a disk (default: in build/)")
    made.add_argument("--programs", type=pathlib.Path, default=BUILD / "dev/bin",
                      help="where forebayd and the C++ workers are")
    made.add_argument("--json", type=pathlib.Path, help="all samples go there")
    made.add_argument("--plot-folder", type=pathlib.Path, help="plots go there")
    return made  # fmt: skip
