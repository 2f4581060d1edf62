# SPDX-License-Identifier: Apache-2.0
"""`forebay.task`: one flag per argument, for the tasks of every framework."""

from __future__ import annotations

import functools
import gc
import inspect
import string
import traceback
from collections.abc import Callable, Mapping
from typing import Any, Union

import numpy as np

from forebay import _handles, _scope, _shared, _stores, _wrapper
from forebay._flags import IN, In, InOut, Keep, ReadOnly
from forebay._forebay import Builder, Ref, Store, handle_of
from forebay._objects import is_plain
from forebay._shared import SharedArray
from forebay.errors import BadArgument, Conflict, Exists, ForebayError, TypeMismatch

_Flag = Union[In, ReadOnly, InOut]


def task(
    function: Callable[..., Any] | None = None, /, *, returns: Keep | In = IN, **flags: _Flag
) -> Any:
    """Say which arguments of a function are shared with other processes of this node.

    >>> @forebay.task(points=forebay.RRO, returns=forebay.KEEP)
    ... def partial_sum(points, centres): ...

    RRO: recurrent and read-only. The function gets a read-only array over shared memory, whether it
    was given that array, a handle (a Ref, or what `share` returns), or a list, tuple or dict of such.
    INOUT: given a handle, the function gets a writable array that starts as that version, and becomes
    the next one when it returns; given an ordinary array, that array. IN, and what has no flag, is
    left alone. returns=KEEP: arrays that are returned stay in the store, and what travels is a handle.
    See `ReadOnly`, `InOut` and `Keep` for their options: RRO(writable="copy"), KEEP("sum/{row}", 1).

    The result is a function with the same signature. Put this decorator below that of a framework
    (@dask.delayed, @ray.remote, @python_app, @task): it then works where the task runs; give such a
    task handles. Above the framework's, it works where the task is submitted. `SharingExecutor` does
    both for plain functions.

    An array that was flagged RRO may be put once as long as it lives: do not change it in between.
    The first call of such a function does `forebay.install()`.

    Raises BadArgument, when it decorates, for a name that is no parameter.
    """
    if function is None:
        return lambda function: task(function, returns=returns, **flags)
    if not callable(function) and not isinstance(function, (staticmethod, classmethod)):
        raise BadArgument(f"forebay.task decorates functions, not {function!r}; flags go by name")
    if isinstance(function, (staticmethod, classmethod)):
        raise BadArgument("put forebay.task below @staticmethod or @classmethod, not above")
    return _Task(function, flags, returns).decorated()


class _Parameter:
    """One flagged parameter: where calls have it."""

    def __init__(
        self, name: str, flag: _Flag, index: int | None, known: inspect.Parameter | None
    ) -> None:
        kind = inspect.Parameter.KEYWORD_ONLY if known is None else known.kind
        named = kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
        self.name = name
        self.flag = flag
        self.index = None if named else index
        self.takes_rest = kind is inspect.Parameter.VAR_POSITIONAL
        self.takes_named = kind is inspect.Parameter.VAR_KEYWORD
        # Passed by name where the caller passes none; what has no name has to be passed.
        self.default = None if known is None else known.default
        self.has_default = isinstance(self.default, (np.ndarray, Ref, list, tuple, dict)) and (
            kind is not inspect.Parameter.POSITIONAL_ONLY
        )


class _Task:
    """A function with its flags. Picklable where its function is."""

    def __init__(self, function: Callable[..., Any], flags: Mapping[str, _Flag], returns: Any) -> None:
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)
        if not isinstance(returns, (Keep, In)):
            raise BadArgument(f"{self.name}: returns is KEEP or IN, not {returns!r}")
        self.returns = returns if isinstance(returns, Keep) else None
        self.parameters = self._find_parameters(flags)
        # The common case has a path of its own: nothing to seal, nothing to keep.
        self.only_reads = self.returns is None and all(
            isinstance(parameter.flag, ReadOnly)
            and parameter.flag.id is None
            and not parameter.flag.writable
            and not parameter.takes_rest
            and not parameter.takes_named
            for parameter in self.parameters
        )

    def _find_parameters(self, flags: Mapping[str, _Flag]) -> list[_Parameter]:
        try:
            known = inspect.signature(self.function).parameters
        except (TypeError, ValueError):  # some callables do not tell: then only by name
            known = {}  # type: ignore[assignment]
        self.known = frozenset(
            name
            for name, parameter in known.items()
            if parameter.kind is not inspect.Parameter.VAR_KEYWORD
        )
        found = []
        for name, flag in flags.items():
            if not isinstance(flag, (In, ReadOnly, InOut)):
                raise BadArgument(f"{self.name}: {name} is flagged {flag!r}; it may be RRO, INOUT or IN")
            if known and name not in known:
                raise BadArgument(f"{self.name} has no parameter {name!r}{_near(name, known)}")
            if isinstance(flag, In):
                continue
            index = list(known).index(name) if known else None
            found.append(_Parameter(name, flag, index, known.get(name)))
            if isinstance(flag, ReadOnly):
                self._check_template(flag.id, known)
        if self.returns is not None:
            self._check_template(self.returns.id, known)
        return found

    def _check_template(self, id: str | None, known: Any) -> None:
        for _, name, _, _ in string.Formatter().parse(id or ""):
            name = name if name is None else name.partition(".")[0].partition("[")[0]
            if name is not None and name not in known:
                raise BadArgument(
                    f"{self.name}: the id {id!r} names {name!r}, which is no parameter"
                    f"{_near(name, known)}"
                )

    # ------------------------------------------------------------------------------ the decorated

    def decorated(self) -> Callable[..., Any]:
        call = getattr(self.function, "__call__", None)
        asynchronous = inspect.iscoroutinefunction(self.function) or inspect.iscoroutinefunction(call)
        if not asynchronous and not self.only_reads:
            for function in (self.function, call):
                if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                    raise BadArgument(
                        f"{self.name} is a generator, which has not done its work when it returns: it "
                        "cannot have INOUT, KEEP, an id or writable"
                    )
        if asynchronous:
            wrapper = _wrapper.asynchronous(self)
        else:
            wrapper = _wrapper.synchronous(self)
        functools.update_wrapper(wrapper, self.function)
        try:
            # Some frameworks look for a signature and not through __wrapped__.
            wrapper.__signature__ = inspect.signature(self.function)  # type: ignore[attr-defined]
        except (TypeError, ValueError):
            pass
        wrapper.__forebay_task__ = self  # type: ignore[attr-defined]
        return wrapper

    def run(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not _handles.asked:
            _handles.install_once()
        if self.only_reads:
            arguments, named = self._read_only(arguments, named)
            try:
                return self.function(*arguments, **named)
            except ValueError as error:
                self._explain(error)
                raise
        call = _Call(self, arguments, named)
        try:
            result = self.function(*call.arguments, **call.named)
        except BaseException as error:
            self._fail(call, error)
            raise
        return call.end(result)

    async def run_coroutine(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not _handles.asked:
            _handles.install_once()
        call = _Call(self, arguments, named)
        try:
            result = await self.function(*call.arguments, **call.named)
        except BaseException as error:
            self._fail(call, error)
            raise
        return call.end(result)

    def _fail(self, call: _Call, error: BaseException) -> None:
        call.abort(error)
        if isinstance(error, ValueError):
            self._explain(error)

    def _read_only(
        self, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        changed = list(arguments)
        count = len(changed)
        for parameter in self.parameters:
            index = parameter.index
            if index is not None and index < count:
                changed[index] = _read(changed[index])
            elif parameter.name in named:
                named[parameter.name] = _read(named[parameter.name])
            elif parameter.has_default:
                named[parameter.name] = _read(parameter.default)
        return tuple(changed), named

    def _explain(self, error: ValueError) -> None:
        """Say in NumPy's error about a read-only array which arguments are ones, and the way out."""
        if "read-only" not in str(error):
            return
        names = [
            parameter.name
            for parameter in self.parameters
            if isinstance(parameter.flag, ReadOnly) and not parameter.flag.writable
        ]
        if not names:
            return
        several = len(names) > 1
        note = (
            f"forebay: {', '.join(map(repr, names))} of {self.name} {'are' if several else 'is'} "
            f"shared with other tasks and read-only (RRO); for a writable copy of the task's own, flag "
            f"it RRO(writable=\"copy\"), and to make the next version INOUT"
        )
        if hasattr(error, "add_note"):
            error.add_note(note)
        else:  # before Python 3.11
            error.args = (f"{error.args[0]}\n{note}", *error.args[1:])

    # ---------------------------------------------------------------------------- before a journey

    def for_travel(
        self, arguments: tuple[Any, ...], named: dict[str, Any], *, bound: bool = False
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The same arguments, with arrays that are flagged RRO or INOUT as what pickles as a handle.

        `bound`: they are those of a bound method, whose first one is not among them.
        """
        changed, changed_named = [None] * bound + list(arguments), dict(named)
        for parameter in self.parameters:
            if isinstance(parameter.flag, ReadOnly) and parameter.flag.id is not None:
                continue  # the first who runs it puts it
            change = _travelling if isinstance(parameter.flag, ReadOnly) else _leaving
            for place, key in _places(parameter, self.known, changed, changed_named):
                place[key] = _map(place[key], change)
        return tuple(changed[bound:]), changed_named


def _near(name: str, known: Any) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return "; it has " + ", ".join(map(repr, known)) if known else "; it has none"


def _places(
    parameter: _Parameter, known: frozenset[str], arguments: list[Any], named: dict[str, Any]
) -> list[tuple[Any, Any]]:
    """Where a call has the values of a parameter: (container, key) for each."""
    index = parameter.index
    if parameter.takes_rest:
        return [(arguments, i) for i in range(index or 0, len(arguments))]
    if parameter.takes_named:
        return [(named, key) for key in named if key not in known]
    if index is not None and index < len(arguments):
        return [(arguments, index)]
    return [(named, parameter.name)] if parameter.name in named else []


def _map(value: Any, change: Callable[[Any], Any], within: tuple[int, ...] = ()) -> Any:
    """Apply to the elements of lists, tuples and dicts, and to anything else itself. A collection of which
    nothing changes remains itself."""
    kind = type(value)
    if kind not in (list, dict) and not isinstance(value, tuple):
        return change(value)
    if id(value) in within:
        return value  # it contains itself
    within = (*within, id(value))
    if kind is dict:
        changed = {key: _map(element, change, within) for key, element in value.items()}
        same = all(changed[key] is element for key, element in value.items())
        return value if same else changed
    elements = [_map(element, change, within) for element in value]
    if all(new is old for new, old in zip(elements, value)):
        return value
    if kind is list:
        return elements
    return kind(*elements) if hasattr(value, "_fields") else tuple(elements)


# ------------------------------------------------------------------------------------ read-only


def _read(value: Any) -> Any:
    kind = type(value)
    if kind is np.ndarray:
        # What is read-only already needs no view, and what lies in a segment no mark.
        if not value.flags.writeable and handle_of(value) is not None:
            return value
        return _shared.mark(value)
    if kind is Ref:
        return _stores.get(value)
    if kind is SharedArray:
        return value.view(np.ndarray)
    if kind is np.memmap:
        return _shared.mark(value.view(np.ndarray))
    if isinstance(value, np.ndarray):
        view = value.view()
        view.flags.writeable = False
        return view
    if kind is list or kind is dict or isinstance(value, tuple):
        return _map(value, _read)
    return value


def _store_of(ref: Ref) -> Store:
    return _stores.find(ref.store, ref.namespace)


def _copied(value: Any) -> Any:
    """A writable value of the task's own, of which the pages that it does not write to are shared."""
    ref = value if type(value) is Ref else _shared.ref_of(value)
    if ref is not None:
        return _store_of(ref).get(ref, writable="copy")
    return value.copy() if isinstance(value, np.ndarray) else value


def _can_travel(value: Any) -> bool:
    return type(value) in (np.ndarray, np.memmap) and value.size > 0 and is_plain(value.dtype)


def _travelling(value: Any) -> Any:
    if not _can_travel(value):
        return value
    return value.view(SharedArray) if handle_of(value) is not None else _shared.share_once(value)


def _leaving(value: Any) -> Any:
    """An INOUT argument: each submission has versions of its own."""
    if not _can_travel(value) or handle_of(value) is not None:
        return value
    return _shared.share_anew(value)


# ------------------------------------------------------------------------------------- one call


# How long the end of a task waits for another run of it that makes the same version.
_TWIN_SECONDS = 10.0


class _Updating:
    """An INOUT argument: the next version of a segment, while the task makes it."""

    def __init__(self, name: str, ref: Ref, take: bool) -> None:
        self.name = name
        self.ref = ref
        self.store = _store_of(ref)
        self.builder: Builder | None = None
        info = self.store.stat(ref).info
        self.options = {"evictable": info.evictable, "persistent": info.persistent}
        try:
            self.builder = self.store.update(ref.id, ref.version, take=take, **self.options)
            self.array = self.builder.array
        except (Exists, Conflict) as error:
            if take and isinstance(error, Conflict):
                raise
            # Made already, or at this moment: by this very task, which is run again? The same bytes are
            # fine then.
            self.array = self.store.get(ref, writable="copy")

    def end(self) -> np.ndarray:
        if self.builder is not None:
            try:
                self._seal(self.builder)
            except BufferError as error:
                raise BufferError(
                    f"the argument {self.name!r} (INOUT) cannot be sealed: {error}"
                ) from None
            return self.array.view(SharedArray)
        id, version = self.ref.id, self.ref.version + 1
        # Who makes it meanwhile is given time to.
        self.store.get(id, version, timeout=_TWIN_SECONDS, default=None)
        made = self.store.put(id, self.array, version=version, exist_ok=True, **self.options)
        return self.store.get(made).view(SharedArray)

    @staticmethod
    def _seal(builder: Builder) -> None:
        try:
            builder.seal()
        except BufferError:
            gc.collect()  # views in cycles
            builder.seal()

    def abort(self) -> None:
        if self.builder is not None:
            try:
                self.builder.abort()
            except ForebayError:
                pass  # the task's own error is the one to hear of


class _Call:
    """The arguments of one call as the function gets them, and what is to be done afterwards."""

    def __init__(self, task: _Task, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.task = task
        self.arguments: Any = list(arguments)
        self.named = named
        self.updating: list[_Updating] = []
        self.written: list[np.ndarray] = []  # INOUT, and not in the store
        self.kept = 0
        self.prefix: str | None = None
        # Texts of ids are formatted with what the caller passed.
        self.given = _given(task, arguments, named) if _formats(task) else {}
        try:
            for parameter in task.parameters:
                index = parameter.index
                if (
                    parameter.has_default
                    and parameter.name not in named
                    and (index is None or index >= len(self.arguments))
                ):
                    named[parameter.name] = parameter.default
                for place, key in _places(parameter, task.known, self.arguments, named):
                    place[key] = self._open(parameter, place[key])
        except BaseException:
            self.abort()
            raise

    def _open(self, parameter: _Parameter, value: Any) -> Any:
        flag = parameter.flag
        self._note_scope(value)
        if isinstance(flag, InOut):
            return _map(value, lambda element: self._update(parameter.name, element, flag.take))
        assert isinstance(flag, ReadOnly)
        keyed = flag.id is not None and isinstance(value, np.ndarray)
        if keyed and flag.id is not None and handle_of(value) is None:
            id = flag.id.format(**self.given) if "{" in flag.id else flag.id
            store = _stores.default()
            shared = store.get_or_create(id, lambda: value, flag.version)
            if flag.writable:
                return store.get(id, flag.version, writable="copy")
            return shared
        if flag.writable:
            return _map(value, _copied)
        return _read(value)

    def _note_scope(self, value: Any) -> None:
        """Results without a name lie where the arguments do."""
        if self.prefix is None and self.task.returns is not None and self.task.returns.id is None:
            for element in value if type(value) in (list, tuple) else [value]:
                ref = element if type(element) is Ref else None
                if isinstance(element, np.ndarray) and (handle := handle_of(element)) is not None:
                    ref = Ref(handle[0])
                if ref is not None and (prefix := _scope.prefix_of(ref.id)) is not None:
                    self.prefix = prefix
                    return

    def _update(self, name: str, value: Any, take: bool) -> Any:
        ref = value if type(value) is Ref else _shared.ref_of(value)
        if ref is not None:
            for updating in self.updating:
                if updating.ref == ref:
                    return updating.array  # given twice, it is one array, as any other would be
            updating = _Updating(name, ref, take)
            self.updating.append(updating)
            return updating.array
        if not isinstance(value, np.ndarray):
            kind = type(value)
            raise TypeMismatch(
                f"{self.task.name}: the argument {name!r} is flagged INOUT, and is a "
                f"{kind.__module__}.{kind.__qualname__}; it may be an array, or a handle of one"
            )
        if handle_of(value) is not None:
            raise TypeMismatch(
                f"{self.task.name}: the argument {name!r} is flagged INOUT, and is a part of a segment "
                "of which only the whole has versions"
            )
        _shared.forget(value)
        self.written.append(value)
        return value

    def abort(self, error: BaseException | None = None) -> None:
        self.arguments = ()
        self._forget_written()
        if self.updating and error is not None and error.__traceback__ is not None:
            # Its frames hold views of what is being made, for as long as somebody keeps the error; and as
            # long the version could not be made by another run.
            traceback.clear_frames(error.__traceback__.tb_next or error.__traceback__)
        for updating in self.updating:
            updating.abort()

    def _forget_written(self) -> None:
        # What was put of them meanwhile is half of it.
        for array in self.written:
            _shared.forget(array)
        self.written = []

    def end(self, result: Any) -> Any:
        self.arguments = ()
        self._forget_written()
        sealed: dict[int, Any] = {}
        try:
            while self.updating:
                updating = self.updating[0]
                sealed[id(updating.array)] = updating.end()
                self.updating.pop(0)
        except BaseException:
            self.abort()
            raise
        if sealed:
            # What was updated in place is returned as what it has become.
            result = _map(result, lambda value: sealed.get(id(value), value))
        if self.task.returns is None:
            return result
        return _map(result, self._keep)

    def _keep(self, value: Any) -> Any:
        if value is None or isinstance(value, _SCALARS):
            return value
        keep = self.task.returns
        assert keep is not None
        if keep.id is None and isinstance(value, np.ndarray) and handle_of(value) is not None:
            return value.view(SharedArray)
        if type(value) is SharedArray:
            value = value.view(np.ndarray)
        self.kept += 1
        if keep.id is not None:
            id = keep.id.format(**self.given) if "{" in keep.id else keep.id
            if self.kept > 1:
                id += f"/{self.kept}"
            store = _stores.default()
            ref = store.put(id, value, version=keep.version, exist_ok=keep.version is not None)
        else:
            scope = _scope.current()
            store = scope.store
            id = scope.new_id(self.task.name)
            if self.prefix is not None:
                id = self.prefix + id.removeprefix(scope.prefix) + f"/{scope.prefix[6:14]}"
            ref = store.put(id, value, evictable=True)
        if not isinstance(value, np.ndarray) or value.dtype.hasobject:
            return ref
        there = store.get(ref)
        return there.view(SharedArray) if type(there) is np.ndarray else ref


_SCALARS = (bool, int, float, complex, str, bytes, np.generic, Ref)


def _formats(task: _Task) -> bool:
    ids = [parameter.flag.id for parameter in task.parameters if isinstance(parameter.flag, ReadOnly)]
    if task.returns is not None:
        ids.append(task.returns.id)
    return any(id is not None and "{" in id for id in ids)


def _given(task: _Task, arguments: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    bound = inspect.signature(task.function).bind(*arguments, **named)
    bound.apply_defaults()
    return dict(bound.arguments)
