"""The names of the user's frame as cells for the rewritten body, and back."""

from __future__ import annotations

import dis
import functools
import sys
from collections.abc import Container, Iterable, Iterator
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

from .emitter import UNBOUND

_OPTIMIZED = 0x1  # inspect.CO_OPTIMIZED: a function's frame, whose names have fixed places
_MISSING: Any = object()

if sys.version_info < (3, 13):
    import ctypes

    def _write_locals(frame: FrameType, values: dict[str, Any]) -> None:
        names = frame.f_locals
        names.update({name: value for name, value in values.items() if value is not UNBOUND})
        for name, value in values.items():
            if value is UNBOUND:
                names.pop(name, None)
        if is_function(frame.f_code):
            clear = any(value is UNBOUND for value in values.values())
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(clear))

else:

    def _write_locals(frame: FrameType, values: dict[str, Any]) -> None:
        names = frame.f_locals
        for name, value in values.items():
            if value is not UNBOUND:
                names[name] = value
            elif not is_function(frame.f_code):  # a function's own names cannot be unset from outside
                names.pop(name, None)


def is_function(code: CodeType) -> bool:
    """Whether ``code`` is a function's, not a module's or a class's."""
    return bool(code.co_flags & _OPTIMIZED)


def read(cell: CellType) -> Any:
    """What a cell holds, or UNBOUND."""
    try:
        return cell.cell_contents
    except ValueError:
        return UNBOUND


def write(cell: CellType, value: Any) -> None:
    """Fill or empty a cell."""
    if value is not UNBOUND:
        cell.cell_contents = value
    elif read(cell) is not UNBOUND:
        del cell.cell_contents


class FrameNames:
    """The names of one frame while its block runs somewhere else.

    Attributes:
        cells: A cell for each name; empty for a module's frame, whose names are those of ``frame.f_globals``.

    Args:
        frame: The frame.
        names: All names of the block.
        stored: Those among them that the block itself assigns.
    """

    __slots__ = ("_captured", "_frame", "_module", "_shared", "cells")

    def __init__(self, frame: FrameType, names: Iterable[str], stored: Container[str]) -> None:
        self._frame = frame
        self._module = frame.f_globals if frame.f_locals is frame.f_globals else None
        self.cells: dict[str, CellType] = {}
        self._captured: dict[str, Any] = {}
        self._shared: set[str] = set()
        code = frame.f_code
        values = dict(frame.f_locals)
        captured = {*code.co_cellvars, *code.co_freevars}
        for name in names:
            value = values.get(name, UNBOUND)
            self.cells[name] = self._cell(name, value, values, name in captured, name in stored)
        if not is_function(code):
            self._fill_from_outside(frame)

    def _cell(self, name: str, value: Any, values: dict[str, Any], captured: bool, stored: bool) -> CellType:
        if not captured or not is_function(self._frame.f_code):
            return CellType() if value is UNBOUND else CellType(value)
        holders = list(_holders_of(name, values.values()))
        written = stored or any(name in _assigned(function.__code__) for function, _ in holders)
        for _, candidate in holders if written else ():  # to look is to write, which other threads can see
            if read(candidate) is value and self._is_frames(candidate, name):
                self._shared.add(name)
                return candidate
        self._captured[name] = value
        return CellType() if value is UNBOUND else CellType(value)

    def _is_frames(self, cell: CellType, name: str) -> bool:
        """Whether a cell is the frame's own: what is written into it then shows in the frame (in a recursion it may not)."""
        before, probe = read(cell), object()
        try:
            cell.cell_contents = probe
            return self._frame.f_locals.get(name) is probe
        finally:
            write(cell, before)

    def _fill_from_outside(self, frame: FrameType) -> None:
        """A class body also sees names of the function around it, of its module, and builtins."""
        around = frame.f_back.f_locals if frame.f_back is not None and frame.f_code.co_freevars else {}
        for name, cell in self.cells.items():
            if read(cell) is UNBOUND:
                inner = around.get(name, _MISSING) if name in frame.f_code.co_freevars else _MISSING
                value = frame.f_globals.get(name, frame.f_builtins.get(name, UNBOUND)) if inner is _MISSING else inner
                write(cell, value)

    def read(self, names: Iterable[str]) -> dict[str, Any]:
        """The values of these names now, UNBOUND where there is none."""
        if self._module is not None:
            return {name: self._module.get(name, UNBOUND) for name in names}
        return {name: read(self.cells[name]) for name in names if name in self.cells}

    def replace(self, old: Any, new: Any) -> None:
        """Let every name that means ``old`` mean ``new``."""
        if self._module is not None:
            self._module.update({name: new for name, value in list(self._module.items()) if value is old})
        for cell in self.cells.values():
            if read(cell) is old:
                write(cell, new)

    def forget(self) -> None:
        """Empty the frame's copy of its names: before Python 3.13 it would keep their values alive beyond a ``del``."""
        if sys.version_info < (3, 13) and is_function(self._frame.f_code):
            self._frame.f_locals.clear()

    def write_back(self, values: dict[str, Any]) -> str:
        """Give the frame the values of its names.

        Returns:
            A name that was changed meanwhile by a function that is not to be found among the frame's values; empty if there is none.
        """
        now = self._frame.f_locals if self._captured else {}
        hidden = [name for name, value in self._captured.items() if now.get(name, UNBOUND) is not value]
        for name in self._shared & values.keys():
            write(self.cells[name], values[name])
        _write_locals(self._frame, {name: value for name, value in values.items() if name not in self._shared and name not in hidden})
        return hidden[0] if hidden else ""


def _holders_of(name: str, values: Iterable[Any]) -> Iterator[tuple[FunctionType, CellType]]:
    """The live functions that hold a variable of that name, with its cells."""
    for function in _functions(values, 2):
        if name in function.__code__.co_freevars:
            yield function, (function.__closure__ or ())[function.__code__.co_freevars.index(name)]


@functools.lru_cache(maxsize=1000)
def _assigned(code: CodeType) -> frozenset[str]:
    """The variables of functions around it that a function, or one inside it, assigns or deletes."""
    own = {line.argval for line in dis.get_instructions(code) if line.opname in ("STORE_DEREF", "DELETE_DEREF")}
    return frozenset(own.union(*(_assigned(inner) for inner in code.co_consts if isinstance(inner, CodeType))))


def _functions(values: Iterable[Any], depth: int) -> Iterator[FunctionType]:
    for value in list(values):
        kind = type(value)
        if kind is FunctionType:
            yield value
            if depth and value.__closure__:
                yield from _functions([read(cell) for cell in value.__closure__], depth - 1)
        elif depth and kind in (list, tuple, set):
            yield from _functions(value, depth - 1)
        elif depth and kind is dict:
            yield from _functions(value.values(), depth - 1)
        elif depth and isinstance(getattr(kind, "__func__", None) and value.__func__, FunctionType):
            yield from _functions([value.__func__], depth - 1)
