# SPDX-License-Identifier: Apache-2.0
"""Gets that an event loop waits for, or a thread for `concurrent.futures`.

Both have a connection of their own, which is made when something must be waited for and
goes when nothing has been for a moment. In a forked child, the parent's are void.
"""

from __future__ import annotations

import asyncio
import atexit
import collections
import functools
import os
import select
import socket
import threading
import typing
import weakref
from concurrent import futures

from forebay.errors import ForebayError

_Future = futures.Future

# How long, in seconds, a connection and its thread outlast the last get.
_LINGER = 1.0


def get_async(
    self: typing.Any,
    id: typing.Any,
    version: int | None = None,
    timeout: float | None = None,
    *,
    after: int = 0,
    concurrent: bool = False,
) -> typing.Any:
    """As `Store.get_async`."""
    loop = None if concurrent else asyncio.get_running_loop()
    future: typing.Any = futures.Future() if loop is None else loop.create_future()
    value = self._find(id, version, timeout, after)
    if value is not None:
        future.set_result(value)
        return future
    request = (id, version, timeout, after)
    try:
        if loop is None:
            _submit_to_thread(self, future, request)
        else:
            _gets_of_loop(self, loop).get(future, request)
    except ForebayError as error:
        future.set_exception(error)
    return future


# ------------------------------------------------------------------------------------ asyncio


class _LoopGets:
    """What one loop waits for from one store; the loop keeps it, as a reader."""

    def __init__(self, store: typing.Any, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.loop = loop
        self._gets = store._async_gets()
        self._open: dict[int, asyncio.Future[typing.Any]] = {}
        self._end: asyncio.TimerHandle | None = None
        loop.add_reader(self._gets.fileno(), self._dispatch)

    def get(self, future: asyncio.Future[typing.Any], request: tuple[typing.Any, ...]) -> None:
        number, value, error = self._gets.start(*request)
        if number == 0:
            _answer(future, value, error)
        else:
            self._open[number] = future
            future.add_done_callback(functools.partial(self._done, number))
        self._settle()

    def _dispatch(self) -> None:
        for number, value, error in self._gets.dispatch():
            future = self._open.pop(number, None)
            if future is not None and not future.done():
                _answer(future, value, error)
        self._settle()

    def _done(self, number: int, _: asyncio.Future[typing.Any]) -> None:
        # Still among the open ones: it was cancelled, and not by an answer.
        if self._open.pop(number, None) is not None:
            self._gets.cancel(number)
            self._settle()

    def _settle(self) -> None:
        if self._open:
            if self._end is not None:
                self._end.cancel()
                self._end = None
        elif self._end is None:
            self._end = self.loop.call_later(_LINGER, self._close)

    def _close(self) -> None:
        self.loop.remove_reader(self._gets.fileno())
        _of_loops.pop((id(self.store), id(self.loop)), None)
        self._gets.close()


def _gets_of_loop(store: typing.Any, loop: asyncio.AbstractEventLoop) -> _LoopGets:
    key = (id(store), id(loop))
    gets = _of_loops.get(key)
    if gets is None:
        gets = _of_loops[key] = _LoopGets(store, loop)
    return gets


# ------------------------------------------------------------------------- concurrent.futures


class _ThreadGets:
    """What futures wait for from one store, and the thread that does it."""

    def __init__(self, store: typing.Any) -> None:
        self.store = store
        self.ending = False
        self._gets = store._async_gets()
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        # A future and what it asks for, or None: it was cancelled.
        self._todo: collections.deque[tuple[_Future, typing.Any]] = collections.deque()
        self._open: dict[int, _Future] = {}
        self._numbers: dict[_Future, int] = {}
        self.thread = threading.Thread(target=self._run, name="forebay gets", daemon=True)
        self.thread.start()

    def submit(self, future: _Future, request: typing.Any) -> None:
        self._todo.append((future, request))
        self.wake()

    def wake(self) -> None:
        try:
            self._button.send(b"!")
        except (BlockingIOError, OSError):
            pass  # It has been rung often enough, or nobody is there any more.

    def forget(self) -> None:
        """Close what a forked child has of its parent's."""
        self._bell.close()
        self._button.close()

    def cancelled(self, future: _Future) -> None:
        if future.cancelled():
            self.submit(future, None)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        poll.register(self._gets.fileno(), select.POLLIN)
        while not self.ending:
            quiet = not poll.poll(None if self._open else _LINGER * 1000)
            self._hear()
            while self._todo:
                self._begin(*self._todo.popleft())
            self._dispatch()
            if quiet and not self._open and _retire(self):
                break
        for future in list(self._numbers):
            future.cancel()
            future.set_running_or_notify_cancel()
        self._gets.close()
        self.forget()

    def _dispatch(self) -> None:
        for number, value, error in self._gets.dispatch():
            future = self._open.pop(number, None)
            if future is not None:
                del self._numbers[future]
                _complete(future, value, error)

    def _hear(self) -> None:
        try:
            while self._bell.recv(4096):
                pass
        except BlockingIOError:
            pass

    def _begin(self, future: _Future, request: typing.Any) -> None:
        if request is None:
            number = self._numbers.pop(future, None)
            if number is not None:
                del self._open[number]
                self._gets.cancel(number)
                future.set_running_or_notify_cancel()
        elif future.cancelled():
            future.set_running_or_notify_cancel()
        else:
            try:
                number, value, error = self._gets.start(*request)
            except Exception as unexpected:  # else all others would wait for ever
                number, value, error = 0, None, unexpected
            if number == 0:
                _complete(future, value, error)
            else:
                self._open[number] = future
                self._numbers[future] = number


def _submit_to_thread(store: typing.Any, future: _Future, request: typing.Any) -> None:
    with _lock:
        gets = _of_threads.get(id(store))
        if gets is None:
            gets = _of_threads[id(store)] = _ThreadGets(store)
        gets.submit(future, request)
    future.add_done_callback(gets.cancelled)


def _retire(gets: _ThreadGets) -> bool:
    with _lock:
        if gets._todo:
            return False
        _of_threads.pop(id(gets.store), None)
        return True


def _answer(future: typing.Any, value: typing.Any, error: BaseException | None) -> None:
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _complete(future: _Future, value: typing.Any, error: BaseException | None) -> None:
    if future.set_running_or_notify_cancel():
        _answer(future, value, error)


# Both by id(store), which is nobody else's while the entry, and so the store, lives.
_of_loops: weakref.WeakValueDictionary[tuple[int, int], _LoopGets] = weakref.WeakValueDictionary()
_of_threads: dict[int, _ThreadGets] = {}
_lock = threading.Lock()  # of _of_threads, and of a thread's decision to end


def _forget_parents() -> None:
    global _lock
    _lock = threading.Lock()
    _of_loops.clear()
    for gets in _of_threads.values():
        gets.forget()
    _of_threads.clear()


def _end_threads() -> None:
    # A daemon thread must not be inside the extension when the interpreter goes.
    for gets in list(_of_threads.values()):
        gets.ending = True
        gets.wake()
        gets.thread.join(5)


os.register_at_fork(after_in_child=_forget_parents)
atexit.register(_end_threads)
