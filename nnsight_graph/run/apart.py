"""Copies and pickles of a module are free of what runs have put on it, whatever thread runs it meanwhile.

What a run puts on a module stands in two places, and each says of itself how it is copied. A table of hooks answers ``__reduce_ex__``
without those of runs (an attribute of this one table, while there are any). A module of which a run has replaced an attribute answers
``__getstate__`` with what stood there before. ``copy``, ``pickle`` and ``torch.save`` ask both.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from types import FunctionType, MethodType
from typing import Any

import torch

_REDUCE, _STATE = "__reduce_ex__", "__getstate__"
_lock = threading.Lock()


class _Reduction:
    """What a table of hooks is made of again: the user's own hooks."""

    __slots__ = ("ours", "table")

    def __init__(self, table: OrderedDict[Any, Any]) -> None:
        self.table = table
        self.ours: set[Any] = set()

    def __call__(self, _protocol: Any) -> tuple[Any, tuple[()], dict[str, Any] | None, None, Iterator[tuple[Any, Any]]]:
        own = [(key, hook) for key, hook in list(self.table.items()) if key not in self.ours]
        attributes = {name: value for name, value in vars(self.table).items() if value is not self}
        return OrderedDict, (), attributes or None, None, iter(own)


def put(table: Any, key: Any, value: Any) -> None:
    """Put something of a run into a table of hooks, so that copies are without it."""
    with _lock:
        if type(table) is OrderedDict:  # plain dictionaries have no attributes
            mark(table, key)
        table[key] = value


def mark(table: OrderedDict[Any, Any], key: Any) -> None:
    """Let copies of a table be without ``key``."""
    attributes = table.__dict__
    reduction = attributes.get(_REDUCE)
    if reduction is None:
        reduction = attributes[_REDUCE] = _Reduction(table)
    reduction.ours.add(key)


def take(table: Any, key: Any) -> None:
    """Take out what :func:`put` has put there."""
    with _lock:
        table.pop(key, None)
        reduction = table.__dict__.get(_REDUCE) if type(table) is OrderedDict else None
        if reduction is not None:
            reduction.ours.discard(key)
            if not reduction.ours:
                del table.__dict__[_REDUCE]


# ---------------------------------------------------------------------- replaced attributes

_parted: dict[int, int] = {}


def part(module: torch.nn.Module) -> None:
    """Let copies of a module have what was there before, in place of its replaced attributes."""
    with _lock:
        users = _parted[id(module)] = _parted.get(id(module), 0) + 1
        if users == 1 and _STATE not in module.__dict__:
            module.__dict__[_STATE] = MethodType(_state, module)


def rejoin(module: torch.nn.Module) -> None:
    """Take one :func:`part` back."""
    with _lock:
        _parted[id(module)] -= 1
        if not _parted[id(module)]:
            del _parted[id(module)]
            if getattr(module.__dict__.get(_STATE), "__func__", None) is _state:
                del module.__dict__[_STATE]


def _state(module: torch.nn.Module) -> Any:
    """What a copy of a module is made of."""
    plain = getattr(type(module), _STATE, None)
    state = dict(module.__dict__) if plain is None else plain(module)
    return _without(state) if isinstance(state, dict) else state


def own_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """The attributes of a module, as they are where no run has replaced any."""
    found = dict(module.__dict__)
    return _without(found) if _STATE in found else found


def _without(attributes: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in attributes.items():
        before = _stood_before(value) or (value,)
        if before[0] is not None or before[0] is value:
            made[name] = before[0]
    if getattr(made.get(_STATE), "__func__", None) is _state:
        del made[_STATE]
    return made


def _stood_before(value: Any) -> tuple[Any, ...]:
    """What stood where a run has put ``value``, ``None`` for nothing; empty if no run has put it there."""
    if isinstance(value, MethodType):
        value = value.__func__
    if isinstance(value, FunctionType):
        before: tuple[Any, ...] = value.__dict__.get("_stood_before", ())
        return before
    return (value.original,) if isinstance(value, InPlace) else ()


class InPlace(dict):  # type: ignore[type-arg]
    """A dictionary that stands, for a run, in the place of its ``original``; copies of it are plain."""

    __slots__ = ("original",)

    def __init__(self, original: dict[str, Any]) -> None:
        super().__init__(original)
        self.original = original

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return dict, (), None, None, iter(list(dict.items(self)))
