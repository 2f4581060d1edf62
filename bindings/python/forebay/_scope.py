# SPDX-License-Identifier: Apache-2.0
"""Scopes: what is put for a while, and goes when the while is over, however it ends."""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import os
import re
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

from forebay import _stores
from forebay._forebay import Builder, Ref, Store
from forebay.errors import ForebayError

_current: contextvars.ContextVar[Scope | None] = contextvars.ContextVar(
    "forebay.scope", default=None
)
_PREFIX = re.compile(r"(scope/[0-9a-f]{16}/)")


class Scope:
    """A part of a store whose segments are removed when the scope ends; from `forebay.scope()`.

    Its methods are those of the store, with ids that begin with `prefix`. Others may put there, too:
    workers leave the results of tasks in the scope that their arguments came from.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self.prefix = f"scope/{os.urandom(8).hex()}/"
        self._counter = itertools.count(1)
        self._ending = threading.Lock()
        self._ended = False
        self._pid = os.getpid()
        store._begin_scope(self.prefix)  # noqa: SLF001

    def id(self, name: str) -> str:
        """The id in the store of what is called `name` here."""
        return self.prefix + name

    def new_id(self, name: str) -> str:
        """An id that nothing else has, with `name` for those who look at listings."""
        # A forked child counts on for itself.
        whose = "" if os.getpid() == self._pid else f"{os.getpid()}/"
        return f"{self.prefix}{name[:150]}/{whose}{next(self._counter)}"

    def put(self, name: str, value: Any, **options: Any) -> Ref:
        """As `Store.put`."""
        return self.store.put(self.id(name), value, **options)

    def create(self, name: str, shape: Any, dtype: Any = "f8", **options: Any) -> Builder:
        """As `Store.create`."""
        return self.store.create(self.id(name), shape, dtype, **options)

    def update(self, name: str, from_version: int | None = None, **options: Any) -> Builder:
        """As `Store.update`."""
        return self.store.update(self.id(name), from_version, **options)

    def get(self, name: str | Ref, *arguments: Any, **options: Any) -> Any:
        """As `Store.get`."""
        what = name if isinstance(name, Ref) else self.id(name)
        return self.store.get(what, *arguments, **options)

    def get_or_create(self, name: str, *arguments: Any, **options: Any) -> Any:
        """As `Store.get_or_create`."""
        return self.store.get_or_create(self.id(name), *arguments, **options)

    def remove(self, name: str, *arguments: Any, **options: Any) -> int:
        """As `Store.remove`."""
        return self.store.remove(self.id(name), *arguments, **options)

    def end(self) -> int:
        """Remove everything now. Returns how many segments; those in use go when they are not.

        Again, it removes nothing.
        """
        if self._pid != os.getpid():
            return 0  # a forked child leaves its parent's scope
        with self._ending:
            if self._ended:
                return 0
            if (shared := sys.modules.get("forebay._shared")) is not None:
                shared.forget_scope(self)
            # A store that was closed has ended its scopes.
            removed = 0 if self.store.closed else self.store._end_scope(self.prefix)  # noqa: SLF001
            self._ended = True
            return removed

    def belongs_here(self) -> bool:
        """Whether this process has begun it, and not ended it yet."""
        return self._pid == os.getpid() and not self._ended

    def __repr__(self) -> str:
        return f"<forebay.Scope {self.prefix} of {self.store!r}>"


@contextlib.contextmanager
def scope(store: Store | None = None) -> Iterator[Scope]:
    """Remove everything that is put inside when the block ends, or the process does, however it ends.

    Inside is what is put through the scope that the block gets, what `share` and the flags of
    `task` put meanwhile, and what tasks leave in the store that got such arguments. Arrays that
    somebody still uses stay valid; their memory is given back afterwards.

    >>> with forebay.scope() as scope:
    ...     points = forebay.share(points)
    ...     futures = [executor.submit(partial_sum, points, centres) for centres in ...]

    `store`: where; None means what `connect()` finds.
    """
    made = Scope(store if store is not None else _stores.default())
    token = _current.set(made)
    _open.append(made)
    try:
        yield made
    except BaseException as error:
        try:
            _leave(made, token)
        except ForebayError as failure:
            # The block's own error is the one to hear of.
            if hasattr(error, "add_note"):
                error.add_note(f"forebay: and the scope could not be ended: {failure}")
        raise
    _leave(made, token)


def _leave(scope: Scope, token: contextvars.Token[Scope | None]) -> None:
    _open.remove(scope)
    try:
        _current.reset(token)
    except ValueError:
        pass  # begun in another context, as fixtures for coroutines do
    scope.end()


# Of all threads, the newest last.
_open: list[Scope] = []
_lock = threading.Lock()
# What ends with this process, by store.
_of_process: weakref.WeakKeyDictionary[Store, Scope] = weakref.WeakKeyDictionary()


def current(store: Store | None = None) -> Scope:
    """The innermost scope of the caller; if its thread has none, the newest of the process; and if there
    is none at all, one that ends with this process."""
    scope = _current.get()
    if scope is None and _open:
        scope = _open[-1]  # of another thread, which started this one, most likely
    if scope is not None and (store is None or scope.store is store):
        return scope
    store = store if store is not None else _stores.default()
    with _lock:
        made = _of_process.get(store)
        # A forked child's arrays are its own.
        if made is None or not made.belongs_here():
            made = _of_process[store] = Scope(store)
        return made


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def prefix_of(id: str | bytes) -> str | None:
    """The prefix of the scope that an id lies in."""
    found = _PREFIX.match(id) if isinstance(id, str) else None
    return found.group(1) if found else None
