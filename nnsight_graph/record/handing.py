"""After a block: what was saved is handed over as the value it is, wherever the names of the block's frame reach.

A tensor gets a class that has ``value``, if nobody but its proxy has it: not if the model holds it (a buffer, an attribute, a cache), or if
it came from outside (an input, a captured tensor). Whether somebody does is seen from the number of references to it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch

from ..ops.saved_values import WITH_VALUE, SavedTensor
from .exchange.blocks import exchange, left
from .proxy import Proxy
from .settled import UNSET

_KINDS: frozenset[type] = frozenset((Proxy, *Proxy.__subclasses__()))
_CONTAINERS = (tuple, list, dict)
_MOST = 10_000
_DEEP = 10
_set = object.__setattr__


def hand_over(
    frame: FrameType, offset: int | None, saved: dict[int, Proxy], refilled: tuple[tuple[Any, Any], ...], captured: list[Any]
) -> None:
    """Exchange the saved proxies of a block that has ended for their values.

    Args:
        frame: The frame that left it.
        offset: The instruction with which it entered it; ``None`` if no ``with`` of its own did.
        saved: The proxies that were to be given a value, by node.
        refilled: Containers of the user's that the run has filled, which stay the objects that they were; and proxies that have the value
            of another one.
        captured: The constants of what was recorded.
    """
    proxy: Any
    given: list[Any] = []
    plain = not refilled and not left
    for proxy in saved.values():
        value = proxy._value
        if value is not UNSET:
            given.append(proxy)
            plain = plain and type(value) is torch.Tensor and sys.getrefcount(value) <= _ALONE
    if refilled:
        given += [one for one, _ in refilled if type(one) in _KINDS and one._value is not UNSET and saved.get(one._index) is not one]
    proxy = value = None  # else they would be held here, too
    if given:
        exchange(frame, offset, _KINDS, _handed if plain else _Values(given, refilled, captured).of, given)


def _handed(proxy: Any) -> Any:
    """What a proxy is exchanged for, after a block of which all that was saved are tensors that nobody else has; itself without a value."""
    value = proxy._value
    if type(value) is torch.Tensor and sys.getrefcount(value) <= _ALONE:
        value.__class__ = SavedTensor
    return proxy if value is UNSET else value


class _Values:
    """The values of one block: what proxies are exchanged for. Equal objects stay equal.

    Args:
        given: The proxies that it has given a value.
        refilled: As for :func:`hand_over`.
        captured: The constants of what was recorded, among which may be values of earlier blocks.
    """

    def __init__(self, given: list[Proxy], refilled: tuple[tuple[Any, Any], ...], captured: list[Any]) -> None:
        self._given, self._captured = given, captured
        self._counts: dict[int, int] | None = None
        self._sharing: dict[int, list[Proxy]] | None = None
        self._made: dict[int, Any] = {id(one): one for one, _ in refilled if isinstance(one, (list, dict))}

    def of(self, proxy: Any) -> Any:
        """What a proxy is exchanged for; itself where it has no value."""
        value = proxy._value
        if type(value) is torch.Tensor:
            if sys.getrefcount(value) <= _ALONE + _shared(value) + self._known(value, proxy):
                value.__class__ = SavedTensor
            return value
        if type(value) in WITH_VALUE:
            kept = self._made.get(id(value))
            if kept is None:
                kept = WITH_VALUE[type(value)](value)
                for one in self._with(value):
                    _set(one, "_value", kept)
                self._counts = None  # what is in it is held once more, where another container holds the plain one
            _set(proxy, "_value", kept)
            return kept
        return proxy if value is UNSET else value

    def _with(self, value: Any) -> list[Proxy]:
        """The proxies whose value this is."""
        if self._sharing is None:
            self._sharing = {}
            for one in self._given:
                self._sharing.setdefault(id(one._value), []).append(one)
        return [one for one in self._sharing.get(id(value), ()) if one._value is value]

    def _known(self, tensor: torch.Tensor, proxy: Proxy) -> int:
        """How often else a tensor is held by saved values, as themselves or in plain containers, and as a constant."""
        if self._counts is None:
            self._counts, seen = {}, set[int]()
            for held in (*[one._value for one in self._given], *self._captured):
                _count(held, self._counts, seen, 0)
            self._mine = {id(one) for one in self._given}
        return self._counts.get(id(tensor), 0) - (id(proxy) in self._mine)


def _count(value: Any, counts: dict[int, int], seen: set[int], depth: int) -> None:
    """How often tensors are saved values, or stand in plain containers among them."""
    if type(value) is torch.Tensor:
        counts[id(value)] = counts.get(id(value), 0) + 1
    elif isinstance(value, _CONTAINERS) and id(value) not in seen and depth <= _DEEP and len(counts) < _MOST:
        seen.add(id(value))
        parts: Iterable[Any] = dict.values(value) if isinstance(value, dict) else value
        for part in parts:
            _count(part, counts, seen, depth + 1)
        if isinstance(value, dict) and type(value) is not dict:  # an output of a model has its items as attributes, too
            for part in getattr(value, "__dict__", {}).values():
                _count(part, counts, seen, depth + 1)


def _shared(tensor: torch.Tensor) -> int:
    """How many references are torch's own: it has one while anything else of it, a graph for gradients or a view, holds the tensor."""
    return _OF_TORCH if tensor._use_count() > 1 else 0  # type: ignore[attr-defined]


def _references() -> int:
    def of(proxy: Any) -> int:
        value = proxy._value
        return sys.getrefcount(value)

    return of(Proxy(None, 0, torch.empty(0)))  # type: ignore[arg-type]


def _torchs() -> int:
    tensor = torch.empty(0)
    before = sys.getrefcount(tensor)
    view = tensor[:]
    return sys.getrefcount(tensor) - before if view._is_view() else 0


_ALONE = _references()
_OF_TORCH = _torchs()
