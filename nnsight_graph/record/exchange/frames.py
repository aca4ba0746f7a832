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

_OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: a function's frame, whose names have fixed places
_MISSING: Any = object()

if sys.version_info < (3, 13):
    import ctypes

    _write = ctypes.pythonapi.PyFrame_LocalsToFast
    _write.argtypes, _write.restype = (ctypes.py_object, ctypes.c_int), None

    def change_locals(frame: FrameType, change: Change, kinds: frozenset[type] | None = None, among: Iterable[str] = ()) -> None:
        """Change the names of a function's frame whose values are of certain types; or those among some, whatever they are."""
        names = frame.f_locals
        if kinds is None:
            held = [(name, names[name]) for name in among if name in names]
            changed = {name: new for name, value in held if (new := change(value)) is not value}
        else:
            changed = {name: new for name, value in names.items() if type(value) in kinds and (new := change(value)) is not value}
        code = frame.f_code
        shared = code.co_cellvars + code.co_freevars
        if changed and not shared:
            names.update(changed)
            _write(frame, 0)
        elif changed:
            cells = {name: (names[name], new) for name, new in changed.items() if name in shared}
            others = {name: names.pop(name) for name in shared if name in names}
            names.update({name: new for name, new in changed.items() if name not in cells})
            _write(frame, 0)
            names.update(others)
            for name, (value, new) in cells.items():
                _change_shared(frame, name, value, new)
        if sys.getrefcount(names) <= _UNSHARED:
            names.clear()  # a copy that stays would keep values alive beyond a `del`; one that somebody has is theirs

    def _change_shared(frame: FrameType, name: str, value: Any, new: Any) -> None:
        """No other thread runs between the first of these lines, which reads all names, and the end of the last, which writes them."""
        names = frame.f_locals
        if name in names and names[name] is value:
            names[name] = new
            _write(frame, 0)

    def _references() -> int:
        def of(frame: FrameType) -> int:
            names = frame.f_locals
            return sys.getrefcount(names)

        return of(sys._getframe())

    _UNSHARED = _references()

else:

    def change_locals(frame: FrameType, change: Change, kinds: frozenset[type] | None = None, among: Iterable[str] = ()) -> None:
        """Change the names of a function's frame whose values are of certain types; or those among some, whatever they are."""
        names = frame.f_locals
        for name, value in names.items():
            if type(value) in kinds if kinds is not None else name in among:
                new = change(value)
                if new is not value and names[name] is value:
                    names[name] = new


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


def is_function(frame: FrameType) -> bool:
    """Whether a frame is a function's, not a module's or a class's."""
    return bool(frame.f_code.co_flags & _OPTIMIZED)
