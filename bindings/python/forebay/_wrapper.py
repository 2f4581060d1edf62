# SPDX-License-Identifier: Apache-2.0
"""What a decorated function is made of, alone in this module: picklers that take functions along by value
(cloudpickle, dill) take along what is global to them, and here nothing is."""


def synchronous(task):  # type: ignore[no-untyped-def]
    def wrapper(*arguments, **named):  # type: ignore[no-untyped-def]
        return task.run(arguments, named)

    return wrapper


def asynchronous(task):  # type: ignore[no-untyped-def]
    async def wrapper(*arguments, **named):  # type: ignore[no-untyped-def]
        return await task.run_coroutine(arguments, named)

    return wrapper
