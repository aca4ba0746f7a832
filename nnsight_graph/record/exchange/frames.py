"""The names of a frame, looked at and written one by one.

A function's names cannot be written singly before Python 3.13: all of them go back from a copy. So those that functions share (cells)
are left out of it and written by themselves: meanwhile another thread may have given them a value.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

Change = Callable[[Any], Any]
"""Gives what a name shall hold for what it holds: the same object, where that stays."""

OPTIMIZED = 0x1
"""``inspect.CO_OPTIMIZED``, in the flags of a function's code, whose names have fixed places: not of a module's or a class's."""
_write = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_int)(("PyFrame_LocalsToFast", ctypes.pythonapi))
_LEAVE = ctypes.c_int(0)  # names that the copy lacks; made once
_MISSING: Any = object()


def change_names(frame: FrameType, among: Iterable[str] | None, change: Change, kinds: frozenset[type] | None, shares: bool) -> None:
    """Change some names of a function's frame, or all of them.

    Args:
        frame: The frame.
        among: The names; ``None`` for all.
        change: Gives what a name shall hold.
        kinds: Only values of these types are looked at, if any are given.
        shares: Whether functions share names of its own.
    """
    names: Any = frame.f_locals
    if type(names) is not dict:
        change_items(names, list(names) if among is None else among, change, kinds)
        return
    changed: list[tuple[str, Any, Any]] = []
    for name in names if among is None else among:
        if name in names:
            value = names[name]
            if (kinds is None or type(value) in kinds) and (new := change(value)) is not value:
                changed.append((name, value, new))
    if changed:
        shared = frame.f_code.co_cellvars + frame.f_code.co_freevars if shares else ()
        others = {name: names.pop(name) for name in shared if name in names}
        for name, _, new in changed:
            if name not in others:
                names[name] = new
        _write(frame, _LEAVE)
        names.update(others)
        for name, value, new in changed:
            if name in others:
                names = frame.f_locals  # no other thread runs between this, which reads all names, and the last line, which writes them
                if name in names and names[name] is value:
                    names[name] = new
                    _write(frame, _LEAVE)
    if sys.getrefcount(names) <= _UNSHARED:
        names.clear()  # a copy that stays would keep values alive beyond a `del`; one that somebody has is theirs


def values_of(frame: FrameType, among: Iterable[str]) -> list[Any]:
    """What some names of a frame hold."""
    names: Any = frame.f_locals
    known = type(names).__module__ == "builtins"  # not a class of somebody's own
    found = [names[name] for name in among if name in names] if known else []
    if type(names) is dict and frame.f_code.co_flags & OPTIMIZED and sys.getrefcount(names) <= _UNSHARED:
        names.clear()
    return found


def _references(frame: FrameType) -> int:
    names = frame.f_locals
    return sys.getrefcount(names)


def _here() -> FrameType:
    return sys._getframe()


_UNSHARED = _references(_here())


def change_items(space: Any, names: Iterable[str], change: Change, kinds: frozenset[type] | None = None) -> None:
    """The same for a module, a class body or another namespace, whose names are written singly."""
    kind: Any = dict if isinstance(space, dict) else type(space)
    if kind is not dict and kind.__module__ != "builtins":  # a class of somebody's own
        return
    for name in names:
        value = kind.get(space, name, _MISSING)
        if value is not _MISSING and (kinds is None or type(value) in kinds):
            new = change(value)
            if new is not value and kind.get(space, name) is value:
                kind.__setitem__(space, name, new)
