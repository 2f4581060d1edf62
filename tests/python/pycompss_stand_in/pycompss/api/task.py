# SPDX-License-Identifier: Apache-2.0
"""The decorator, on the master and on a worker."""

import functools
import inspect
import pathlib
import sys

from pycompss import files, master, state


class task:
    def __init__(self, *arguments, returns=0, **parameters):
        self.returns = returns
        # Keys that it does not know are dropped without a word.
        self.parameters = parameters

    def __call__(self, function):
        names = inspect.getfullargspec(function).args
        if unknown := set(self.parameters) - set(names):
            raise TypeError(f"no such arguments: {unknown}")

        @functools.wraps(function)
        def wrapper(*values, compss_on_worker=False, **named):
            if not compss_on_worker:
                assert not state.on_worker
                bound = inspect.signature(function).bind(*values, **named)
                bound.apply_defaults()
                module = inspect.getmodule(function).__name__
                if module == "__main__":
                    module = pathlib.Path(sys.argv[0]).stem
                return master.submit(module, function.__name__, list(bound.arguments.values()))
            return function(*(files.read(value.path) for value in values))

        return wrapper
