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
from .exchange.blocks import exchange
from .proxy import Proxy
from .settled import UNSET

_KINDS: frozenset[type] = frozenset((Proxy, *Proxy.__subclasses__()))
_CONTAINERS = (tuple, list, dict)
_MOST = 10_000
_DEEP = 10
_set = object.__setattr__


def hand_over(frame: FrameType, offset: int | None, saved: dict[int, Proxy], refilled: tuple[tuple[Any, Any], ...] = ()) -> None:
    """Exchange the saved proxies of a block that has ended for their values.

    Args:
        frame: The frame that left it.
        offset: The instruction with which it entered it; ``None`` if no ``with`` of its own did.
        saved: The proxies that were to be given a value, by node.
        refilled: Containers of the user's that the run has filled, which stay the objects that they were; and proxies that have the value
            of another one.
    """
    given = [proxy for proxy in saved.values() if proxy._value is not UNSET]
    if refilled:
        given += [proxy for proxy, _ in refilled if type(proxy) in _KINDS and proxy._value is not UNSET and saved.get(proxy._index) is not proxy]
    if given:
        _settle(given, tuple([container for container, _ in refilled if type(container) in (list, dict)]))
        exchange(frame, offset, _KINDS, _handed, given)


def _handed(proxy: Any) -> Any:
    """What a proxy is exchanged for; itself where it has no value."""
    value = proxy._value
    if value is UNSET:
        return proxy
    if type(value) in WITH_VALUE or type(value) is torch.Tensor:  # of an earlier block, which did not reach it
        _settle([proxy], ())
        value = proxy._value
    return value


def _settle(given: list[Proxy], own: tuple[Any, ...]) -> None:
    """Give the values of proxies the classes that have ``value``; equal objects stay equal."""
    doubtful = False
    others: list[Proxy] = []
    for proxy in given:
        value = proxy._value
        if type(value) is torch.Tensor:
            if sys.getrefcount(value) > _ALONE and sys.getrefcount(value) > _ALONE + _shared(value):
                doubtful = True
            else:
                value.__class__ = SavedTensor
        elif type(value) in WITH_VALUE:
            others.append(proxy)
    del value
    if doubtful:
        _settle_held(given)
    made: dict[int, Any] = {id(container): container for container in own}
    for proxy in others:
        value = proxy._value
        kept = made.get(id(value))
        if kept is None:
            kept = made[id(value)] = WITH_VALUE[type(value)](value)
        _set(proxy, "_value", kept)


def _settle_held(given: list[Proxy]) -> None:
    """The same for tensors that more than one of the saved values is, or holds."""
    counts: dict[int, int] = {}
    for proxy in given:
        _count(proxy._value, counts, 0)
    for proxy in given:
        value = proxy._value
        if type(value) is torch.Tensor and sys.getrefcount(value) < _ALONE + counts[id(value)] + _shared(value):
            value.__class__ = SavedTensor


def _count(value: Any, counts: dict[int, int], depth: int) -> None:
    """How often tensors are saved values, or stand in plain containers among them."""
    if type(value) is torch.Tensor:
        counts[id(value)] = counts.get(id(value), 0) + 1
    elif isinstance(value, _CONTAINERS) and depth <= _DEEP and len(counts) < _MOST:
        parts: Iterable[Any] = dict.values(value) if isinstance(value, dict) else value
        for part in parts:
            _count(part, counts, depth + 1)
        if isinstance(value, dict) and type(value) is not dict:  # an output of a model has its items as attributes, too
            for part in getattr(value, "__dict__", {}).values():
                _count(part, counts, depth + 1)


def _shared(tensor: torch.Tensor) -> int:
    """How many references are torch's own: it has one while anything else of it, a graph for gradients or a view, holds the tensor."""
    return _OF_TORCH if tensor._use_count() > 1 else 0


def _references() -> int:
    proxy = Proxy(None, 0, torch.empty(0))  # type: ignore[arg-type]
    for one in [proxy]:
        value = one._value
        return sys.getrefcount(value)
    raise AssertionError


def _torchs() -> int:
    tensor = torch.empty(0)
    before = sys.getrefcount(tensor)
    view = tensor[:]
    return sys.getrefcount(tensor) - before if view._is_view() else 0


_ALONE = _references()
_OF_TORCH = _torchs()
