# SPDX-License-Identifier: Apache-2.0
"""Memory of processes: what is their own, and their share of what they share."""

from __future__ import annotations

import dataclasses
import pathlib
import re

_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(.*)$")
# Paths of mapped shared memory. A page of it that only one process has mapped counts as "private" in
# smaps, but is nobody's own.
_SHARED = ("/dev/shm/", "/memfd:", "/dev/zero", "/SYSV")


@dataclasses.dataclass(frozen=True)
class Memory:
    private_bytes: int
    shared_pss_bytes: int  # Pss_Shmem


def memory_of(pid: int | str = "self") -> Memory:
    rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss_Shmem:\s+(\d+) kB", rollup, re.MULTILINE)
    private = 0
    shared = False
    for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            shared = mapping[1].startswith(_SHARED)
        elif not shared and line.startswith("Private_"):
            private += int(line.split()[1]) * 1024
    return Memory(private, int(found[1]) * 1024 if found else 0)
