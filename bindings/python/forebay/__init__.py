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
    connect,
)
from forebay._installed import get_cmake_dir, get_include
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
    connect,
):
    _public.__module__ = __name__
del _public

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
    "LayoutMismatch",
    "LimitReached",
    "LoaderFailed",
    "Lost",
    "NotFound",
    "Ref",
    "SegmentInfo",
    "SegmentStat",
    "StaleRef",
    "Store",
    "StoreFull",
    "Subscription",
    "Superseded",
    "Timeout",
    "TooLarge",
    "TypeMismatch",
    "WrongStore",
    "__version__",
    "connect",
    "get_cmake_dir",
    "get_include",
]
