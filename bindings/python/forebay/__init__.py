# SPDX-License-Identifier: Apache-2.0
"""Forebay: read-only arrays, shared by the processes of a node without copies.

>>> import forebay, numpy as np
>>> store = forebay.connect()
>>> ref = store.put("points", np.arange(6.0).reshape(2, 3))
>>> store.get("points").sum()
np.float64(15.0)
"""

from forebay._forebay import (
    Builder,
    Event,
    Holder,
    Ref,
    SegmentInfo,
    SegmentStat,
    Store,
    __version__,
)
from forebay._flags import IN, INOUT, KEEP, RRO
from forebay._handles import install, uninstall
from forebay._installed import get_cmake_dir, get_include
from forebay._scope import Scope, scope
from forebay._shared import SharedArray, share
from forebay._stores import connect
from forebay._stores import default as default_store
from forebay._subscription import Subscription
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
    Timeout,
    TooLarge,
    TypeMismatch,
    Unstorable,
    WrongStore,
)

for _public in (
    Builder,
    Event,
    Holder,
    Ref,
    SegmentInfo,
    SegmentStat,
    Store,
    Subscription,
    Scope,
    SharedArray,
    connect,
    default_store,
    install,
    scope,
    share,
    uninstall,
):
    _public.__module__ = __name__
del _public


def __getattr__(name: str) -> object:
    # What brings modules along that a mere reader of arrays does not need.
    if name == "task":
        from forebay import _task as module
    elif name == "SharingExecutor":
        from forebay import _executor as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(module, name)
    return found


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
]
