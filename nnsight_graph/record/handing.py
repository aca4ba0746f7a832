"""After a block: what was saved is handed over as the value it is, wherever the names of the block's frame reach.

A tensor gets a class that has ``value``; but not if it was there before the run, or belongs to others: a buffer, an input, a captured
tensor, a cache. Mostly nobody but its proxy has it, as the number of references to it says; else all of these are asked.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import torch

from ..ops.saved_values import WITH_VALUE, SavedTensor
from .exchange.blocks import exchange, left
from .proxy import Proxy
from .settled import UNSET

_KINDS: frozenset[type] = frozenset((Proxy, *Proxy.__subclasses__()))
_MOST = 10_000
_DEEP = 8
_set = object.__setattr__


def hand_over(
    frame: FrameType, offset: int | None, saved: dict[int, Proxy], refilled: tuple[tuple[Any, Any], ...], outside: tuple[Any, ...]
) -> None:
    """Exchange the saved proxies of a block that has ended for their values.

    Args:
        frame: The frame that left it.
        offset: The instruction with which it entered it; ``None`` if no ``with`` of its own did.
        saved: The proxies that were to be given a value, by node.
        refilled: Containers of the user's that the run has filled, which stay the objects that they were; and proxies that have the value
            of another one.
        outside: The constants of what was recorded, models, arguments: in them stand tensors that the run has not made.
    """
    given: list[Any] = [proxy for proxy in saved.values() if proxy._value is not UNSET]
    if refilled:
        given += [one for one, _ in refilled if type(one) in _KINDS and one._value is not UNSET and saved.get(one._index) is not one]
    if given:
        exchange(frame, offset, _KINDS, _Values(given, refilled, outside).of, given)


class _Values:
    """The values of one block: what proxies are exchanged for. Equal objects stay equal.

    Args:
        given: The proxies that it has given a value.
        refilled, outside: As for :func:`hand_over`.
    """

    __slots__ = ("_foreign", "_given", "_kept", "_outside")

    def __init__(self, given: list[Proxy], refilled: tuple[tuple[Any, Any], ...], outside: tuple[Any, ...]) -> None:
        self._given, self._outside = given, outside
        self._kept = {id(one): (one, one) for one, _ in refilled if isinstance(one, (list, dict))} if refilled else {}
        self._foreign: dict[int, int] | None = None

    def of(self, proxy: Any) -> Any:
        """What a proxy is exchanged for; itself where it has no value."""
        value = proxy._value
        kind = type(value)
        if kind is torch.Tensor:
            others = sys.getrefcount(value) - _ALONE
            if others <= 0 or self._is_made(value, others - (_OF_TORCH if value._use_count() > 1 else 0)):
                value.__class__ = SavedTensor
        elif kind in WITH_VALUE:
            known = self._kept.get(id(value))
            if known is None:
                known = self._kept[id(value)] = value, WITH_VALUE[kind](value)
            value = known[1]
            _set(proxy, "_value", value)
        return proxy if value is UNSET else value

    def _is_made(self, tensor: torch.Tensor, others: int) -> bool:
        """Whether a tensor that others have, so many, was made by the run, or is had by nobody else now."""
        if others <= 0:
            return True
        if self._foreign is None:
            self._foreign, seen = {}, set[int]()
            for one in self._outside:
                _note(list(one.buffers()) if isinstance(one, torch.nn.Module) else one, self._foreign, seen, True, 0)
                if one is self._outside[0]:  # a constant may be the value of a stand-in
                    for known in left.values():
                        self._foreign.pop(id(getattr(known(), "_value", None)), None)
            for proxy in self._given:
                _note(proxy._value, self._foreign, seen, False, 0)
        return others <= self._foreign.get(id(tensor), others)


def _note(value: Any, found: dict[int, int], seen: set[int], counts: bool, depth: int) -> None:
    """Count tensors in a value; where it does not count by itself, those that objects in it hold."""
    if isinstance(value, torch.Tensor):
        if counts:
            found[id(value)] = found.get(id(value), 0) + 1
        return
    if depth > _DEEP or isinstance(value, (str, int, float, type, torch.nn.Module)) or id(value) in seen or len(seen) > _MOST:
        return
    seen.add(id(value))
    parts: Any = dict.values(value) if isinstance(value, dict) else value
    if not isinstance(value, (list, tuple, dict)):
        cells = getattr(value, "__closure__", None) or ()
        counts, parts = True, [cell.cell_contents for cell in cells] + list(getattr(value, "__dict__", {}).values())
    for part in list(parts)[:_MOST]:
        _note(part, found, seen, counts, depth + 1)


def _references() -> int:
    def of(proxy: Any) -> int:
        value = proxy._value
        return sys.getrefcount(value)

    return of(Proxy(None, 0, torch.empty(0)))  # type: ignore[arg-type]


_ALONE = _references()
_tensor = torch.empty(0)
_before = sys.getrefcount(_tensor)
_view = _tensor[:]
_OF_TORCH = sys.getrefcount(_tensor) - _before  # a graph for gradients, or a view, holds it once
del _tensor, _view
