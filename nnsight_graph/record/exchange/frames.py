"""The names of a frame, looked at and written one by one.

A function's names cannot be written singly before Python 3.13: all of them go back from a copy. So those that functions share (cells)
are left out of it and written by themselves: meanwhile another thread may have given them a value.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable
from types import CellType, FrameType
from typing import Any

Change = Callable[[Any], Any]
"""Gives what a name shall hold for what it holds: the same object, where that stays."""

OPTIMIZED = 0x1
"""``inspect.CO_OPTIMIZED``, in the flags of a function's code, whose names have fixed places: not of a module's or a class's."""
_COPIES = sys.version_info < (3, 13)
"""Whether a frame gives a copy of a function's names."""
_write = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_int)(("PyFrame_LocalsToFast", ctypes.pythonapi))
_LEAVE = ctypes.c_int(0)  # names that the copy lacks; made once
_MISSING: Any = object()


def change_bound(frame: FrameType, bound: tuple[str, ...], change: Change, kinds: frozenset[type]) -> None:
    """The same as :func:`change_names`, with less to do: for a function without cells, on the way of every block."""
    names = frame.f_locals
    written = False
    for name in bound:
        value = names.get(name)
        if type(value) in kinds and (new := change(value)) is not value:
            names[name] = new
            written = True
    if _COPIES:
        if written:
            _write(frame, _LEAVE)
        if sys.getrefcount(names) <= _UNSHARED:
            names.clear()


def change_names(frame: FrameType, among: Iterable[str] | None, change: Change, kinds: frozenset[type] | None = None) -> None:
    """Change some names of a function's frame, or all of them; with ``kinds``, those whose values are of these types."""
    names = frame.f_locals
    changed: list[tuple[str, Any, Any]] = []
    for name in list(names) if among is None else among:
        if name in names:
            value = names[name]
            if (kinds is None or type(value) in kinds) and (new := change(value)) is not value:
                changed.append((name, value, new))
    if changed:
        _write_back(frame, names, changed)
    if _COPIES and sys.getrefcount(names) <= _UNSHARED:
        names.clear()  # a copy that stays would keep values alive beyond a `del`; one that somebody has is theirs


def _write_back(frame: FrameType, names: dict[str, Any], changed: list[tuple[str, Any, Any]]) -> None:
    shared = frame.f_code.co_cellvars + frame.f_code.co_freevars if _COPIES else names
    if _COPIES:
        others = {name: names.pop(name) for name in shared if name in names}
        names.update({name: new for name, _, new in changed if name not in others})
        _write(frame, _LEAVE)
        names.update(others)
    for name, value, new in changed:
        if name in shared:
            # No other thread runs between the first of these lines, which reads all names, and the last, which writes them.
            names = frame.f_locals
            if name in names and names[name] is value:
                names[name] = new
                if _COPIES:
                    _write(frame, _LEAVE)


def _references() -> int:
    def of(frame: FrameType) -> int:
        names = frame.f_locals
        return sys.getrefcount(names)

    return of(sys._getframe())


_UNSHARED = _references()


def change_cell(cell: CellType, change: Change) -> None:
    """The same for what a cell holds; if that is another thing by then, it stays."""
    try:
        value = cell.cell_contents
        new = change(value)
        if new is not value and cell.cell_contents is value:  # no other thread runs between this and the next
            cell.cell_contents = new
    except ValueError:  # it is empty
        pass


def change_items(space: Any, names: Iterable[str], change: Change, kinds: frozenset[type] | None = None) -> None:
    """The same for some of the names of a module, a class body or another namespace; for one that is no dict nothing is done."""
    if not isinstance(space, dict):
        return
    for name in names:
        value = dict.get(space, name, _MISSING)
        if value is not _MISSING and (kinds is None or type(value) in kinds):
            new = change(value)
            if new is not value and dict.get(space, name) is value:
                dict.__setitem__(space, name, new)
