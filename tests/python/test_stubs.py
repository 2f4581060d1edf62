# SPDX-License-Identifier: Apache-2.0
"""The stubs say what the module does."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import forebay


def test_stubs_and_module_agree():
    package = pathlib.Path(forebay.__file__).parent
    assert (package / "py.typed").exists()
    here = pathlib.Path(__file__).parent
    ran = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "forebay",
         "--allowlist", here / "stubtest_allowlist.txt", "--ignore-unused-allowlist"],
        env={
            **os.environ,
            "MYPYPATH": str(package.parent),
            "PYTHONPATH": str(package.parent),
            "MYPY_CACHE_DIR": os.devnull,
        },
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
