"""Copies and pickles of a module are free of what runs have put on it, whatever thread runs it meanwhile.

What a run puts on a module stands in two places, and each says of itself how it is copied. A table of hooks answers ``__reduce_ex__``
without those of runs (an attribute of this one table, while there are any). A module of which a run has replaced an attribute answers
``__getstate__`` with what stood there before. ``copy``, ``pickle`` and ``torch.save`` ask both.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch

_REDUCE, _STATE = "__reduce_ex__", "__getstate__"
_lock = threading.RLock()


def put(table: Any, hook: Any, value: Any) -> None:
    """Put a hook of a run into a table, under itself as the key; copies of the table are without it.

    No lock: whoever comes, or goes, looks again after what it did.
    """
    if type(table) is not OrderedDict:  # others have no attributes
        table[hook] = value
        return
    attributes = table.__dict__
    if _REDUCE not in attributes:
        attributes[_REDUCE] = MethodType(_reduced, table)
    table[hook] = value
    if _REDUCE not in attributes:  # another run has ended in between
        attributes[_REDUCE] = MethodType(_reduced, table)


def take(table: Any, hook: Any) -> None:
    """Take out what :func:`put` has put there."""
    table.pop(hook, None)
    if type(table) is OrderedDict and not (table and _ours(table)):
        attributes = table.__dict__
        attributes.pop(_REDUCE, None)
        while table and _ours(table):  # another run has begun in between
            attributes[_REDUCE] = MethodType(_reduced, table)
            if _ours(table):
                return
            attributes.pop(_REDUCE, None)


def _ours(table: OrderedDict[Any, Any]) -> bool:
    """Whether a table has hooks of runs: those that stand under themselves; torch numbers its keys."""
    return any(type(key) is FunctionType for key in list(table))


def _reduced(table: OrderedDict[Any, Any], _protocol: Any) -> tuple[Any, ...]:
    """What a table of hooks is made of again: the user's own."""
    own = [(key, hook) for key, hook in list(table.items()) if type(key) is not FunctionType]
    attributes = {name: value for name, value in dict(table.__dict__).items() if name != _REDUCE}
    return OrderedDict, (), attributes or None, None, iter(own)


# ---------------------------------------------------------------------- replaced attributes

_parted: dict[int, set[object]] = {}


def part(module: torch.nn.Module, user: object) -> None:
    """Let copies of a module have what was there before, in place of its replaced attributes, for one more user of that."""
    _locked(_part, module, user)


def rejoin(module: torch.nn.Module, user: object) -> None:
    """Take a :func:`part` back; for nothing, if it was not done, or was taken back already."""
    _locked(_rejoin, module, user)


def _locked(change: Callable[[torch.nn.Module, object], None], module: torch.nn.Module, user: object) -> None:
    with _lock: return change(module, user)  # on one line: an interrupt between two would leave it locked


def _part(module: torch.nn.Module, user: object) -> None:
    _parted[id(module)] = {*_parted.get(id(module), ()), user}
    if _STATE not in module.__dict__:
        module.__dict__[_STATE] = _State(module, _STATE)


def _rejoin(module: torch.nn.Module, user: object) -> None:
    users = _parted.get(id(module), set()) - {user}
    if users:
        _parted[id(module)] = users
        return
    if type(module.__dict__.get(_STATE)) is _State:
        del module.__dict__[_STATE]
    _parted.pop(id(module), None)


class InPlace:
    """What stands in the place of a module's method for a run.

    Attributes:
        before: What stood there in the module's own dictionary; ``None`` for nothing.
    """

    def __init__(self, module: torch.nn.Module, name: str) -> None:
        self.module, self.name = module, name
        self.before = module.__dict__.get(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """For classes that copy their attributes themselves: the copy's own method."""
        copied = memo.get(id(self.module))
        if copied is None or self.before is not None:
            return copy.deepcopy(self.before, memo)
        return MethodType(getattr(type(copied), self.name), copied)


class _State(InPlace):
    """Gives what a copy of a module is made of."""

    def __call__(self) -> Any:
        plain = getattr(type(self.module), _STATE, None)
        state = dict(self.module.__dict__) if plain is None else plain(self.module)
        return _without(state) if isinstance(state, dict) else state


class Table(dict):  # type: ignore[type-arg]
    """A dictionary that stands, for a run, in the place of its ``original``; copies of it are plain."""

    __slots__ = ("original",)

    def __init__(self, original: dict[str, Any]) -> None:
        super().__init__(original)
        self.original = original

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return dict, (), None, None, iter(list(dict.items(self)))


def own_attributes(module: torch.nn.Module) -> dict[str, Any]:
    """The attributes of a module, as they are where no run has replaced any."""
    found = dict(module.__dict__)
    return _without(found) if _STATE in found else found


def _without(attributes: dict[str, Any]) -> dict[str, Any]:
    made = {}
    for name, value in attributes.items():
        if isinstance(value, Table):
            made[name] = value.original
        elif not isinstance(value, InPlace):
            made[name] = value
        elif value.before is not None:
            made[name] = value.before
    return made
