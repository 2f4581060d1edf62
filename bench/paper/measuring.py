# SPDX-License-Identifier: Apache-2.0
"""Measuring: the same job by each arm, in turn, round after round.

A round runs every arm once, in an order that rotates. A run is one untimed step, so that no first
touch, no import and no cold branch is in it, and then the timed steps. Each run's result is checked.
Ratios are of runs of the same round: what else the machine does hits both.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Job(Protocol):
    steps: int

    def prepare(self) -> None:
        """Everything as at the beginning. Not timed."""

    def run(self, steps: int) -> None: ...

    def check(self) -> None:
        """Raises WrongResult unless what `run` of all steps made is right."""


class WrongResult(Exception):
    pass


@dataclasses.dataclass
class Case:
    """What is measured: one line of a table."""

    benchmark: str
    executor: str
    kernel: str
    varies: str  # the parameter that differs from line to line
    parameters: dict[str, Any]
    fragment_bytes: int
    data_bytes: int
    tasks_per_step: int
    steps: int
    # By arm: until the master has shared the data, and until each worker has used all of it once.
    sharing_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    first_use_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    # By arm: one time for each round, of all timed steps together.
    seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    def step_milliseconds(self, arm: str) -> list[float]:
        return [1e3 * seconds / self.steps for seconds in self.seconds[arm]]

    def ratios(self, arm: str, to: str) -> list[float]:
        return [ours / theirs
                for ours, theirs in zip(self.seconds[arm], self.seconds[to], strict=True)]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


Tick = Callable[[str], None]


def measure(case: Case, jobs: Mapping[str, Job], rounds: int, tick: Tick) -> None:
    """Fills case.seconds. `tick` is called with the arm after each run."""
    arms = list(jobs)
    case.seconds = {arm: [] for arm in arms}
    for number in range(rounds):
        turn = number % len(arms)
        for arm in arms[turn:] + arms[:turn]:
            job = jobs[arm]
            job.prepare()
            job.run(1)
            job.prepare()
            start = time.perf_counter()
            job.run(job.steps)
            case.seconds[arm].append(time.perf_counter() - start)
            try:
                job.check()
            except WrongResult as error:
                raise WrongResult(f"{arm}, round {number + 1}: {error}") from None
            tick(arm)


# --- what is asked of B5: better than the arms that copy from 1 MiB on, and never much worse than
# those that do not

LARGE = 2**20


@dataclasses.dataclass(frozen=True)
class Verdict:
    arm: str
    to: str
    limit: float
    ratio: Spread

    @property
    def met(self) -> bool:
        return self.ratio.median < self.limit if self.limit == 1 else self.ratio.median <= self.limit


def verdicts(case: Case) -> list[Verdict]:
    if case.kernel != "vector" or "B5" not in case.seconds:
        return []
    if case.fragment_bytes >= LARGE:
        limits = {"B1": 1.0, "B4": 1.0, "B2": 1.03, "B3": 1.03}
    else:
        limits = {"B2": 1.10, "B3": 1.10}
    return [Verdict("B5", to, limit, Spread.of(case.ratios("B5", to)))
            for to, limit in limits.items() if to in case.seconds]  # fmt: skip
