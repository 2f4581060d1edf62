# SPDX-License-Identifier: Apache-2.0
"""The stores that this process is connected to: the one that is meant when none is named, and the one
that a handle belongs to."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import numpy as np

from forebay import _forebay
from forebay._forebay import Ref, Store
from forebay.errors import BadState, Disconnected, WrongStore

_lock = threading.Lock()
# By namespace. What a caller has connected to is his; what was connected for a handle stays.
_callers: weakref.WeakSet[Store] = weakref.WeakSet()
_ours: list[Store] = []
_default: Store | None = None


class _Live(weakref.ref):  # type: ignore[type-arg]
    """A whole array of a ref that somebody in this process uses."""

    __slots__ = ("ref",)
    ref: Ref


# By serial number: hashing a Ref takes as long as a get.
_live: dict[int, _Live] = {}


def _gone(live: _Live) -> None:
    serial = live.ref.serial
    if _live.get(serial) is live:
        del _live[serial]


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may have held it


os.register_at_fork(after_in_child=_after_fork)


def connect(
    address: str | None = None,
    *,
    timeout: float = 10.0,
    namespace: str = "default",
    start_daemon: bool = True,
) -> Store:
    """Connect to the store of this node.

    `address` is the path of a daemon's socket; None means $FOREBAY_SOCKET or this
    user's own daemon, which is started if it does not run. `timeout` bounds the
    connecting, and each later request that has no timeout of its own.
    """
    store = _forebay.connect(
        address, timeout=timeout, namespace=namespace, start_daemon=start_daemon
    )
    with _lock:
        _callers.add(store)
    return store


def default() -> Store:
    """Return this process's connection to the store that `connect()` finds: the caller's, if he has one
    (which he may close: then another is made), else one of its own."""
    global _default
    store = _default
    if store is None or store.closed or store.address != _forebay.default_address():
        with _lock:
            store = _default = _connected() or _forebay.connect()
    return store


def _connected() -> Store | None:
    """A connection of the caller's to where `connect()` would connect."""
    address = _forebay.default_address()
    for store in _callers:
        if not store.closed and store.address == address and store.namespace == "default":
            return store
    return None


def get(ref: Ref) -> Any:
    """Return a ref's value, from the store that it belongs to. Tasks that use an array at the same time
    share its pin."""
    live = _live.get(ref.serial)
    # Other stores have the same numbers.
    if live is not None and (live.ref is ref or live.ref == ref):
        array = live()
        if array is not None:
            return array.view()  # each may set the shape of its own
    value = _get(ref)
    if type(value) is np.ndarray:
        # Another thread may have been quicker: then its pin will do.
        live = _live.get(ref.serial)
        if live is not None and live.ref == ref and (array := live()) is not None:
            return array.view()
        live = _Live(value, _gone)
        live.ref = ref
        _live[ref.serial] = live
        return value.view()
    return value


def _get(ref: Ref) -> Any:
    # Looking for the store costs as much as the get: ask the likely one first.
    if _default is not None:
        try:
            return _default.get(ref)
        except (WrongStore, BadState):
            pass
    return find(ref.store, ref.namespace).get(ref)


def address_to_tell(store: Store) -> str | None:
    """The address that others need to find the store; None if they find it as this process does."""
    return None if store.address == _forebay.default_address() else store.address


def elsewhere(ref: str) -> str | None:
    """The address to tell with a ref (as text) of a store that this process knows."""
    uuid = ref[len("forebay:") :].partition("/")[0]
    with _lock:
        for store in _known():
            if not store.closed and store.uuid == uuid:
                return address_to_tell(store)
    return None


def _known() -> list[Store]:
    return [*([] if _default is None else [_default]), *_callers, *_ours]


def find(uuid: str, namespace: str = "default", address: str | None = None) -> Store:
    """Return a connection to the store with that uuid.

    Raises WrongStore when the daemon there has another store by now, and Disconnected when none
    answers.
    """
    with _lock:
        for store in _known():
            if not store.closed and store.uuid == uuid and store.namespace == namespace:
                return store
        try:
            store = _forebay.connect(address, namespace=namespace, start_daemon=False)
        except Disconnected as error:
            raise Disconnected(
                f"no daemon of the store {uuid} answers, of which a handle was received: {error}"
            ) from None
        if store.uuid != uuid:
            raise WrongStore(
                f"a handle of the store {uuid} was received, but the store at {store.address} is "
                f"{store.uuid}: that one was started anew since then, or runs on another node; "
                "put the array again, or set FOREBAY_SOCKET to its address"
            )
        _ours.append(store)
        return store
