"""The function that runs, below decorators: the one that they wrap, or one that they call in its place."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable
from typing import Any

from ..errors import NNsightError
from .callees import LOOKUPS, Untold, callee
from .instrument import Operation, called, instrumented


def innermost(function: Any) -> types.FunctionType:
    """The function that decorators and methods wrap; where a decorator chooses another in its place, that one.

    Raises:
        NNsightError: it is not written in Python, or something that cannot be seen through is around it.
    """
    owner = getattr(function, "__self__", None)
    function = _plain(function)
    while (wrapped := getattr(function, "__wrapped__", None)) is not None:
        function = _plain(_chosen(function, wrapped, owner) or wrapped)
    if not isinstance(function, types.FunctionType):
        name = getattr(function, "__qualname__", None) or type(function).__qualname__
        raise NNsightError(f"{name} is not written in Python: what it does inside cannot be seen")
    return function


def rebuilt(function: Any, inner: types.FunctionType, replacement: Callable[..., Any]) -> Any:
    """``function`` with ``replacement`` in place of the function that runs below its decorators.

    Raises:
        NNsightError: a decorator does not hold what it wraps as a plain closure does.
    """
    if isinstance(function, types.MethodType):
        return types.MethodType(_rebuilt(function.__func__, inner, replacement, function.__self__), function.__self__)
    return _rebuilt(function, inner, replacement, None)


def _rebuilt(function: Any, inner: types.FunctionType, replacement: Callable[..., Any], owner: Any) -> Any:
    if _plain(function) is inner:
        return replacement
    wrapped = getattr(function, "__wrapped__", None)
    cells = function.__closure__ or () if isinstance(function, types.FunctionType) else ()
    if wrapped is None or not any(_content(cell) is wrapped for cell in cells):
        raise NNsightError(f"{getattr(function, '__qualname__', function)} is wrapped in a way that cannot be seen through")
    chosen = _chosen(function, wrapped, owner)
    if chosen is not None:
        new = _rebuilt(chosen, inner, replacement, owner)
        return instrumented(function).calling(_exchanging(chosen, new))
    new = _rebuilt(wrapped, inner, replacement, owner)
    closure = tuple([types.CellType(new) if _content(cell) is wrapped else cell for cell in cells])
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, closure)
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _chosen(wrapper: Any, wrapped: Any, owner: Any) -> types.FunctionType | None:
    """The function that a decorator looks up and calls with its owner, in place of what it wraps; ``None`` for most decorators."""
    cells = wrapper.__closure__ or () if isinstance(wrapper, types.FunctionType) else ()
    if owner is None or LOOKUPS.isdisjoint(wrapper.__code__.co_names) or not any(_content(cell) is wrapped for cell in cells):
        return None
    try:
        seen = instrumented(wrapper)
    except NNsightError:
        return None
    own: tuple[str, ...] = wrapper.__code__.co_varnames[:1]
    found: Any = None
    for named in seen.operations:
        call = named.expression
        first = call.args[0] if isinstance(call, ast.Call) and call.args else None
        if not (isinstance(first, ast.Name) and first.id in own):
            continue
        try:
            found = callee(seen, named, owner)
        except Untold:
            return None
        if found is wrapped:
            return None
    return found if isinstance(found, types.FunctionType) else None


def _exchanging(old: Any, new: Any) -> Operation:
    def operation(_name: str, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        return (new if function is old else called(function))(*args, **kwargs)

    return operation


def _plain(function: Any) -> Any:
    return getattr(function, "__func__", function)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None
