"""The names of a frame, looked at and written one by one.

A function's names cannot be written singly before Python 3.13: all of them go back from a copy. So those that functions share (cells)
are left out of it and written by themselves: meanwhile another thread may have given them a value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import CellType, FrameType
from typing import Any

Change = Callable[[Any], Any]
"""Gives what a name shall hold for what it holds: the same object, where that stays."""

OPTIMIZED = 0x1
"""``inspect.CO_OPTIMIZED``, in the flags of a function's code, whose names have fixed places: not of a module's or a class's."""
_MISSING: Any = object()
_CONTAINERS = (list, dict)

if sys.version_info < (3, 13):
    import ctypes

    _write = ctypes.PYFUNCTYPE(None, ctypes.py_object, ctypes.c_int)(("PyFrame_LocalsToFast", ctypes.pythonapi))
    _LEAVE = ctypes.c_int(0)  # names that the copy lacks; made once

    def change_bound(frame: FrameType, bound: tuple[str, ...], change: Change, kinds: frozenset[type]) -> None:
        """Change those among some names of a function's frame whose values are of certain types: on the way of every block."""
        code = frame.f_code
        if code.co_cellvars or code.co_freevars:
            change_locals(frame, change, kinds)
            return
        names = frame.f_locals
        written = False
        for name in bound:
            if name in names:
                value = names[name]
                if type(value) in kinds and (new := change(value)) is not value:
                    names[name] = new
                    written = True
        if written:
            _write(frame, _LEAVE)
        if sys.getrefcount(names) <= _UNSHARED:
            names.clear()  # a copy that stays would keep values alive beyond a `del`; one that somebody has is theirs

    def change_locals(frame: FrameType, change: Change, kinds: frozenset[type] | None = None, among: Iterable[str] = ()) -> None:
        """Change the names of a function's frame whose values are of certain types; or those among some, whatever they are."""
        names = frame.f_locals
        _change_some(frame, names, change, kinds, among)
        if sys.getrefcount(names) <= _UNSHARED:
            names.clear()

    def _change_some(
        frame: FrameType, names: dict[str, Any], change: Change, kinds: frozenset[type] | None, among: Iterable[str]
    ) -> None:
        found = [(name, names[name]) for name in (names if kinds is not None else among) if name in names]
        held = found if kinds is None else [(name, value) for name, value in found if type(value) in kinds]
        changed = {name: (value, new) for name, value in held if (new := change(value)) is not value}
        if not changed:
            return
        shared = frame.f_code.co_cellvars + frame.f_code.co_freevars
        others = {name: names.pop(name) for name in shared if name in names}
        names.update({name: new for name, (_, new) in changed.items() if name not in others})
        _write(frame, _LEAVE)
        names.update(others)
        for name in changed.keys() & others.keys():
            _change_shared(frame, name, *changed[name])

    def _change_shared(frame: FrameType, name: str, value: Any, new: Any) -> None:
        """No other thread runs between the first of these lines, which reads all names, and the end of the last, which writes them."""
        names = frame.f_locals
        if name in names and names[name] is value:
            names[name] = new
            _write(frame, _LEAVE)

    def _references() -> int:
        def of(frame: FrameType) -> int:
            names = frame.f_locals
            return sys.getrefcount(names)

        return of(sys._getframe())

    _UNSHARED = _references()

else:

    def change_bound(frame: FrameType, bound: tuple[str, ...], change: Change, kinds: frozenset[type]) -> None:
        """Change those among some names of a function's frame whose values are of certain types: on the way of every block."""
        names = frame.f_locals
        for name in bound:
            if name in names and type(value := names[name]) in kinds:
                new = change(value)
                if new is not value and names[name] is value:
                    names[name] = new

    def change_locals(frame: FrameType, change: Change, kinds: frozenset[type] | None = None, among: Iterable[str] = ()) -> None:
        """Change the names of a function's frame whose values are of certain types; or those among some, whatever they are."""
        names = frame.f_locals
        for name, value in names.items():
            if type(value) in kinds if kinds is not None else name in among:
                new = change(value)
                if new is not value and names[name] is value:
                    names[name] = new


def named_containers(frame: FrameType, among: Iterable[str]) -> list[Any]:
    """The lists and dicts that some names of a function's frame hold."""
    names = frame.f_locals
    found = [value for name in among if name in names and type(value := names[name]) in _CONTAINERS]
    if sys.version_info < (3, 13) and sys.getrefcount(names) <= _UNSHARED:
        names.clear()
    return found


def containers_among(space: Any, among: Iterable[str]) -> list[Any]:
    """The lists and dicts that some names of a namespace hold."""
    if not isinstance(space, dict):
        return []
    return [value for name in among if type(value := dict.get(space, name)) in _CONTAINERS]


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

