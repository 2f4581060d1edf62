# SPDX-License-Identifier: Apache-2.0
"""What lies in the installed package besides Python: programs, headers, the C++ library."""

import os
import pathlib
import sys

_HERE = pathlib.Path(__file__).parent


def get_include() -> str:
    """Return the folder of the C and C++ headers, for ``#include <forebay/client.h>``.

    Only in an installed package; raises FileNotFoundError elsewhere.
    """
    return _there("include")


def get_cmake_dir() -> str:
    """Return the folder of the CMake package, for ``-Dforebay_DIR=``.

    Only in an installed package; raises FileNotFoundError elsewhere.
    """
    return _there("lib/cmake/forebay")


def _there(name: str) -> str:
    path = _HERE / name
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not there: this package was not installed; use `cmake --install`"
        )
    return str(path)


def run_tool() -> None:
    """Become the `forebay` command."""
    _become("forebay")


def run_daemon() -> None:
    """Become `forebayd`."""
    _become("forebayd")


def run_pool() -> None:
    """Become `forebay-poold`."""
    _become("forebay-poold")


def _become(program: str) -> None:
    os.execv(_HERE / program, [program, *sys.argv[1:]])
