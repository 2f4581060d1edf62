# SPDX-License-Identifier: Apache-2.0
"""Forebay: read-only arrays, shared by the processes of a node without copies.

>>> import forebay, numpy as np
>>> store = forebay.connect()
>>> ref = store.put("points", np.arange(6.0).reshape(2, 3))
>>> store.get("points").sum()
np.float64(15.0)
"""

from typing import TYPE_CHECKING

from forebay._forebay import (
    Builder,
    Event,
    Holder,
    Ref,
    SegmentInfo,
    SegmentStat,
    Store,
    TierCopy,
    Whereabouts,
    __version__,
)
from forebay._installed import get_cmake_dir, get_include
from forebay._stores import connect
from forebay._stores import default as default_store
from forebay.errors import (
    BadArgument,
    BadId,
    BadState,
    Cancelled,
    Conflict,
    Denied,
    Disconnected,
    Evicted,
    Exists,
    ForebayError,
    LayoutMismatch,
    LimitReached,
    LoaderFailed,
    Lost,
    NotFound,
    StaleRef,
    StoreFull,
    Superseded,
    TierDown,
    Timeout,
    TooLarge,
    TypeMismatch,
    Unstorable,
    WrongStore,
)

if TYPE_CHECKING:
    from forebay._executor import SharingExecutor
    from forebay._flags import IN, INOUT, KEEP, RRO
    from forebay._handles import install, uninstall
    from forebay._scope import Scope, scope
    from forebay._shared import SharedArray, share
    from forebay._subscription import Subscription
    from forebay._task import task

for _public in (
    Builder,
    Event,
    Holder,
    Ref,
    SegmentInfo,
    SegmentStat,
    Store,
    connect,
    default_store,
):
    _public.__module__ = __name__
del _public


# What a mere reader of arrays does not need: imported when it is asked for.
_LATER = {
    "IN": "_flags",
    "INOUT": "_flags",
    "KEEP": "_flags",
    "RRO": "_flags",
    "Scope": "_scope",
    "SharedArray": "_shared",
    "SharingExecutor": "_executor",
    "Subscription": "_subscription",
    "install": "_handles",
    "scope": "_scope",
    "share": "_shared",
    "task": "_task",
    "uninstall": "_handles",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    if isinstance(found, type) or callable(found) and hasattr(found, "__code__"):
        found.__module__ = __name__
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})


__all__ = [
    "BadArgument",
    "BadId",
    "BadState",
    "Builder",
    "Cancelled",
    "Conflict",
    "Denied",
    "Disconnected",
    "Event",
    "Evicted",
    "Exists",
    "ForebayError",
    "Holder",
    "IN",
    "INOUT",
    "KEEP",
    "LayoutMismatch",
    "LimitReached",
    "LoaderFailed",
    "Lost",
    "NotFound",
    "RRO",
    "Ref",
    "Scope",
    "SegmentInfo",
    "SegmentStat",
    "SharedArray",
    "SharingExecutor",
    "StaleRef",
    "Store",
    "StoreFull",
    "Subscription",
    "Superseded",
    "TierCopy",
    "TierDown",
    "Timeout",
    "TooLarge",
    "TypeMismatch",
    "Unstorable",
    "WrongStore",
    "__version__",
    "connect",
    "default_store",
    "get_cmake_dir",
    "get_include",
    "install",
    "scope",
    "share",
    "task",
    "uninstall",
    "Whereabouts",
]
