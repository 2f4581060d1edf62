# SPDX-License-Identifier: Apache-2.0
"""Methods of Store that are written in Python. What they need, asyncio above all, is imported when they
are called: it takes longer to import than NumPy's half."""

from __future__ import annotations

import typing


def get_async(
    self: typing.Any,
    id: typing.Any,
    version: int | None = None,
    timeout: float | None = None,
    *,
    after: int = 0,
    concurrent: bool = False,
) -> typing.Any:
    """Return a future of what `get` returns, without blocking.

    An asyncio.Future of the running loop (RuntimeError if none runs), or with `concurrent`
    a concurrent.futures.Future. Cancelling it ends the wait.

    `timeout` is in seconds; None waits for as long as it takes, 0 not at all. A `Ref` is not
    waited for: what it names was sealed once. With `after`, only a version above that number
    will do.

    The future raises what `get` raises: NotFound (only without a wait, and for what is gone),
    Timeout, Disconnected; BadState when the store is closed meanwhile. Bad arguments raise
    here.
    """
    from forebay import _async

    return _async.get_async(self, id, version, timeout, after=after, concurrent=concurrent)


def subscribe(
    self: typing.Any, prefix: str | bytes = "", from_cursor: str | None = None
) -> typing.Any:
    """Return what happens from now on to segments whose ids start with `prefix`.

    With `from_cursor`, go on where the subscription was whose `cursor` that is. The daemon
    remembers the last 65 536 events; what is lost is counted in an event of kind 'missed'.

    Raises BadArgument for what is no cursor, WrongStore for one of another store.
    """
    from forebay._subscription import Subscription

    return Subscription(self._events(prefix, from_cursor))
