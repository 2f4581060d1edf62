# SPDX-License-Identifier: Apache-2.0
"""Subscriptions, for loops and for event loops."""

from __future__ import annotations

import asyncio
import collections.abc
import types
import typing

import forebay
from forebay.errors import BadState


class Subscription:
    """Events, in order; from `Store.subscribe`.

    Iterate over it, `for` or `async for`, until it is closed, or call `next`. It survives the
    daemon. It costs a descriptor or two until it is closed, and is not for a forked child.
    """

    def __init__(self, events: typing.Any) -> None:
        self._events = events
        self._waiter: asyncio.Future[None] | None = None

    def next(self, timeout: float | None = None) -> forebay.Event:
        """Return the next event; wait `timeout` seconds for it, None for as long as it takes.

        Raises Timeout or Disconnected then, and WrongStore when the daemon serves another
        store now.
        """
        return self._events.wait(timeout)

    @property
    def cursor(self) -> str:
        """Where `subscribe` can go on, in any process of this node.

        Events come in batches, and this is behind the last batch that was handed out whole:
        whoever goes on from here misses nothing, and may see the last events again.
        """
        return self._events.cursor()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._events.closed

    def close(self) -> None:
        """End it, and iterations over it."""
        if self._waiter is not None:
            self._stop_waiting(self._waiter)
        self._events.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> collections.abc.Iterator[forebay.Event]:
        return self

    def __next__(self) -> forebay.Event:
        if self.closed:
            raise StopIteration
        try:
            return self.next()
        except BadState:
            if self.closed:  # while this waited
                raise StopIteration from None
            raise

    def __aiter__(self) -> collections.abc.AsyncIterator[forebay.Event]:
        return self

    async def __anext__(self) -> forebay.Event:
        while not self.closed:
            event = self._events.take()
            if event is not None:
                return event
            await self._readable()
        raise StopAsyncIteration

    async def _readable(self) -> None:
        if self._waiter is not None:
            raise BadState("another task waits for this subscription's next event")
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        loop.add_reader(self._events.fileno(), self._stop_waiting, waiter)
        try:
            await waiter
        finally:
            self._stop_waiting(waiter)

    def _stop_waiting(self, waiter: asyncio.Future[None]) -> None:
        if self._waiter is waiter:
            waiter.get_loop().remove_reader(self._events.fileno())
            self._waiter = None
        if not waiter.done():
            waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<forebay.Subscription{', closed' if self.closed else f' at {self.cursor}'}>"
