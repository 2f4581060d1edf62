# SPDX-License-Identifier: Apache-2.0
"""The flags of `forebay.task`: what is to be done with an argument, or with what is returned."""

from __future__ import annotations

import dataclasses
from typing import Literal

from forebay.errors import BadArgument


def _check_id(flag: str, id: object) -> None:
    if id is not None and not isinstance(id, str):
        raise BadArgument(f"{flag}: an id is a str, not {id!r}")


@dataclasses.dataclass(frozen=True)
class In:
    """Leave the argument alone."""

    def __call__(self) -> In:
        return self


@dataclasses.dataclass(frozen=True)
class ReadOnly:
    """Recurrent and read-only: every task of the node sees the same memory.

    `id`, `version`: which segment the argument is, for all processes of the node: whoever comes first
    puts it. The id may name other arguments, as "block/{row}/{column}". Without, it is put when it
    first leaves the process, once as long as it lives.

    `writable`: "copy" gives the task a writable array of its own; pages that it does not write to
    remain shared.
    """

    id: str | None = None
    version: int = 1
    writable: Literal[False, "copy"] = False

    def __call__(
        self,
        id: str | None = None,
        version: int = 1,
        *,
        writable: Literal[False, "copy"] = False,
    ) -> ReadOnly:
        _check_id("RRO", id)
        if writable not in (False, "copy"):
            raise BadArgument(f"RRO: writable is False or 'copy', not {writable!r}")
        if version < 1:
            raise BadArgument(f"RRO: a version is a number from 1, not {version}")
        return ReadOnly(id, version, writable)


@dataclasses.dataclass(frozen=True)
class InOut:
    """A writable array, which becomes the next version of its segment when the task returns.

    `take`: in place, without a copy: then the former version is superseded from the start of the task
    on, also when it fails, and nobody may use it.
    """

    take: bool = False

    def __call__(self, *, take: bool = False) -> InOut:
        return InOut(take)


@dataclasses.dataclass(frozen=True)
class Keep:
    """Leave what is returned in the store, and return a handle.

    `id`, `version`: under which name; the id may name arguments, as "sum/{row}". A task that is run
    again writes the same version. Without, it lies in the scope of the task's arguments, and may be
    dropped when room is wanted and nobody uses it.
    """

    id: str | None = None
    version: int | None = None

    def __call__(self, id: str | None = None, version: int | None = None) -> Keep:
        _check_id("KEEP", id)
        if id is None and version is not None:
            raise BadArgument("KEEP: a version without an id: say which segment it is one of")
        return Keep(id, version)


IN = In()
RRO = ReadOnly()
INOUT = InOut()
KEEP = Keep()
