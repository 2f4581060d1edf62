# SPDX-License-Identifier: Apache-2.0
"""A worker of the k-means job: gets its fragments from the store and sums, round after round.

Usage: worker.py SOCKET PREFIX NAME REF...
"""

from __future__ import annotations

import sys

import forebay
from kernel import partial_sums

PATIENCE_SECONDS = 120


def main(socket: str, prefix: str, name: str, *refs: str) -> None:
    store = forebay.connect(socket)
    fragments = [store.get(forebay.Ref(ref)) for ref in refs]
    store.put(f"{prefix}/ready/{name}", b"")
    round_number = 0
    while True:
        # The newest centres; each round publishes them as the next version.
        centres = store.get(f"{prefix}/centres", after=round_number, timeout=PATIENCE_SECONDS)
        round_number += 1
        if len(centres) == 0:  # no more rounds
            return
        sums = sum(partial_sums(fragment, centres) for fragment in fragments)
        store.put(f"{prefix}/sums/{name}", sums, version=round_number)


if __name__ == "__main__":
    main(*sys.argv[1:])
