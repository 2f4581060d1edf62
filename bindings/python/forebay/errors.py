# SPDX-License-Identifier: Apache-2.0
"""The exceptions of Forebay.

Each is also the built-in exception that a caller who knows nothing of Forebay
would expect: a missing segment is a `KeyError`, a full store a `MemoryError`.
"""

from __future__ import annotations


class ForebayError(Exception):
    """Base of all exceptions of Forebay."""


class NotFound(ForebayError, KeyError):
    """No such id, or no such version of it."""

    # KeyError shows its argument quoted; ours is a sentence.
    __str__ = Exception.__str__


class Evicted(NotFound):
    """It was there, and was dropped to make room."""


class Lost(NotFound):
    """Its bytes were in a tier that has gone."""


class Superseded(NotFound):
    """Its memory was taken over by the next version."""


class StaleRef(NotFound):
    """The segment of this ref was removed; its id may name other bytes by now."""


class WrongStore(ForebayError, ValueError):
    """The ref belongs to another store."""


class Exists(ForebayError, ValueError):
    """That version is sealed already."""


class Conflict(ForebayError, ValueError):
    """That version is being created by somebody else, or its memory is in use."""


class StoreFull(ForebayError, MemoryError):
    """No room now: the memory is used or pinned. The message says by whom."""


class TooLarge(StoreFull):
    """It would not fit into an empty store either."""


class LimitReached(ForebayError, MemoryError):
    """A counted resource other than memory ran out: segments, or processes."""


class BadId(ForebayError, ValueError):
    """An id is 1 to 255 bytes."""


class BadArgument(ForebayError, ValueError):
    """An argument that can never work."""


class BadState(ForebayError, RuntimeError):
    """Not possible any more: sealed twice, used after close."""


class TypeMismatch(ForebayError, TypeError):
    """The segment is not an array of that kind."""


class Unstorable(ForebayError, TypeError):
    """A value that cannot be taken apart into bytes; the message says which, and why."""


class Denied(ForebayError, PermissionError):
    """This user may not."""


class Timeout(ForebayError, TimeoutError):
    """The deadline passed."""


class Disconnected(ForebayError, ConnectionError):
    """The daemon cannot be reached."""


class LayoutMismatch(ForebayError, RuntimeError):
    """Client and daemon are of different versions."""


class LoaderFailed(ForebayError, RuntimeError):
    """Whoever was to make the version could not; the message says why."""


class Cancelled(ForebayError):
    """Whoever asked has said that the answer is not wanted any more.

    Not what a task sees that is cancelled: that is asyncio.CancelledError.
    """


class TierDown(ForebayError, ConnectionError):
    """The pool or disk that holds the segment does not answer; it may be back later."""
